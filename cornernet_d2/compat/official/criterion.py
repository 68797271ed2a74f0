"""What the authors' released code computes (princeton-vl/CornerNet).

Losses: heat maps are divided by the cells that are 1 in them, offsets by the objects + 1e-4; pull
and push are summed over the images of a process, so that the same batch split over more processes
trains differently; stacks are averaged. Nothing is counted over processes.
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from torch import Tensor

from ...modeling.criterion import CRITERION_REGISTRY, CornerCriterion, Norms
from ...modeling.losses import heatmap_focal_loss, pull_push_sums
from ...modeling.target_batch import TargetBatch
from ...targets import CornerTargets
from ..counts import distinct_cells

# They clamp sigmoid(heat map) to [1e-4, 1 - 1e-4] and add 1e-4 to their counts.
CLAMP = 1e-4
EPS = 1e-4


class OfficialCriterion(CornerCriterion):
    """The losses of the authors' ``AELoss``."""

    def count(self, targets: Sequence[CornerTargets]) -> Tensor:
        """Objects; cells that are 1 in a heat map, per corner, and of centres if there are any."""
        objects = super().count(targets)[:1]
        return torch.cat((objects, distinct_cells(targets, by_class=True)))

    def normalizers(self, counts: Tensor, dtype: torch.dtype) -> Norms:
        offset = (1 / (counts[0] + EPS)).to(dtype)
        heatmap = (1 / counts[1:].clamp(min=1)).to(dtype)
        return Norms(heatmap, (offset,) * len(heatmap), 1.0)

    def heatmap_loss(self, logits: Tensor, batch: TargetBatch, corner: int) -> Tensor:
        return heatmap_focal_loss(
            logits,
            *batch.heatmaps.of_point(corner),
            alpha=self.alpha,
            beta=self.beta,
            clamp=CLAMP,
        )

    def embedding_losses(
        self, tl: Tensor, br: Tensor, batch: TargetBatch, margin: float
    ) -> tuple[Tensor, Tensor]:
        """Their way of leaving out the pairs of an object with itself adds a constant to push."""
        count, spread, closeness = pull_push_sums(
            tl,
            br,
            batch.image_index,
            batch.num_images,
            margin=margin,
            max_objects=batch.max_objects,
        )
        closeness = closeness + margin * count - count * count / (count + EPS)
        return spread / (count + EPS), closeness / (count * (count - 1) + EPS)


@CRITERION_REGISTRY.register()
def official(cfg: CfgNode) -> OfficialCriterion:
    return OfficialCriterion(cfg)
