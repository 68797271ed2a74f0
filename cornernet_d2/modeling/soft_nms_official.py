"""The authors' soft-NMS with its known bugs, for bit parity with their results.

Their loop works in place on the array of one class: it swaps the best remaining row to the front,
lowers the scores behind it, and fills the row of a box that falls below the threshold with the
last row. It differs from :mod:`soft_nms` in what follows; all of it is reproduced here:

1. Widths and heights count one pixel more (``x1 - x0 + 1``).
2. The caller ignores how many rows stay, so all M rows are returned. The rows behind the last one
   that stays hold stale copies: boxes that moved to the front, with the score they had then.
   With "hard", where every suppressed box falls below the threshold, that undoes the suppression.
3. A box below the threshold goes only when it overlaps a taken box.
4. Swaps and fills move the box and its score but not the two corner scores, which therefore
   belong to the row: merging weights a box by the corner scores of whichever row it came to.

One sweep of that loop is expressed without walking through the rows, so that all groups make it at
once: see :func:`_refill`. Letters as in :mod:`soft_nms`; columns of (G, L) are the rows of the
authors' array.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .soft_nms import ROUNDS_PER_CHECK, check_settings, corner_rows, decay, padded_groups


class OfficialRows(NamedTuple):
    """The authors' arrays after soft-NMS, one class after the other in ascending order.

    Attributes:
        boxes: (M, 4) float32, pixels; merged boxes if asked for.
        scores: (M,) float32.
        classes: (M,) the input's classes, sorted.
        stays: (M,) bool, False for the stale rows.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    stays: Tensor


def official_soft_nms(
    boxes: Tensor,
    scores: Tensor,
    corner_scores: Tensor,
    classes: Tensor,
    method: str = "gaussian",
    sigma: float = 0.5,
    iou_threshold: float = 0.5,
    min_score: float = 0.001,
    merge_exponent: float | None = None,
) -> OfficialRows:
    """What ``soft_nms`` and ``soft_nms_merge`` of the authors leave in each class's array.

    Args:
        boxes: (M, 4), pixels.
        scores: (M,).
        corner_scores: (M, 2), of the top-left and the bottom-right corner; used in merging only.
        classes: (M,) integers; for the boxes of a batch pass ``image * num_classes + class``.
        method, sigma, iou_threshold, min_score: as in :func:`soft_nms.batched_soft_nms`.
        merge_exponent: merge boxes with this exponent (the authors': 8, or 10); None: do not.

    Raises:
        ValueError: the method is unknown, or sigma or merge_exponent is not above 0.
    """
    check_settings(method, sigma, merge_exponent)
    boxes, scores = boxes.float(), scores.float()
    if len(boxes) == 0:
        return OfficialRows(boxes, scores, classes, torch.zeros_like(classes, dtype=torch.bool))
    members, active_rows = padded_groups(classes)
    real, index = members >= 0, members.clamp(min=0)
    original = boxes[index].permute(2, 0, 1).contiguous()  # (4, G, L)
    corners = corner_rows(corner_scores, index)
    current, end = scores[index], real.sum(1, keepdim=True)
    weigh = functools.partial(_weights, method=method, sigma=sigma, iou_threshold=iou_threshold)
    rows = _sweep(original, corners, current, end, active_rows, weigh, min_score, merge_exponent)
    # Back to the order of classes; inside a class, of rows.
    classes, by_class = classes[index[real]].sort(stable=True)
    return OfficialRows(
        rows[:, real].T[by_class],
        current[real][by_class],
        classes,
        _before(end, current)[real][by_class],
    )


def _sweep(
    original: Tensor,
    corners: Tensor,
    current: Tensor,
    end: Tensor,
    active_rows: list[int],
    weigh: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    min_score: float,
    merge_exponent: float | None,
) -> Tensor:
    """Make all sweeps; returns (4, G, L), the box of each row, merged if asked for.

    Args:
        original: (4, G, L), the boxes at the start; they never change, what moves is an index.
        corners: (4, G, L), for each coordinate the score of its corner; these stay in their row.
        current: (G, L), scores; changed in place.
        end: (G, 1), how many rows stay; changed in place.
        active_rows: for each column, the number of groups that have one.
        weigh: :func:`_weights`.
    """
    held = torch.arange(current.shape[1], device=current.device).repeat(len(current), 1)
    means = []
    for first, active in enumerate(active_rows):
        left = end[:active] - first  # rows that stay from this one on
        if first % ROUNDS_PER_CHECK == 0 and not bool((left > 1).any()):
            break
        ids, score = held[:active, first:], current[:active, first:]
        _best_to_front(ids, score, left)
        row = original[:, :active].gather(2, ids.expand(4, -1, -1))
        weights, hit = weigh(row, left)
        lowered = torch.where(hit, weights * score, score)
        dropped = hit & (lowered < min_score)
        corner = corners[:, :active, first:]
        if bool(dropped.any()):
            refill = _refill(dropped, left)
            corner = corner.gather(2, refill.row_of.expand(4, -1, -1))
            ids.copy_(ids.gather(1, refill.source))
            lowered = torch.where(refill.written, lowered.gather(1, refill.source), score)
            end[:active] = refill.end + first
        score.copy_(lowered)
        if merge_exponent is not None:
            shares = (1 - weights) ** merge_exponent * hit
            shares[:, 0] = 1.0
            shares = shares * corner
            means.append((row * shares).sum(2) / shares.sum(2))
    rows = original.gather(2, held.expand(4, -1, -1))
    for first, mean in enumerate(means):
        rows[:, : mean.shape[1], first] = mean
    return rows


