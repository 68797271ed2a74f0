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

from typing import NamedTuple

import torch
from torch import Tensor

from .soft_nms import check_settings, decay, padded_groups


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
    corners = corner_scores.float()[index].repeat_interleave(2, dim=2).permute(2, 0, 1)
    current, merged = scores[index], torch.zeros_like(original)
    position = torch.arange(index.shape[1], device=boxes.device)
    held = position.repeat(len(index), 1)  # which original box each row holds
    end = real.sum(1, keepdim=True)  # rows that stay
    for first, active in enumerate(active_rows):
        ids, score, stop = held[:active], current[:active], end[:active]
        _swap_best_to(first, stop, ids, score)
        row = original[:, :active].gather(2, ids.expand(4, -1, -1))
        iou = _iou(row[:, :, first : first + 1], row)
        weights = _decay(iou, method, sigma, iou_threshold)
        swept = (position > first) & (position < stop)
        hit = swept & (iou > 0)
        lowered = torch.where(hit, weights * score, score)
        refill = _refill(swept, hit & (lowered < min_score), stop)
        if merge_exponent is not None:
            shares = ((1 - weights) ** merge_exponent * hit).index_fill_(1, position[first], 1.0)
            shares = shares * corners[:, :active].gather(2, refill.row_of.expand(4, -1, -1))
            merged[:, :active, first] = (row * shares).sum(2) / shares.sum(2)
        ids.copy_(torch.where(refill.written, ids.gather(1, refill.source), ids))
        score.copy_(torch.where(refill.written, lowered.gather(1, refill.source), score))
        stop.copy_(refill.end)
    if merge_exponent is None:
        merged = original.gather(2, held.expand(4, -1, -1))
    # Rows back to class order; inside a class the place in the array is the order.
    by_class = classes[index[real]].argsort(stable=True)
    stays = position < end
    return OfficialRows(
        merged[:, real].T[by_class],
        current[real][by_class],
        classes[index[real]][by_class],
        stays[real][by_class],
    )


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


def _refill(swept: Tensor, dropped: Tensor, end: Tensor) -> _Refill:
    """Work out where the authors' sweep moves boxes, from which of them it drops.

    The sweep goes forward; where it drops a box it lowers the end, brings the last box to the
    free row and goes on there, until a box stays or the end is reached. So the rows that become
    free before the new end, front to back, receive the boxes behind it, back to front: a box
    behind the new end is brought to the free row of rank r if r boxes that stay lie behind it.
    Past the last such row, boxes are brought to the row of the new end and dropped there.

    Args:
        swept: (G, L) bool, the rows from the taken box to the end.
        dropped: (G, L) bool, those whose boxes fall below the threshold.
        end: (G, 1), how many rows stayed so far.
    """
    position = torch.arange(swept.shape[1], device=swept.device).expand_as(swept)
    length = swept.shape[1]
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


def _swap_best_to(first: int, end: Tensor, ids: Tensor, score: Tensor) -> None:
    """Swap, in place, row ``first`` of each group with its best row of those before ``end``."""
    position = torch.arange(ids.shape[1], device=ids.device)
    ahead = (position >= first) & (position < end)
    pick = torch.where(ahead, score, -torch.inf).argmax(1, keepdim=True)
    pick = torch.where(end > first, pick, first)
    for values in (ids, score):
        displaced = values[:, first : first + 1].clone()
        values[:, first : first + 1] = values.gather(1, pick)
        values.scatter_(1, pick, displaced)


def _iou(box: Tensor, others: Tensor) -> Tensor:
    """(4, G, 1) and (4, G, L) to (G, L), rounded wherever the authors' C code rounds.

    Its variables are float32 but the pixel that it adds is a double.
    """
    size, sizes = ((b[2:] - b[:2]).double() + 1 for b in (box, others))
    extent = torch.minimum(box[2:], others[2:]) - torch.maximum(box[:2], others[:2])
    width, height = (extent.double() + 1).float().clamp_(min=0)
    intersection = width * height
    union = (size[0] * size[1] + (sizes[0] * sizes[1]).float() - intersection).float()
    return intersection / union


def _decay(iou: Tensor, method: str, sigma: float, iou_threshold: float) -> Tensor:
    """:func:`soft_nms.decay`, with the exponential in float64 as the authors call numpy's."""
    if method == "gaussian":
        return (iou * iou / -sigma).double().exp_().float()
    return decay(iou, method, sigma, iou_threshold)
