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


class PickLoop(NamedTuple):
    """Soft-NMS of a batch as the parts of a loop: start, pick while there is more, finish.

    The loop's state is the number of picks so far; scores (N, M) that are left; scores (N, K),
    classes (N, K) and boxes (N, K, 4) picked so far; then boxes (N, M, 4), classes (N, M) and
    corner scores (N, M, 4) to pick from, which stay.

    Attributes:
        method, sigma, iou_threshold, min_score, exponent: see
            :func:`cornernet_d2.modeling.soft_nms.batched_soft_nms`.
        picks: K >= 1; None: M.
    """

    method: str
    sigma: float
    iou_threshold: float
    min_score: float
    exponent: float | None = None
    picks: int | None = None

    def start(
        self, boxes: Tensor, scores: Tensor, corner_scores: Tensor, classes: Tensor
    ) -> tuple[Tensor, ...]:
        """The state before the first pick; arguments as of :func:`soft_nms_picks`."""
        corners = corner_scores.clamp(min=1e-12)
        corners = torch.cat((corners[..., :1],) * 2 + (corners[..., 1:],) * 2, -1)
        left = torch.where(scores >= self.min_score, scores, 0.0)
        number = boxes.shape[0]
        picks = scores.shape[1] if self.picks is None else self.picks
        values, labels = boxes.new_zeros(number, picks), classes.new_zeros(number, picks)
        found = boxes.new_zeros(number, picks, 4)
        step = torch.zeros((), dtype=torch.int64, device=boxes.device)
        return step, left, values, labels, found, boxes, classes, corners

    def more(self, *state: Tensor) -> Tensor:
        """Whether there is a pick to make."""
        step, left, values = state[:3]
        return (step < values.shape[1]) & (left > 0).any()

    def pick(self, *state: Tensor) -> tuple[Tensor, ...]:
        """The first five of the state, after one more pick of each image."""
        step, left, values, labels, found, boxes, classes, corners = state
        value, index = left.max(dim=1, keepdim=True)
        taken = torch.arange(left.shape[1], device=left.device) == index
        box = boxes.gather(1, index[..., None].expand(-1, 1, 4))
        label = classes.gather(1, index)
        weights = _weights(_iou(box, boxes), self.method, self.sigma, self.iou_threshold)
        weights = torch.where(classes == label, weights, 1.0)
        if self.exponent is not None:
            shares = torch.where(left > 0, (1 - weights) ** self.exponent, 0.0)
            shares = torch.where(taken, 1.0, shares)[..., None] * corners
            box = (boxes * shares).sum(1, keepdim=True) / shares.sum(1, keepdim=True)
        left = torch.where(taken, 0.0, left * weights)
        left = torch.where(left >= self.min_score, left, 0.0)
        here = torch.arange(values.shape[1], device=step.device) == step
        filled = [torch.where(here, value, values), torch.where(here, label, labels)]
        filled.append(torch.where(here[:, None], box, found))
        return step + 1, left, *filled

    @staticmethod
    def finish(values: Tensor, labels: Tensor, found: Tensor) -> Picks:
        """What was picked."""
        stays = values > 0
        return Picks(
            torch.where(stays[..., None], found, 0.0),
            torch.where(stays, values, 0.0),
            torch.where(stays, labels, -1),
            stays.sum(1),
        )


def soft_nms_picks(
    boxes: Tensor, scores: Tensor, corner_scores: Tensor, classes: Tensor, loop: PickLoop
) -> Picks:
    """Soft-NMS of a batch; to be exported, where the loop stays one (ONNX: ``Loop``).

    Args:
        boxes: (N, M, 4) float32.
        scores: (N, M) float32; those of 0 or less go.
        corner_scores: (N, M, 2) float32, used where boxes are merged.
        classes: (N, M) int64.
        loop: the rule.
    """

    def pick(*state: Tensor) -> tuple[Tensor, ...]:
        # What a pick reads is handed on, although it stays: OpenVINO's loops see nothing outside.
        return *loop.pick(*state), *(x.clone() for x in state[5:])

    state = while_loop(loop.more, pick, loop.start(boxes, scores, corner_scores, classes))
    return loop.finish(*state[2:5])


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
