"""The authors' soft-NMS with its known bugs, for bit parity with their results.

Their loop works in place on the array of one class. Each sweep swaps the best remaining row to the
front, lowers the scores behind it, and fills the row of a box that falls below the threshold with
the last row. It differs from :mod:`cornernet_d2.modeling.soft_nms` in what follows:

1. Widths and heights count one pixel more (``x1 - x0 + 1``).
2. The caller ignores how many rows stay, so all M rows are returned. The rows behind the last one
   that stays hold stale copies: boxes that moved to the front, with the score they had then.
   With "hard", where every suppressed box falls below the threshold, that undoes the suppression.
3. A box below the threshold goes only when it overlaps a taken box.
4. Swaps and fills move the box and its score but not the two corner scores, which therefore
   belong to the row: merging weights a box by the corner scores of whichever row it came to.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...modeling.soft_nms import check_settings


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
        boxes: (M, 4), pixels, on the CPU like all tensors here.
        scores: (M,).
        corner_scores: (M, 2), of the top-left and the bottom-right corner; used in merging only.
        classes: (M,) integers.
        method, sigma, iou_threshold, min_score: as in
            :func:`cornernet_d2.modeling.soft_nms.batched_soft_nms`.
        merge_exponent: merge boxes with this exponent (the authors': 8, or 10); None: do not.

    Raises:
        ValueError: the method is unknown, or sigma or merge_exponent is not above 0.
    """
    check_settings(method, sigma, merge_exponent)
    rows = torch.cat((boxes, scores[:, None], corner_scores), 1).float().numpy()
    labels, stays = classes.numpy(), np.zeros(len(rows), bool)
    order = labels.argsort(kind="stable")
    rows, labels = rows[order], labels[order]
    weigh = functools.partial(_weights, method=method, sigma=sigma, iou_threshold=iou_threshold)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        array = rows[mine]
        end = _soft_nms_of_class(array, weigh, np.float32(min_score), merge_exponent)
        rows[mine], stays[mine[:end]] = array, True
    boxes, scores = torch.from_numpy(rows[:, :5]).split((4, 1), dim=1)
    return OfficialRows(boxes, scores[:, 0], torch.from_numpy(labels), torch.from_numpy(stays))


def _soft_nms_of_class(
    rows: np.ndarray,
    weigh: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    min_score: np.float32,
    merge_exponent: float | None,
) -> int:
    """The loop over one class, in place; returns how many rows stay.

    Args:
        rows: (n, 7) float32: box, score, and the scores of the two corners, which stay in their
            row whatever box comes to it.
        weigh: :func:`_weights`.
    """
    end, means = len(rows), []
    # Per coordinate; above 0, since means divide by their sum.
    corners = np.maximum(rows[:, [5, 5, 6, 6]], np.float32(1e-12))
    while len(means) < end:
        first = len(means)
        best = first + rows[first:end, 4].argmax()
        rows[[first, best], :5] = rows[[best, first], :5]
        taken, behind = rows[first, :4], rows[first + 1 : end, :5]
        weights, hit = weigh(taken, behind[:, :4])
        lowered = np.where(hit, weights * behind[:, 4], behind[:, 4])
        sweep = _refill(hit & (lowered < min_score))
        mean = taken.copy()
        if merge_exponent is not None:
            boxes, their_rows = sweep.visits.T
            shares = ((1 - weights) ** merge_exponent * hit)[boxes, None]
            shares = shares * corners[first + 1 + their_rows]
            sums = (behind[boxes, :4] * shares).sum(0) + taken * corners[first]
            mean = sums / (shares.sum(0) + corners[first])
        means.append(mean)
        behind[:] = behind[sweep.held]
        behind[: sweep.lowered, 4] = lowered[sweep.held[: sweep.lowered]]
        end = first + 1 + sweep.end
    for row, mean in zip(rows, means):
        row[:4] = mean
    return end


class _Sweep(NamedTuple):
    """How one sweep moves the boxes of n rows, numbered by the row in which they were before.

    Attributes:
        held: (n,) the box that each row holds afterwards.
        end: how many rows stay.
        lowered: in how many rows, from the first, the box has its new score; behind them lie boxes
            that the sweep did not come to, or not in that row.
        visits: (V, 2), box and row, wherever the sweep met a box.
    """

    held: np.ndarray
    end: int
    lowered: int
    visits: np.ndarray


def _refill(dropped: np.ndarray) -> _Sweep:
    """One sweep: the row of a dropped box is filled with the last row, which is then looked at.

    Args:
        dropped: (n,) bool, the boxes that fall below the threshold when the sweep meets them.
    """
    held = np.arange(len(dropped))
    row, end, gone = 0, len(held), []
    while (ahead := dropped[held[row:end]]).any():
        row += int(ahead.argmax())
        gone.append((held[row], row))
        end -= 1
        held[row] = held[end]
    # A box dropped in the last row is met there, and stays behind the end.
    lowered = end + 1 if gone and row == end else end
    stays = np.stack((held[:end], np.arange(end)), 1)
    visits = np.concatenate((stays, np.array(gone, dtype=np.int64).reshape(-1, 2)))
    return _Sweep(held, end, lowered, visits)


def _weights(
    box: np.ndarray, others: np.ndarray, method: str, sigma: float, iou_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """What a box (4,) leaves of the scores of others (n, 4), and which of them it overlaps.

    Numbers are rounded wherever the authors' C code rounds: its variables are float32, but the
    pixel that it adds is a double, and the exponential is numpy's of a double.
    """
    width, height = (box[2:] - box[:2]).astype(np.float64) + 1
    widths, heights = (others[:, 2:] - others[:, :2]).astype(np.float64).T + 1
    extent = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    across, along = np.maximum((extent.astype(np.float64) + 1).astype(np.float32), 0).T
    intersection = across * along
    areas = (widths * heights).astype(np.float32)
    iou = intersection / (width * height + areas - intersection).astype(np.float32)
    if method == "gaussian":
        weights = np.exp((iou * iou / np.float32(-sigma)).astype(np.float64)).astype(np.float32)
    else:
        lower = 1 - iou if method == "linear" else np.float32(0)
        weights = np.where(iou > np.float32(iou_threshold), lower, np.float32(1))
    return weights, intersection > 0
