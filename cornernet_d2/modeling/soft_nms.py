"""Soft-NMS (Bodla et al., arXiv 1704.04503) over all classes and images at once.

Every (image, class) is a group. Groups are independent, so all of them take their best box in the
same round, on the tensor's device: as many rounds as the largest group has boxes, or as boxes are
wanted of an image, whatever the number of groups.

Letters: M boxes, G groups, L boxes of the largest group. Boxes are ``x0 y0 x1 y1`` in pixels.
"""

import torch
from torch import Tensor

METHODS = ("gaussian", "linear", "hard")

# Rounds on a CPU between two looks whether any group still has a box.
ROUNDS_PER_LOOK = 8


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
    boxes, scores = boxes.float(), scores.float()
    # An image's best K boxes are among the best K of its classes: a group's scores only fall.
    new_scores, merged = _take(
        boxes,
        torch.where(scores >= min_score, scores, 0.0),
        _numbered(images, classes),
        max_detections,
        method=method,
        sigma=sigma,
        iou_threshold=iou_threshold,
        min_score=min_score,
        corner_scores=corner_scores,
        exponent=exponent,
    )
    stays = (new_scores >= min_score) & (new_scores > 0)
    order = torch.where(stays, new_scores, 0.0).sort(descending=True, stable=True).indices
    order = order[images[order].sort(stable=True).indices]
    stays = stays[order]
    if max_detections is not None:
        stays &= _rank(images[order]) < max_detections
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


def _rank(groups: Tensor) -> Tensor:
    """(M,) int64, how many of the same group come before each; the input is sorted by group."""
    position = torch.arange(len(groups), device=groups.device)
    begins = torch.ones_like(groups, dtype=torch.bool)
    begins[1:] = groups[1:] != groups[:-1]
    return position - torch.where(begins, position, 0).cummax(0).values


def _take(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    max_picks: int | None,
    *,
    method: str,
    sigma: float,
    iou_threshold: float,
    min_score: float,
    corner_scores: Tensor | None,
    exponent: float | None,
) -> tuple[Tensor, Tensor]:
    """Take boxes in rounds; in the input's order and size.

    Rows of matrices are groups, the largest first, their columns its boxes in the input's order;
    groups that have run out are left out. A box that is taken gets the score 0 in ``current``, so
    that no later round picks it, and its new score in the result.

    Args:
        groups: (M,) int64; boxes of a score of 0 belong to none.
        max_picks: boxes taken of each group at most; None: all.

    Returns:
        (M,) the score with which each box was taken, 0 if it never was, and (M, 4) the boxes,
        merged if they are to be.
    """
    members, sizes = _rows(groups, scores > 0)
    index = members.clamp(max=max(0, len(boxes) - 1))
    current = torch.where(members < len(boxes), scores[index], 0.0)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1, keepdim=True)
    rows = torch.cat((boxes, areas), dim=1)[index].permute(2, 0, 1).contiguous()  # (5, G, L)
    corners = None if corner_scores is None else _corner_rows(corner_scores, index)
    taken, values, means = [], [], []
    rounds, active = members.shape[1], len(sizes)
    for step in range(rounds if max_picks is None else min(rounds, max_picks)):
        while sizes[active - 1] <= step:
            active -= 1
        score, row = current[:active], rows[:, :active]
        value, pick = score.max(dim=1, keepdim=True)
        if boxes.is_cpu and step % ROUNDS_PER_LOOK == 0 and not bool((value >= min_score).any()):
            break  # elsewhere each look would wait for the device
        taken.append(members[:active].gather(1, pick))
        values.append(value)
        best = row.gather(2, pick.expand(5, -1, -1))
        weights = _weights(_iou(best, row), method, sigma, iou_threshold)
        if corners is not None and exponent is not None:
            remains = (score > 0) & (score >= min_score)
            shares = ((1 - weights) ** exponent * remains).scatter_(1, pick, 1.0)
            shares = shares * corners[:, :active]
            means.append((row[:4] * shares).sum(2) / shares.sum(2))
        score.mul_(weights).scatter_(1, pick, 0.0)
    return _in_input_order(boxes, taken, values, means)


def _in_input_order(
    boxes: Tensor, taken: list[Tensor], values: list[Tensor], means: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """What :func:`_take` returns, from the picks (g, 1), scores (g, 1) and boxes (4, g) of rounds.

    Where a group had nothing left its pick has the score 0 and may be any box.
    """
    # One more than there are boxes: what is no pick goes there.
    new_scores = boxes.new_zeros(len(boxes) + 1)
    merged = torch.cat((boxes, boxes.new_zeros(1, 4)))
    if taken:
        value = torch.cat(values).squeeze(1)
        box = torch.where(value > 0, torch.cat(taken).squeeze(1), len(boxes))
        new_scores[box] = value
        if means:
            merged[box] = torch.cat(means, dim=1).T
    return new_scores[:-1], merged[:-1]


def _rows(groups: Tensor, used: Tensor) -> tuple[Tensor, list[int]]:
    """Lay out the boxes of each group as one row, largest group first, input order inside.

    Args:
        groups: (M,) int64.
        used: (M,) bool; the other boxes are left out.

    Returns:
        (G, L) int64 indices into the boxes, M where a row has ended, and the G sizes.
    """
    count = len(groups)
    # Sorted by group, what is not used last; then each group under its first box's place.
    key, box = torch.where(used, groups, torch.iinfo(torch.int64).max).sort(stable=True)
    column = _rank(key)
    row = (column == 0).cumsum(0) - 1
    per_group = torch.zeros_like(key).scatter_add_(0, row, used[box].long())
    per_group, by_size = per_group.sort(descending=True, stable=True)
    sizes = [size for size in per_group.tolist() if size]  # the one look at the device's numbers
    row_of_group = torch.empty_like(by_size).scatter_(
        0, by_size, torch.arange(count, device=key.device)
    )
    members = key.new_full((len(sizes), max(sizes, default=0)), count)
    total = sum(sizes)
    members[row_of_group[row[:total]], column[:total]] = box[:total]
    return members, sizes


def _corner_rows(corner_scores: Tensor, index: Tensor) -> Tensor:
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


def _weights(iou: Tensor, method: str, sigma: float, iou_threshold: float) -> Tensor:
    """The factor in [0, 1] that a taken box leaves of a score; see :func:`batched_soft_nms`."""
    if method == "gaussian":
        return (iou * iou / -sigma).exp_()
    return torch.where(iou > iou_threshold, 1 - iou if method == "linear" else 0.0, 1.0)
