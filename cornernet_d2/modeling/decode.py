"""Decoding: corner maps -> scored boxes (paper section 3.1 and 4.2).

Pure tensors without data-dependent shapes or Python loops, so that it traces, exports
(``torch.export``, ONNX) and runs under autocast: everything is float32 inside.

Letters: N images, C classes, h, w map (cells), P corners kept per side, K pairs kept,
M pairs of all images.
Boxes are ``x0 y0 x1 y1`` in map pixels: the corner's cell plus its offset.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .center import CenterCheck
from .outputs import CORNERS, REJECTED, CornerMaps
from .pairing import Corners, EmbeddingPairing, Match, Pairing

__all__ = ["REJECTED", "Candidates", "Pairs", "decode_corners", "top_corners"]


class Pairs(NamedTuple):
    """Pairs of corners, best first.

    Attributes:
        boxes: (N, K, 4) float32, map pixels.
        scores: (N, K) float32 in [0, 1], or REJECTED (-1): these are at the end, in no defined
            order, and what else is said of them means nothing.
        corner_scores: (N, K, 2) float32, of the top-left and the bottom-right corner.
        classes: (N, K) int64.
    """

    boxes: Tensor
    scores: Tensor
    corner_scores: Tensor
    classes: Tensor


class Candidates(NamedTuple):
    """Boxes of all images, before or after soft-NMS.

    Attributes:
        boxes: (M, 4) float32, pixels of the image as given.
        scores: (M,) float32; REJECTED (-1) for what is no box.
        corner_scores: (M, 2) float32, of the top-left and bottom-right corners.
        classes: (M,) int64.
        images: (M,) int64, which image of the batch.
    """

    boxes: Tensor
    scores: Tensor
    corner_scores: Tensor
    classes: Tensor
    images: Tensor

    @classmethod
    def of(cls, pairs: Pairs, images: Tensor) -> "Candidates":
        """All pairs of N images, whose numbers ``images`` (N,) int64 has."""
        fields = (*pairs, images[:, None].expand_as(pairs.classes))
        return cls(*(field.flatten(0, 1) for field in fields))

    def take(self, index: Tensor) -> "Candidates":
        """Those that an index (integers, or a mask of M) says, in its order."""
        return Candidates(*(field[index] for field in self))


def decode_corners(
    maps: CornerMaps,
    top_k: int = 100,
    nms_kernel: int = 3,
    embedding_threshold: float = 0.5,
    max_detections: int = 1000,
    *,
    inside: Tensor | None = None,
    origin: Tensor | None = None,
    keep_empty: bool = False,
    pairing: Pairing | None = None,
    cell_size: Sequence[float] = (4.0, 4.0),
    center: CenterCheck | None = None,
) -> Pairs:
    """Pair the best top-left with the best bottom-right corners.

    A corner is a cell that is the maximum of its neighbourhood (equal neighbours all stay); the
    best of a side are taken over all classes together. A pair is rejected if its classes differ,
    the pairing's rule rejects it (by default: its embeddings are further apart than the threshold),
    or its bottom-right corner does not lie right of and below the top-left one, offsets included.
    Its score is the mean of its corners', times the rule's weight if it has one. Of the pairs kept,
    a centre check then rejects those without a centre, which are found as corners are.

    Args:
        maps: "tl" and "br", each with "heatmap" (N, C, h, w) logits, the pairing's outputs (by
            default "embedding" (N, 1, h, w)) and, optionally, "offset" (N, 2, h, w) as (x, y) in
            cells; any floating dtype.
        top_k: corners kept per side; clipped to the C * h * w there are.
        nms_kernel: odd side of the max filter, in cells; 1 keeps every cell.
        embedding_threshold: the largest distance of embeddings that belong together; without
            ``pairing`` alone.
        max_detections: pairs kept per image; clipped to the P * P there are.
        inside: (N, h, w) bool, the cells that corners are taken from; None: all.
        origin: (N, 2) x, y of the image's top-left corner on the map, map pixels. Corners left of
            or above it are moved onto it before pairing, as MMDetection does; None: they are not.
        keep_empty: keep boxes of width or height 0, as the authors do.
        pairing: whose outputs are in the maps, and whose rule is to decide; None: embeddings.
        cell_size: (x, y) canvas pixels of a cell, for rules that know areas in pixels.
        center: the check, of maps that have "center", too: "heatmap" and "offset"; None: there is
            none.

    Raises:
        ValueError: ``nms_kernel`` is even.
    """
    if nms_kernel % 2 == 0:
        raise ValueError(f"nms_kernel must be odd, got {nms_kernel}")
    pairing = pairing or EmbeddingPairing(threshold=embedding_threshold)
    names = pairing.decoded
    where = top_k, nms_kernel, inside, origin
    tl, br = (top_corners(maps[corner], names, *where) for corner in CORNERS)
    match = pairing.match(tl, br, cell_size=cell_size, origin=origin)
    scores = _pair_scores(tl, br, match, keep_empty).flatten(1)
    scores, pairs = scores.topk(_at_most(max_detections, scores.shape[1]))
    tl_index, br_index = _divide(pairs, br.scores.shape[1])
    boxes = torch.cat((_gather_xy(tl, tl_index), _gather_xy(br, br_index)), dim=-1)
    corner_scores = torch.stack((tl.scores.gather(1, tl_index), br.scores.gather(1, br_index)), -1)
    pairs = Pairs(boxes, scores, corner_scores, tl.classes.gather(1, tl_index))
    if center is None:
        return pairs
    centers = top_corners(maps["center"], (), *where)
    return _sorted(pairs, center(boxes, scores, pairs.classes, centers, cell_size))


def top_corners(
    side: dict[str, Tensor],
    names: Sequence[str],
    top_k: int,
    nms_kernel: int,
    inside: Tensor | None = None,
    origin: Tensor | None = None,
) -> Corners:
    """The best corners of a side, or centres; arguments as of :func:`decode_corners`."""
    heat = side["heatmap"].float().sigmoid()
    _, _, height, width = heat.shape
    nothing: Tensor | float = 0.0
    if inside is not None:  # before the max filter, in which the other cells have no say
        nothing = torch.where(inside, 0.0, -torch.inf)[:, None]
        heat = torch.where(inside[:, None], heat, -torch.inf)
    # NaN is equal to nothing, so that it never becomes a corner.
    heat = torch.where(heat == _local_max(heat, nms_kernel), heat, nothing).flatten(1)
    scores, index = heat.topk(_at_most(top_k, heat.shape[1]))
    classes, cells = _divide(index, height * width)
    y, x = _divide(cells, width)
    values = {name: _at(side[name], cells) for name in names}
    predicted = torch.stack((x, y), dim=-1).float()
    if side.get("offset") is not None:
        predicted = predicted + _at(side["offset"], cells)
    xy = predicted if origin is None else torch.maximum(predicted, origin[:, None])
    return Corners(scores, classes, xy, predicted, values)


def _sorted(pairs: Pairs, scores: Tensor) -> Pairs:
    """The pairs with these scores (N, K), best first."""
    scores, order = scores.topk(scores.shape[1])
    boxes = pairs.boxes.gather(1, order[..., None].expand(-1, -1, 4))
    corner_scores = pairs.corner_scores.gather(1, order[..., None].expand(-1, -1, 2))
    return Pairs(boxes, scores, corner_scores, pairs.classes.gather(1, order))


def _at(x: Tensor, cells: Tensor) -> Tensor:
    """Values of (N, D, h, w) at flat cells (N, P) of each image: (N, P, D) float32."""
    x = x.float().flatten(2)
    return x.gather(2, cells[:, None].expand(-1, x.shape[1], -1)).transpose(1, 2)


def _pair_scores(tl: Corners, br: Corners, match: Match, keep_empty: bool) -> Tensor:
    """(N, P, P), rows are top-left corners: scores, REJECTED where the two are no box."""
    extent = br.xy[:, None] - tl.xy[:, :, None]
    # What must hold, rather than what must not: comparisons with NaN are false.
    scores = (tl.scores[:, :, None] + br.scores[:, None]) / 2
    is_box = (
        (scores >= 0)
        & (tl.classes[:, :, None] == br.classes[:, None])
        & match.accepted
        & (extent >= 0 if keep_empty else extent > 0).all(dim=-1)
    )
    if match.weight is not None:
        scores = scores * match.weight
    return torch.where(is_box, scores, REJECTED)


def _gather_xy(corners: Corners, index: Tensor) -> Tensor:
    return corners.xy.gather(1, index[..., None].expand(-1, -1, 2))


def _local_max(heat: Tensor, kernel: int) -> Tensor:
    """Max filter of an odd kernel over (N, C, h, w) of numbers >= 0, or -inf.

    Row and column apart, by shifted copies: six times as fast as max_pool2d on a CPU.
    """
    reach = kernel // 2
    for dim, padding in ((3, (reach, reach)), (2, (0, 0, reach, reach))):
        padded = F.pad(heat, padding)
        shifted = [padded.narrow(dim, shift, heat.shape[dim]) for shift in range(kernel)]
        heat = functools.reduce(torch.maximum, shifted)
    return heat


def _at_most(limit: int, size: int | Tensor) -> int | Tensor:
    """The smaller of the two. torch.jit's tracer has tensors for sizes, and follows this one."""
    return size.clamp(max=limit) if isinstance(size, Tensor) else min(limit, size)


def _divide(index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Integer quotient and remainder; without ``%``, which ONNX lacks for a dynamic size.

    Never through float32, which is inexact above 2^24 (80 classes of 458 x 458 cells).
    """
    quotient = torch.div(index, size, rounding_mode="floor")
    return quotient, index - quotient * size
