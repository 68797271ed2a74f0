"""Soft-NMS (Bodla et al., arXiv 1704.04503) over all classes and images at once.

Every (image, class) is a group. Groups are independent, so all of them take their best box in the
same round, on the tensor's device: as many rounds as the largest group has boxes, whatever the
number of groups, and smaller groups leave the computation when they are through.

Letters: M boxes, G groups, L boxes of the largest group. Boxes are ``x0 y0 x1 y1`` in pixels.
"""

import torch
from torch import Tensor

METHODS = ("gaussian", "linear", "hard")

# Rounds between two looks whether any group still has a box: each look waits for the device.
ROUNDS_PER_CHECK = 8


def batched_soft_nms(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    method: str = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.5,
    min_score: float = 0.001,
) -> tuple[Tensor, Tensor]:
    """Lower each box's score by its overlap with better boxes of its class.

    Boxes are taken best current score first (equal scores: first in the input). The taken box
    multiplies the scores of those not yet taken by a weight of their IoU: ``exp(-iou^2 / sigma)``
    ("gaussian"), ``1 - iou`` above the threshold ("linear"), 0 above it ("hard").

    Args:
        boxes: (M, 4), pixels; a box's width is ``x1 - x0``.
        scores: (M,), above 0.
        classes: (M,) integers; boxes of different numbers never meet. For the boxes of a batch
            pass ``image * num_classes + class``.
        method: one of METHODS.
        sigma: width of the Gaussian weight, above 0.
        iou_threshold: for "linear" and "hard".
        min_score: boxes whose score sinks below are dropped; so are those that sink to 0.

    Returns:
        (K,) int64, the boxes that stay, best new score first, and (K,) float32, their new scores.

    Raises:
        ValueError: the method is unknown, or sigma is not above 0.
    """
    keep, new_scores, _ = _soft_nms(
        boxes, scores, None, classes, method, sigma, iou_threshold, min_score, None
    )
    return keep, new_scores