class _Refill(NamedTuple):
    """What a sweep does to the rows of each group; all (G, L) but ``end`` (G, 1).

    Attributes:
        row_of: the row in which the box of each row gets its new score.
        source: the row whose box each row holds afterwards.
        written: whether the row holds a new score afterwards.
        end: how many rows stay.
    """

    row_of: Tensor
    source: Tensor
    written: Tensor
    end: Tensor


def _refill(dropped: Tensor, end: Tensor) -> _Refill:
    """Work out where the authors' sweep moves boxes, from which of them it drops.

    The sweep goes forward; where it drops a box it lowers the end, brings the last box to the
    free row and goes on there, until a box stays or the end is reached. So the rows that become
    free before the new end, front to back, receive the boxes behind it, back to front: a box
    behind the new end is brought to the free row of rank r if r boxes that stay lie behind it.
    Past the last such row, boxes are brought to the row of the new end and dropped there.

    Args:
        dropped: (G, L) bool, the rows before ``end`` whose boxes fall below the threshold.
        end: (G, 1), how many rows stayed so far.
    """
    position = torch.arange(dropped.shape[1], device=dropped.device).expand_as(dropped)
    length = dropped.shape[1]
    swept = position < end
    end = end - dropped.sum(1, keepdim=True)
    behind = swept & (position >= end)
    stays_behind = (behind & ~dropped).long()
    rank = stays_behind.flip(1).cumsum(1).flip(1) - stays_behind
    free = dropped & ~behind
    free_row = end.repeat(1, length + 1)  # by rank; the last column takes what is no free row
    free_row.scatter_(1, torch.where(free, free.cumsum(1) - 1, length), position)
    row_of = torch.where(behind, free_row.gather(1, rank), position)
    # A row keeps what came last: the frontmost of the boxes brought to it, else its own.
    brought = torch.where(row_of == position, length, position)
    source = torch.full_like(position, length).scatter_reduce_(1, row_of, brought, "amin")
    source = torch.where(source == length, position, source)
    return _Refill(row_of, source, swept & (row_of == position), end)


def _best_to_front(ids: Tensor, score: Tensor, left: Tensor) -> None:
    """Swap, in place, the first row of each group with the best of its first ``left`` rows."""
    pick = torch.where(_before(left, score), score, -torch.inf).argmax(1, keepdim=True)
    pick = torch.where(left > 0, pick, 0)
    for values in (ids, score):
        displaced = values[:, :1].clone()
        values[:, :1] = values.gather(1, pick)
        values.scatter_(1, pick, displaced)


def _before(end: Tensor, like: Tensor) -> Tensor:
    """(G, L) bool, which columns of a tensor come before ``end`` (G, 1)."""
    return torch.arange(like.shape[1], device=like.device) < end


def _weights(
    row: Tensor, left: Tensor, method: str, sigma: float, iou_threshold: float
) -> tuple[Tensor, Tensor]:
    """What the first of the rows (4, G, L) leaves of the others' scores, and which it overlaps.

    Only rows before ``left`` (G, 1) count. Numbers are rounded wherever the authors' C code
    rounds: its variables are float32, but the pixel that it adds is a double, and the exponential
    is numpy's of a double.
    """
    box = row[:, :, :1]
    size, sizes = ((b[2:] - b[:2]).double() + 1 for b in (box, row))
    extent = torch.minimum(box[2:], row[2:]) - torch.maximum(box[:2], row[:2])
    width, height = (extent.double() + 1).float().clamp_(min=0)
    intersection = width * height
    union = (size[0] * size[1] + (sizes[0] * sizes[1]).float() - intersection).float()
    iou = intersection / union
    hit = _before(left, iou) & (intersection > 0)
    hit[:, 0] = False
    if method == "gaussian":
        return (iou * iou / -sigma).double().exp_().float(), hit
    return decay(iou, method, sigma, iou_threshold), hit
