"""What an inference made of one image, stage by stage: corners, pairs, what soft-NMS left.

Letters: P corners of a side, Q pairs that are boxes, D detections. Numbers are NumPy's; places are
pixels of the output image.
"""

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from ..canvas import Canvas, Size
from ..modeling.center import CenterCheck
from ..modeling.decode import REJECTED, Pairs
from ..modeling.inference import Candidates, CornerInference
from ..modeling.outputs import CornerMaps
from ..modeling.pairing.base import Corners, CornerValues, LossRules, Match, Norms, Pairing
from ..modeling.target_batch import TargetBatch
from .matching import Found


class Side(NamedTuple):
    """The top-k corners of one kind: (P, 2) x, y; (P,) classes; (P,) scores."""

    xy: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


class PairTable(NamedTuple):
    """Every two corners of one class that make a box, whether or not the pairing accepts them.

    Attributes:
        boxes: (Q, 4).
        classes: (Q,).
        corners: (Q, 2), numbers of the top-left and the bottom-right corner.
        scores: (Q,), what an accepted pair goes into soft-NMS with.
        accepted: (Q,) bool, by the pairing's rule.
        confirmed: (Q,) bool, by a centre; all are where the model has none, and where the check is
            another code base's.
        kept: (Q,) bool, accepted, confirmed and among the best of the image (TEST.MAX_PAIRS).
        distances: (Q,) :meth:`.Pairing.distances`, None where the rule knows none.
    """

    boxes: np.ndarray
    classes: np.ndarray
    corners: np.ndarray
    scores: np.ndarray
    accepted: np.ndarray
    confirmed: np.ndarray
    kept: np.ndarray
    distances: np.ndarray | None = None


class Stages(NamedTuple):
    """Attributes:
    tl, br: the corners.
    pairs: of them.
    survivors: after soft-NMS, however many.
    detections: the result.
    """

    tl: Side
    br: Side
    pairs: PairTable
    survivors: Found
    detections: Found


class _Recorder(Pairing):
    """A pairing that keeps what the decoding asked it, and what it answered."""

    def __init__(self, pairing: Pairing) -> None:
        self.pairing = pairing
        self.outputs, self.decoded, self.weights = (
            getattr(pairing, name) for name in ("outputs", "decoded", "weights")
        )

    def branches(self, in_channels: int, width: int, kernel: int) -> dict[str, nn.Module]:
        return self.pairing.branches(in_channels, width, kernel)

    def losses(
        self, values: CornerValues, batch: TargetBatch, norms: Norms, rules: LossRules
    ) -> dict[str, Tensor]:
        return self.pairing.losses(values, batch, norms, rules)

    def match(
        self, tl: Corners, br: Corners, *, cell_size: Sequence[float], origin: Tensor | None = None
    ) -> Match:
        self.tl, self.br = tl, br
        self.answer = self.pairing.match(tl, br, cell_size=cell_size, origin=origin)
        return self.answer


class _CheckRecorder:
    """A centre check that keeps the centres that it was asked for."""

    def __init__(self, check: CenterCheck) -> None:
        self.check, self.centers = check, None

    def __call__(
        self,
        boxes: Tensor,
        scores: Tensor,
        classes: Tensor,
        centers: Corners,
        cell_size: Sequence[float],
    ) -> Tensor:
        self.centers, self.cell_size = centers, cell_size
        return self.check(boxes, scores, classes, centers, cell_size)

    def scores(self, boxes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
        """(Q,) scores of one image's pairs after the check, as they are if there was none."""
        if self.centers is None:
            return scores
        rows = boxes[None], scores[None], classes[None]
        return self.check(*rows, self.centers, self.cell_size)[0]


@torch.no_grad()
def trace(
    inference: CornerInference,
    pairing: Pairing,
    maps: CornerMaps,
    canvas: Canvas,
    output_size: Size,
) -> Stages:
    """Detect as ``inference`` does in the maps of one image, and keep what came between.

    Args:
        inference: of one scale, without mirror images.
        pairing: the model's.
        maps, canvas: of the one image.
        output_size: (height, width), pixels.
    """
    recorder, check = _Recorder(pairing), _CheckRecorder(inference.decoding.get("center"))
    recording = copy.copy(inference)
    recording.decoding = {**inference.decoding, "center": check if check.check else None}
    decoded = recording.decode(maps, canvas, recorder)
    sizes = canvas.image_sizes, [output_size]
    candidates = _candidates(inference.to_image(decoded, canvas))
    unlimited = copy.copy(inference)
    unlimited.max_detections = None
    (detections,) = inference.select(candidates, *sizes)
    (survivors,) = unlimited.select(candidates, *sizes)

    def to_output(boxes: Tensor) -> np.ndarray:
        none = boxes.new_zeros(len(boxes))
        pairs = Pairs(boxes[None], none[None], boxes[None, :, :2], none.long()[None])
        placed = inference.to_output(_candidates(inference.to_image(pairs, canvas)), *sizes)
        return placed.boxes.double().cpu().numpy()

    corners = to_output(torch.cat((recorder.tl.xy[0], recorder.br.xy[0]), dim=1))
    tl, br = (
        Side(corners[:, 2 * i : 2 * i + 2], *(_array(x[0]) for x in (side.classes, side.scores)))
        for i, side in enumerate((recorder.tl, recorder.br))
    )
    index, scores, accepted = _pairs(recorder)
    real = decoded.scores[decoded.scores > REJECTED]
    lowest = real.min() if real.numel() == decoded.scores.numel() else REJECTED
    xy = torch.cat((recorder.tl.xy[0][index[:, 0]], recorder.br.xy[0][index[:, 1]]), dim=1)
    classes = recorder.tl.classes[0][index[:, 0]]
    scores = check.scores(xy, scores, classes)
    confirmed = scores > REJECTED
    kept = accepted & confirmed & (scores >= lowest)
    fields = classes, index, scores, accepted, confirmed, kept
    pairs = PairTable(to_output(xy), *(_array(x) for x in fields))
    distances = pairing.distances(recorder.tl, recorder.br)
    if distances is not None:
        pairs = pairs._replace(distances=_array(distances[0][tuple(index.T)]))
    return Stages(tl, br, pairs, found_in(survivors), found_in(detections))


def _candidates(pairs: Pairs) -> Candidates:
    """Of one image."""
    return Candidates.of(pairs, pairs.classes.new_zeros(1))


def _pairs(recorder: _Recorder) -> tuple[Tensor, Tensor, Tensor]:
    """(Q, 2) corners, (Q,) scores, (Q,) accepted, of one image."""
    tl, br, answer = recorder.tl, recorder.br, recorder.answer
    scores = (tl.scores[0][:, None] + br.scores[0]) / 2
    is_box = (tl.classes[0][:, None] == br.classes[0]) & (scores >= 0)
    is_box &= (br.xy[0] > tl.xy[0][:, None]).all(dim=-1)
    index = is_box.nonzero()
    if answer.weight is not None:
        scores = scores * answer.weight[0]
    rows, columns = index.unbind(1)
    return index, scores[rows, columns], answer.accepted[0][rows, columns]


def found_in(instances: Instances) -> Found:
    """The detections of Instances, as NumPy arrays on the host."""
    fields = instances.pred_boxes.tensor.double(), instances.scores.double()
    return Found(*(_array(field) for field in fields), _array(instances.pred_classes))


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
