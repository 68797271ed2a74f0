"""Decoding: corner maps -> scored boxes (paper section 3.1 and 4.2).

Pure tensors without data-dependent shapes or Python loops, so that it traces, exports
(``torch.export``, ONNX) and runs under autocast: everything is float32 inside.

Letters: N images, C classes, h, w map (cells), P corners kept per side, K pairs kept.
Boxes are ``x0 y0 x1 y1`` in map pixels: the corner's cell plus its offset.
"""

import functools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

REJECTED = -1.0  # score of a pair that is no box

CornerMaps = Mapping[str, Tensor]


def decode_corners(
    maps: Mapping[str, CornerMaps],
    top_k: int = 100,
    nms_kernel: int = 3,
    embedding_threshold: float = 0.5,
    max_detections: int = 1000,
    *,
    origin: Tensor | None = None,
    keep_empty: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pair the best top-left with the best bottom-right corners.

    A corner is a cell that is the maximum of its neighbourhood (equal neighbours all stay); the
    ``top_k`` best of a side are taken over all classes together. A pair is rejected if its classes
    differ, its embeddings are further apart than the threshold, or the bottom-right corner lies
    left of or above the top-left one, offsets included. Its score is the mean of both corners'.

    The paper and the authors' code need no more than the defaults; ``origin`` and ``keep_empty``
    are what mmdetection does otherwise: it moves corners that lie in the padding onto the image's
    top-left edges first, and rejects boxes without area.

    Args:
        maps: ``{"tl": side, "br": side}``, each side a mapping of "heatmap" (N, C, h, w) logits,
            "embedding" (N, 1, h, w) and, optionally, "offset" (N, 2, h, w) as (x, y) in cells; any
            floating dtype.
        top_k: corners kept per side; clipped to the C * h * w there are.
        nms_kernel: odd side of the max filter, in cells; 1 keeps every cell.
        embedding_threshold: the largest distance of two embeddings that still belong together.
        max_detections: pairs kept per image, best first; clipped to the P * P there are.
        origin: (N, 2) x, y of the image's top-left corner on the map, in map pixels.
        keep_empty: whether a box of width or height 0 is kept.

    Returns:
        Best first: boxes (N, K, 4) float32 in map pixels, scores (N, K) float32 in [0, 1] or
        REJECTED (-1, at the end, in no defined order), classes (N, K) int64, and the scores of the
        top-left and the bottom-right corner (N, K, 2) float32.

    Raises:
        ValueError: ``nms_kernel`` is even.
    """
    if nms_kernel % 2 == 0:
        raise ValueError(f"nms_kernel must be odd, got {nms_kernel}")
    tl_scores, tl_classes, tl_embeddings, tl_xy = _top_corners(maps["tl"], top_k, nms_kernel)
    br_scores, br_classes, br_embeddings, br_xy = _top_corners(maps["br"], top_k, nms_kernel)
    if origin is not None:
        tl_xy, br_xy = torch.maximum(tl_xy, origin[:, None]), torch.maximum(br_xy, origin[:, None])

    # (N, P, P): rows are top-left corners. Comparisons are written so that NaN rejects.
    extent = br_xy[:, None] - tl_xy[:, :, None]
    is_box = (
        (tl_classes[:, :, None] == br_classes[:, None])
        & ((tl_embeddings[:, :, None] - br_embeddings[:, None]).abs() <= embedding_threshold)
        & (extent >= 0 if keep_empty else extent > 0).all(dim=-1)
    )
    scores = (tl_scores[:, :, None] + br_scores[:, None]) / 2
    scores = torch.where(is_box, scores, REJECTED).flatten(1)
    corners = br_xy.shape[1]
    scores, pairs = scores.topk(min(max_detections, scores.shape[1]))
    tl_index, br_index = _divide(pairs, corners)
    xy_index = (tl_index[..., None].expand(-1, -1, 2), br_index[..., None].expand(-1, -1, 2))
    boxes = torch.cat((tl_xy.gather(1, xy_index[0]), br_xy.gather(1, xy_index[1])), dim=-1)
    corner_scores = torch.stack((tl_scores.gather(1, tl_index), br_scores.gather(1, br_index)), -1)
    return boxes, scores, tl_classes.gather(1, tl_index), corner_scores


def _top_corners(
    side: CornerMaps, top_k: int, nms_kernel: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns scores, classes, embeddings (N, P) and positions x, y (N, P, 2) in map pixels."""
    heat = side["heatmap"].float().sigmoid()
    _, _, height, width = heat.shape
    # NaN is equal to nothing, so that it never becomes a corner.
    heat = torch.where(heat == _local_max(heat, nms_kernel), heat, 0.0).flatten(1)
    scores, index = heat.topk(min(top_k, heat.shape[1]))
    classes, cells = _divide(index, height * width)
    y, x = _divide(cells, width)
    embeddings = side["embedding"].float().flatten(1).gather(1, cells)
    xy = torch.stack((x, y), dim=-1).float()
    if side.get("offset") is not None:
        offsets = side["offset"].float().flatten(2)
        xy = xy + offsets.gather(2, cells[:, None].expand(-1, 2, -1)).transpose(1, 2)
    return scores, classes, embeddings, xy


def _local_max(heat: Tensor, kernel: int) -> Tensor:
    """Max filter of an odd kernel over (N, C, h, w) of numbers >= 0.

    Row and column apart, by shifted copies: six times as fast as max_pool2d on a CPU.
    """
    reach = kernel // 2
    for dim, padding in ((3, (reach, reach)), (2, (0, 0, reach, reach))):
        padded = F.pad(heat, padding)
        shifted = [padded.narrow(dim, shift, heat.shape[dim]) for shift in range(kernel)]
        heat = functools.reduce(torch.maximum, shifted)
    return heat


def _divide(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Integer quotient and remainder; without ``%``, which ONNX lacks for a dynamic size.

    Never through float32, which is inexact above 2^24 (80 classes of 458 x 458 cells).
    """
    quotient = torch.div(index, size, rounding_mode="floor")
    return quotient, index - quotient * size
