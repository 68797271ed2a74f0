"""Soft-NMS (Bodla et al., arXiv 1704.04503) over all classes and images at once.

Every (image, class) is a group of :func:`cornernet_d2.layers.soft_nms`; here its boxes are sorted.
"""

import torch
from torch import Tensor

from ..layers.soft_nms import METHODS, rank_in_group, soft_nms


def batched_soft_nms(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    method: str = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.5,
    min_score: float = 0.001,
    *,
    images: Tensor | None = None,
    corner_scores: Tensor | None = None,
    exponent: float | None = None,
    max_detections: int | None = None,
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]:
    """Lower each box's score by its overlap with better boxes of its class, and sort.

    Boxes are taken best current score first (equal scores: first in the input). The taken box
    multiplies the scores of those not yet taken by a weight of their IoU: ``exp(-iou^2 / sigma)``
    ("gaussian"), ``1 - iou`` above the threshold ("linear"), 0 above it ("hard").

    With ``corner_scores`` and ``exponent`` a taken box also becomes the mean of itself (share 1)
    and of the boxes not yet taken or dropped (share ``(1 - weight) ** exponent``), its top-left
    corner weighted by their top-left scores, its bottom-right corner by their bottom-right scores:
    the authors' ``merge_bbox``.

    Args:
        boxes: (M, 4), pixels; a box's width is ``x1 - x0``.
        scores: (M,); boxes of a score of 0 or less, or NaN, are dropped.
        classes: (M,) integers; boxes of different classes never meet.
        method: one of METHODS.
        sigma: width of the Gaussian weight, above 0.
        iou_threshold: for "linear" and "hard".
        min_score: boxes whose score sinks below are dropped; so are those that sink to 0.
        images: (M,) integers, the image of each box; boxes of different images never meet.
            None: all are of one.
        corner_scores: (M, 2), of the top-left and bottom-right corners.
        exponent: above 0; the authors use 8, and 10 with several scales.
        max_detections: boxes kept of each image; None: all. Fewer cost less, and are those that
            come first when all are kept.

    Returns:
        (K,) int64, the boxes that stay, image after image and best new score first, (K,) float32,
        their new scores, and with ``exponent`` (K, 4) float32, the merged boxes.

    Raises:
        ValueError: the method is unknown, sigma or exponent is not above 0, or only one of
            ``corner_scores`` and ``exponent`` is given.
    """
    check_settings(method, sigma, exponent)
    if (corner_scores is None) != (exponent is None):
        raise ValueError("merging boxes needs both corner_scores and exponent")
    if images is None:
        images = torch.zeros_like(classes)
    # An image's best K boxes are among the best K of its classes: a group's scores only fall.
    new_scores, merged = soft_nms(
        boxes,
        scores,
        _numbered(images, classes),
        corner_scores,
        method=method,
        sigma=sigma,
        iou_threshold=iou_threshold,
        min_score=min_score,
        exponent=1.0 if exponent is None else exponent,
        max_picks=max_detections,
    )
    order = new_scores.sort(descending=True, stable=True).indices
    order = order[images[order].sort(stable=True).indices]
    stays = new_scores[order] > 0
    if max_detections is not None:
        stays &= rank_in_group(images[order]) < max_detections
    keep = order[stays]
    if exponent is None:
        return keep, new_scores[keep]
    return keep, new_scores[keep], merged[keep]


def check_settings(method: str, sigma: float, exponent: float | None = None) -> None:
    """Raises ValueError for an unknown method, or a sigma or exponent that is not above 0."""
    if method not in METHODS:
        raise ValueError(f"soft-NMS method must be one of {METHODS}, got {method!r}")
    if not sigma > 0:
        raise ValueError(f"soft-NMS sigma must be above 0, got {sigma}")
    if exponent is not None and not exponent > 0:
        raise ValueError(f"merge exponent must be above 0, got {exponent}")


def _numbered(images: Tensor, classes: Tensor) -> Tensor:
    """(M,) int64, a number of its own for every (image, class)."""
    if not len(classes):
        return classes.long()
    low, high = classes.aminmax()
    return images.long() * (high - low + 1) + (classes - low)
