"""What MMDetection's CornerNet computes (2.x and 3.x).

Losses: heat maps and offsets are the mean of both corners, each over its own cells; of objects that
share a cell the last one's offset counts; pull and push are summed over the images of a process,
and nothing is divided by the stacks. Nothing is counted over processes.
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from torch import Tensor

from ...modeling.criterion import CRITERION_REGISTRY, CornerCriterion, Norms
from ...modeling.losses import offset_loss
from ...modeling.target_batch import TargetBatch
from ...targets import CornerTargets
from ..counts import distinct_cells


class MMDetCriterion(CornerCriterion):
    """The losses of MMDetection's ``CornerHead``."""

    def count(self, targets: Sequence[CornerTargets]) -> Tensor:
        """Cells that are 1 in a heat map, then cells that have an offset, per corner."""
        return torch.cat([distinct_cells(targets, by_class=each) for each in (True, False)])

    def normalizers(self, counts: Tensor, dtype: torch.dtype) -> Norms:
        heatmap, offset = (0.5 / counts.clamp(min=1)).to(dtype).chunk(2)
        return Norms(heatmap, offset, 1.0)

    def stack_weight(self, stacks: int) -> float:
        return 1.0

    def regression_loss(
        self, predicted: Tensor, target: Tensor, batch: TargetBatch, corner: int
    ) -> Tensor:
        """The targets are a map there, in which later objects overwrite earlier ones."""
        hidden = _overwritten(batch, corner)[:, None]
        return offset_loss(predicted.masked_fill(hidden, 0), target.masked_fill(hidden, 0))


def _overwritten(batch: TargetBatch, corner: int) -> Tensor:
    """(M,) bool: whether a later object has its corner in the same cell, whatever the classes."""
    height, width = batch.heatmaps.values.shape[-2:]
    cells, order = (batch.image_index * (height * width) + batch.cells[:, corner]).sort(stable=True)
    overwritten = torch.zeros_like(cells, dtype=torch.bool)
    overwritten[:-1] = cells[1:] == cells[:-1]
    return torch.empty_like(overwritten).index_copy(0, order, overwritten)


@CRITERION_REGISTRY.register()
def mmdet(cfg: CfgNode) -> MMDetCriterion:
    return MMDetCriterion(cfg)
