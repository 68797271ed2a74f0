"""The operator ``cornernet_d2::soft_nms``: soft-NMS and merging of all groups of boxes at once.

C++ and CUDA (``csrc/``) supply kernels for the CPU and CUDA keys; everything else runs the form in
standard PyTorch operators below. Groups are independent, so in that form all of them take their
best box in the same round, on the tensor's device: as many rounds as the largest group has boxes,
or as may be taken of it, whatever the number of groups.

Letters: M boxes, G groups, L boxes of the largest group. Boxes are ``x0 y0 x1 y1``.
"""

import torch
from torch import Tensor

from .operators import LIBRARY

METHODS = ("gaussian", "linear", "hard")  # in the order of csrc/soft_nms.h

# Rounds on a CPU between two looks whether any group still has a box.
ROUNDS_PER_LOOK = 8


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    corner_scores: Tensor | None = None,
    *,
    method: str,
    sigma: float,
    iou_threshold: float,
    min_score: float,
    exponent: float = 1.0,
    max_picks: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS within each group; nothing waits for the device, nothing is differentiable.

    Each group takes its boxes best current score first (equal scores: first in the input). The
    taken box multiplies the scores of those not yet taken by a weight of their IoU:
    ``exp(-iou^2 / sigma)`` ("gaussian"), ``1 - iou`` above the threshold ("linear"), 0 above it
    ("hard"); those that sink to 0 or below ``min_score`` go. With corner scores it becomes the
    mean of itself (share 1) and of those not yet taken or gone (share
    ``(1 - weight) ** exponent``), weighted by the score of the coordinate's corner.

    So a group's boxes are taken in the order of their new scores, and the best ``max_picks`` boxes
    of all groups together are the same with that limit and without.

    Compiled and in standard operators the results agree but for rounding in the last bits (exp,
    pow, and the order of sums); "linear" and "hard" scores are bit-equal.

    Args:
        boxes: (M, 4), finite, pixels; a box's width is ``x1 - x0``.
        scores: (M,); those that are 0, negative or NaN go.
        groups: (M,) integers; boxes of different numbers never meet.
        corner_scores: (M, 2), of the top-left and bottom-right corner; None: do not merge.
        method: one of METHODS.
        sigma: of "gaussian", above 0.
        iou_threshold: of "linear" and "hard".
        min_score: least score of a box that stays.
        exponent: of the shares, above 0.
        max_picks: boxes that a group takes at most; the rest go. None: all.

    Returns:
        (M,) float32, the new score of each box, 0 for those that went; and (M, 4) float32, the
        boxes: merged if that was asked for, those that went as given.
    """
    groups, order = groups.long().sort(stable=True)
    if corner_scores is not None:
        corner_scores = corner_scores.detach().float().contiguous()
    return torch.ops.cornernet_d2.soft_nms(
        boxes.detach().float().contiguous(),
        scores.detach().float().contiguous(),
        groups,
        order,
        corner_scores,
        METHODS.index(method),
        sigma,
        iou_threshold,
        min_score,
        exponent,
        boxes.shape[0] if max_picks is None else max_picks,
    )


LIBRARY.define(
    "soft_nms(Tensor boxes, Tensor scores, Tensor groups, Tensor order, Tensor? corner_scores, "
    "int method, float sigma, float iou_threshold, float min_score, float exponent, "
    "SymInt max_picks) -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.register_fake("cornernet_d2::soft_nms", lib=LIBRARY)
def _(boxes: Tensor, scores: Tensor, *others: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(scores), torch.empty_like(boxes)


@torch.library.impl(LIBRARY, "soft_nms", "CompositeExplicitAutograd")
def _soft_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    order: Tensor,
    corner_scores: Tensor | None,
    method: int,
    sigma: float,
    iou_threshold: float,
    min_score: float,
    exponent: float,
    max_picks: int,
) -> tuple[Tensor, Tensor]:
    """The form in standard operators, of the same arguments and results as the kernels.

    Rows of matrices are groups, the largest first, their columns its boxes in the input's order;
    groups that have run out are left out. A box that is taken gets the score 0 in ``current``, so
    that no later round picks it, and its new score in the result.
    """
    scores = torch.where(scores >= min_score, scores, 0.0)
    members, sizes = _rows(torch.empty_like(groups).scatter_(0, order, groups), scores > 0)
    index = members.clamp(max=max(0, len(boxes) - 1))
    current = torch.where(members < len(boxes), scores[index], 0.0)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1, keepdim=True)
    rows = torch.cat((boxes, areas), dim=1)[index].permute(2, 0, 1).contiguous()  # (5, G, L)
    corners = None if corner_scores is None else _corner_rows(corner_scores, index)
    taken, values, means = [], [], []
    rounds, active = members.shape[1], len(sizes)
    for step in range(min(rounds, max_picks)):
        while sizes[active - 1] <= step:
            active -= 1
        score, row = current[:active], rows[:, :active]
        value, pick = score.max(dim=1, keepdim=True)
        if boxes.is_cpu and step % ROUNDS_PER_LOOK == 0 and not bool((value >= min_score).any()):
            break  # elsewhere each look would wait for the device
        taken.append(members[:active].gather(1, pick))
        values.append(value)
        best = row.gather(2, pick.expand(5, -1, -1))
        weights = _weights(_iou(best, row), METHODS[method], sigma, iou_threshold)
        if corners is not None:
            remains = (score > 0) & (score >= min_score)
            shares = ((1 - weights) ** exponent * remains).scatter_(1, pick, 1.0)
            shares = shares * corners[:, :active]
            means.append((row[:4] * shares).sum(2) / shares.sum(2))
        score.mul_(weights).scatter_(1, pick, 0.0)
    return _in_input_order(boxes, min_score, taken, values, means)


def _in_input_order(
    boxes: Tensor,
    min_score: float,
    taken: list[Tensor],
    values: list[Tensor],
    means: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """What :func:`_soft_nms` returns, from each round's picks (g, 1), scores (g, 1), boxes (4, g).

    Where a group had nothing left its pick has a score too low and may be any box.
    """
    # One more than there are boxes: what is no pick goes there.
    new_scores = boxes.new_zeros(len(boxes) + 1)
    merged = torch.cat((boxes, boxes.new_zeros(1, 4)))
    if taken:
        value = torch.cat(values).squeeze(1)
        stays = (value > 0) & (value >= min_score)
        box = torch.where(stays, torch.cat(taken).squeeze(1), len(boxes))
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
    column = rank_in_group(key)
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


def rank_in_group(groups: Tensor) -> Tensor:
    """(M,) int64, how many of the same group come before each; the input is sorted by group."""
    position = torch.arange(len(groups), device=groups.device)
    begins = torch.ones_like(groups, dtype=torch.bool)
    begins[1:] = groups[1:] != groups[:-1]
    return position - torch.where(begins, position, 0).cummax(0).values


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
    """The factor in [0, 1] that a taken box leaves of a score; see :func:`soft_nms`."""
    if method == "gaussian":
        return (iou * iou / -sigma).exp_()
    return torch.where(iou > iou_threshold, 1 - iou if method == "linear" else 0.0, 1.0)