def batched_soft_nms_merge(
    boxes: Tensor,
    scores: Tensor,
    corner_scores: Tensor,
    classes: Tensor,
    method: str = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.5,
    min_score: float = 0.001,
    exponent: float = 10.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Soft-NMS that also averages each box that stays with those it overlaps.

    A taken box becomes the mean of itself (share 1) and of the boxes not yet taken or dropped
    (share ``(1 - soft-NMS weight) ** exponent``), its top-left corner weighted by their top-left
    scores, its bottom-right corner by their bottom-right scores: the authors' ``merge_bbox``.

    Args:
        corner_scores: (M, 2), of the top-left and bottom-right corners.
        exponent: above 0; the authors use 8, and 10 with several scales.
        boxes, scores, classes, method, sigma, iou_threshold, min_score: as in
            :func:`batched_soft_nms`.

    Returns:
        As :func:`batched_soft_nms`, and (K, 4) float32, the merged boxes.

    Raises:
        ValueError: the method is unknown, or sigma or exponent is not above 0.
    """
    return _soft_nms(
        boxes, scores, corner_scores, classes, method, sigma, iou_threshold, min_score, exponent
    )


def padded_groups(classes: Tensor) -> tuple[Tensor, list[int]]:
    """Lay out the boxes of each class as one row, largest class first, input order inside.

    Args:
        classes: (M,) integers, M > 0.

    Returns:
        (G, L) int64 indices into the boxes, -1 where a row has ended, and for each column the
        number of rows that have not.
    """
    _, group, sizes = classes.unique(return_inverse=True, return_counts=True)
    sizes, by_size = sizes.sort(descending=True, stable=True)
    row_of_group = torch.empty_like(by_size)
    row_of_group[by_size] = torch.arange(len(by_size), device=classes.device)
    row, box = row_of_group[group].sort(stable=True)
    column = torch.arange(len(box), device=classes.device) - (sizes.cumsum(0) - sizes)[row]
    longest = int(sizes[0])
    members = box.new_full((len(sizes), longest), -1)
    members[row, column] = box
    columns = torch.arange(longest, device=classes.device)
    return members, torch.searchsorted(-sizes, -columns).tolist()


def corner_rows(corner_scores: Tensor, index: Tensor) -> Tensor:
    """(M, 2) and (G, L) to (4, G, L): the score of the corner that each coordinate belongs to."""
    # Above 0, since means divide by their sum; a map with few peaks gives corners of score 0.
    scores = corner_scores.float().clamp(min=1e-12).repeat_interleave(2, dim=1)
    return scores[index].permute(2, 0, 1).contiguous()


def _iou(box: Tensor, others: Tensor) -> Tensor:
    """IoU of one box of each group (5, G, 1) with all its boxes (5, G, L): (G, L).

    The fifth row is the area.
    """
    start, end = torch.maximum(box[:2], others[:2]), torch.minimum(box[2:4], others[2:4])
    width, height = (end - start).clamp_(min=0)
    intersection = width * height
    # Two boxes without area have no union either; any positive number makes their IoU 0.
    union = (box[4] + others[4] - intersection).clamp_(min=torch.finfo(torch.float32).tiny)
    return intersection / union


def decay(iou: Tensor, method: str, sigma: float, iou_threshold: float) -> Tensor:
    """The factor in [0, 1] that a taken box leaves of a score; see :func:`batched_soft_nms`."""
    if method == "gaussian":
        return (iou * iou / -sigma).exp_()
    return torch.where(iou > iou_threshold, 1 - iou if method == "linear" else 0.0, 1.0)


def check_settings(method: str, sigma: float, merge_exponent: float | None = None) -> None:
    """Raises ValueError for an unknown method, or a sigma or exponent that is not above 0."""
    if method not in METHODS:
        raise ValueError(f"soft-NMS method must be one of {METHODS}, got {method!r}")
    if not sigma > 0:
        raise ValueError(f"soft-NMS sigma must be above 0, got {sigma}")
    if merge_exponent is not None and not merge_exponent > 0:
        raise ValueError(f"merge exponent must be above 0, got {merge_exponent}")


def _soft_nms(
    boxes: Tensor,
    scores: Tensor,
    corner_scores: Tensor | None,
    classes: Tensor,
    method: str,
    sigma: float,
    iou_threshold: float,
    min_score: float,
    exponent: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What :func:`batched_soft_nms_merge` returns; boxes as given if ``corner_scores`` is None."""
    check_settings(method, sigma, exponent)
    boxes, scores = boxes.float(), scores.float().nan_to_num(nan=0.0)
    if len(boxes) == 0:
        return classes.long(), scores, boxes
    members, active_rows = padded_groups(classes)
    index = members.clamp(min=0)
    current = torch.where(members >= 0, scores[index], 0.0)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1, keepdim=True)
    rows = torch.cat((boxes, areas), dim=1)[index].permute(2, 0, 1).contiguous()
    corners = None if corner_scores is None else corner_rows(corner_scores, index)
    taken, best, merged = [], [], []
    for step, active in enumerate(active_rows):
        score, row = current[:active], rows[:, :active]
        value, pick = score.max(dim=1, keepdim=True)
        if step and step % ROUNDS_PER_CHECK == 0 and not bool((value >= min_score).any()):
            break
        taken.append(members[:active].gather(1, pick))
        best.append(value)
        weights = decay(
            _iou(row.gather(2, pick.expand(5, -1, -1)), row), method, sigma, iou_threshold
        )
        if corners is not None:
            remains = (score > 0) & (score >= min_score)
            shares = ((1 - weights) ** exponent * remains).scatter_(1, pick, 1.0)
            shares = shares * corners[:, :active]
            merged.append((row[:4] * shares).sum(2) / shares.sum(2))
        score.mul_(weights).scatter_(1, pick, 0.0)
    box = torch.cat(taken).squeeze(1)
    boxes = torch.cat(merged, dim=1).T if merged else boxes[box]
    return _best_first(box, torch.cat(best).squeeze(1), boxes, min_score)


def _best_first(
    taken: Tensor, scores: Tensor, boxes: Tensor, min_score: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Sort by score, equal scores by input; without what a group that has run out takes, all 0."""
    stays = (scores >= min_score) & (scores > 0)
    taken, by_input = taken[stays].sort()
    scores, order = scores[stays][by_input].sort(descending=True, stable=True)
    return taken[order], scores, boxes[stays][by_input][order]
