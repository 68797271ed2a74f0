"""Soft-NMS as a loop of at most a fixed number of picks, in operators that every runtime has.

Scores only fall, so the best box of an image is always the best of its class: picking it and
lowering its class, K times, gives the K best of what :func:`cornernet_d2.layers.soft_nms` gives
class by class.

Letters: N images, M boxes of each, K picks. Boxes are ``x0 y0 x1 y1``.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop


class Picks(NamedTuple):
    """What soft-NMS leaves of N images, best first.

    Attributes:
        boxes: (N, K, 4) float32, 0 where there is no more box.
        scores: (N, K) float32, likewise.
        classes: (N, K) int64, -1 where there is no more box.
        count: (N,) int64, how many there are.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    count: Tensor


def soft_nms_picks(
    boxes: Tensor,
    scores: Tensor,
    corner_scores: Tensor,
    classes: Tensor,
    picks: int,
    *,
    method: str,
    sigma: float,
    iou_threshold: float,
    min_score: float,
    exponent: float | None = None,
) -> Picks:
    """Soft-NMS of a batch; to be exported, where the loop stays one (ONNX: ``Loop``).

    Args:
        boxes: (N, M, 4) float32.
        scores: (N, M) float32; those of 0 or less go.
        corner_scores: (N, M, 2) float32, used where boxes are merged.
        classes: (N, M) int64.
        picks: K >= 1.
        method, sigma, iou_threshold, min_score, exponent: see
            :func:`cornernet_d2.modeling.soft_nms.batched_soft_nms`.
    """
    corners = corner_scores.clamp(min=1e-12)
    corners = torch.cat((corners[..., :1],) * 2 + (corners[..., 1:],) * 2, -1)
    start = torch.where(scores >= min_score, scores, 0.0)

    def more(step: Tensor, current: Tensor, *_: Tensor) -> Tensor:
        return (step < picks) & (current > 0).any()

    def pick(*state: Tensor) -> tuple[Tensor, ...]:
        return _pick(
            *state, rule=(method, sigma, iou_threshold), min_score=min_score, exponent=exponent
        )

    # What a pick reads is handed on, although it stays: OpenVINO's loops see nothing outside them.
    number = boxes.shape[0]
    empty = boxes.new_zeros(number, picks), classes.new_zeros(number, picks)
    empty += (boxes.new_zeros(number, picks, 4),)
    step = torch.zeros((), dtype=torch.int64, device=boxes.device)
    state = while_loop(more, pick, (step, start, *empty, boxes, classes, corners))
    values, labels, found = state[2:5]
    stays = values > 0
    return Picks(
        torch.where(stays[..., None], found, 0.0),
        torch.where(stays, values, 0.0),
        torch.where(stays, labels, -1),
        stays.sum(1),
    )


def _pick(
    step: Tensor,
    current: Tensor,
    *state: Tensor,
    rule: tuple[str, float, float],
    min_score: float,
    exponent: float | None,
) -> tuple[Tensor, ...]:
    """The loop's state after one more pick of each image.

    Args:
        step: the number of picks so far.
        current: (N, M) the scores that are left.
        state: scores (N, K), classes (N, K) and boxes (N, K, 4) picked so far; then boxes, classes
            and corner scores (N, M, 4) to pick from, which stay.
        rule: method, sigma and IoU threshold.
        min_score, exponent: as above.
    """
    values, labels, found, *given = state
    boxes, classes, corners = given
    value, index = current.max(dim=1, keepdim=True)
    taken = torch.arange(current.shape[1], device=current.device) == index
    box, label = boxes.gather(1, index[..., None].expand(-1, 1, 4)), classes.gather(1, index)
    weights = _weights(_iou(box, boxes), *rule)
    weights = torch.where(classes == label, weights, 1.0)
    if exponent is not None:
        shares = torch.where(current > 0, (1 - weights) ** exponent, 0.0)
        shares = torch.where(taken, 1.0, shares)[..., None] * corners
        box = (boxes * shares).sum(1, keepdim=True) / shares.sum(1, keepdim=True)
    current = torch.where(taken, 0.0, current * weights)
    current = torch.where(current >= min_score, current, 0.0)
    here = torch.arange(values.shape[1], device=step.device) == step
    filled = [torch.where(here, value, values), torch.where(here, label, labels)]
    filled.append(torch.where(here[:, None], box, found))
    return step + 1, current, *filled, *(x.clone() for x in given)


def _iou(box: Tensor, boxes: Tensor) -> Tensor:
    """IoU (N, M) of a box of each image, (N, 1, 4), with all its boxes."""
    size = torch.minimum(box[..., 2:], boxes[..., 2:]) - torch.maximum(box[..., :2], boxes[..., :2])
    size = size.clamp(min=0)
    shared = size[..., 0] * size[..., 1]
    union = _area(box) + _area(boxes) - shared
    return shared / union.clamp(min=torch.finfo(torch.float32).tiny)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _weights(iou: Tensor, method: str, sigma: float, iou_threshold: float) -> Tensor:
    """The factor in [0, 1] that a taken box leaves of a score."""
    if method == "gaussian":
        return (iou * iou / -sigma).exp()
    beyond = 1 - iou if method == "linear" else torch.zeros_like(iou)
    return torch.where(iou > iou_threshold, beyond, torch.ones_like(iou))
