"""What each output of the network costs: AP with the others as they are and that one perfect.

After the error analysis of Law & Deng, "CornerNet", section 4.4, which replaces heat maps and
offsets; here the pairing as well, whether the right corners are put together, and the centres of a
model that has them.
"""

import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence

import torch
from detectron2.config import CfgNode
from torch import Tensor

from ..canvas import Canvas
from ..engine.evaluation import build_evaluator
from ..modeling import CornerNet
from ..modeling.inference import CornerInference
from ..modeling.outputs import CORNERS, POINTS, CornerMaps
from ..modeling.pairing import EmbeddingPairing
from ..modeling.target_batch import TargetBatch

# What is replaced by the ground truth, row by row: outputs of corners, or what the name says.
ROWS: tuple[tuple[str, ...], ...] = (
    (),
    ("pairing",),
    ("offset",),
    ("heatmap",),
    ("heatmap", "offset"),
    ("heatmap", "offset", "pairing"),
)
# Of a model that checks pairs by centres.
CENTER_ROWS = (*ROWS[:2], ("center",), ("pairing", "center"), *ROWS[2:], (*ROWS[-1], "center"))
METRICS = ("AP", "AP50", "AP75")
# Cells, along both axes, from an object's corner to a peak that is taken for that corner.
REACH = 2


def perfect_maps(targets: TargetBatch, predicted: CornerMaps) -> CornerMaps:
    """Maps of one image with every value as the truth wants it.

    Heat maps are the targets'. Offsets are the true ones in the cells of true points, those
    predicted elsewhere. Whatever the model's pairing is, the perfect one is by embeddings: the
    number of the object whose corner is nearest, and NaN, which pairs with nothing, beyond
    ``REACH`` cells of all corners.
    """
    maps = {}
    heatmaps, _ = targets.heatmaps.dense()
    for i, point in enumerate(point for point in POINTS if point in predicted):
        offset = predicted[point]["offset"].float().clone()
        height, width = offset.shape[-2:]
        cells = targets.cells[:, i]
        offset.flatten(2)[0][:, cells] = targets.offsets[:, i].T
        maps[point] = {"heatmap": heatmaps[:, i].clamp(1e-6, 1 - 1e-6).logit(), "offset": offset}
        if point in CORNERS:
            maps[point]["embedding"] = _nearest(cells, height, width).view(1, 1, height, width)
    return maps


def _replaced(predicted: CornerMaps, perfect: CornerMaps, names: Sequence[str]) -> CornerMaps:
    """The maps of an image, those of one of the rows perfect."""
    outputs = ["embedding" if name == "pairing" else name for name in names if name != "center"]
    maps = {
        corner: {**predicted[corner], **{name: perfect[corner][name] for name in outputs}}
        for corner in CORNERS
    }
    if "center" in predicted:
        maps["center"] = (perfect if "center" in names else predicted)["center"]
    return maps


def _nearest(cells: Tensor, height: int, width: int) -> Tensor:
    """(h * w,) number of the nearest of M flat cells, NaN where none is within REACH."""
    if not len(cells):
        return torch.full((height * width,), torch.nan, device=cells.device)
    every = torch.arange(height * width, device=cells.device)[:, None]
    rows = (every // width - cells // width).abs()
    columns = (every % width - cells % width).abs()
    distance, number = torch.maximum(rows, columns).min(dim=1)
    return torch.where(distance <= REACH, number.float(), torch.nan)


class Oracle:
    """Evaluates a model once for each of its rows; a run's own result files stay as they are.

    Args:
        cfg, name: config and registered dataset, of which the evaluator is made.
        model: in eval mode.
        inference: of one scale, without mirror images.
    """

    def __init__(
        self, cfg: CfgNode, name: str, model: CornerNet, inference: CornerInference
    ) -> None:
        self.model, self.inference = model, inference
        self.folder = tempfile.TemporaryDirectory()
        rows = CENTER_ROWS if model.target_generator.center else ROWS
        self.evaluators = {row: build_evaluator(cfg, name, self.folder.name) for row in rows}
        for evaluator in self.evaluators.values():
            evaluator.reset()

    def add(self, x: Mapping, canvas: Canvas, predicted: CornerMaps) -> None:
        """One image: its dict with "instances" of the truth, its canvas and the model's maps."""
        targets = self.model.corner_targets([x], canvas)
        perfect = perfect_maps(TargetBatch.join(targets, self.model.device), predicted)
        size = [(x["height"], x["width"])]
        for replaced, evaluator in self.evaluators.items():
            maps = _replaced(predicted, perfect, replaced)
            pairing = EmbeddingPairing() if "pairing" in replaced else self.model.pairing
            (found,) = self.inference.detect(maps, canvas, pairing, size)
            evaluator.process([x], [{"instances": found}])

    def results(self) -> dict[tuple[str, ...], dict[str, float]]:
        """What was perfect -> the evaluator's box metrics; call it once."""
        with self.folder, contextlib.redirect_stdout(io.StringIO()):  # a table of COCO's for each
            return {row: each.evaluate()["bbox"] for row, each in self.evaluators.items()}
