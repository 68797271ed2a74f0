"""What the losses are divided by, over corners, stacks, images and processes.

The counts are those of all batches whose gradients make one step, on all processes, so that the
gradient does not depend on how the images are split: heat maps and offsets are divided by the
objects, pull and push are means over the images, and stacks are averaged. Pull and push are then
multiplied by 5, the number of images that the authors had on a GPU and summed over, so that they
weigh as much as theirs did; 5 was the best of 1, 5 and 16 on the synthetic shapes (AP 57.5, 62.5,
59.2 after 800 iterations).

What other code bases divide by is in :mod:`cornernet_d2.compat`.

Letters: N images, C classes, M objects in all images, h x w map (cells).
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from detectron2.config import CfgNode, configurable
from detectron2.utils import comm
from fvcore.common.registry import Registry
from torch import Tensor

from ..targets import CornerTargets
from .losses import heatmap_focal_loss, offset_loss, pull_push_loss
from .outputs import CORNERS, POINTS, CornerMaps
from .pairing import EmbeddingPairing, Pairing
from .pairing.base import Norms
from .target_batch import TargetBatch, at_cells

CRITERION_REGISTRY = Registry("CRITERION")
CRITERION_REGISTRY.__doc__ = """Criteria by the name that MODEL.CORNERNET.LOSS.CONVENTION gives.

A registered function or class is called with the config and returns a :class:`CornerCriterion`.
"""


class CornerCriterion:
    """Corner maps of every stack and targets -> the weighted losses.

    Subclasses change what is counted (:meth:`count`), what is divided by it (:meth:`normalizers`,
    :meth:`stack_weight`) or how a loss is computed (:meth:`heatmap_loss`,
    :meth:`regression_loss`, :meth:`embedding_losses`).

    Args:
        alpha, beta: exponents of the focal loss, eq. 1.
        offset_weight: eq. 6 (gamma there).
        embedding_images: factor of pull and push.
    """

    @configurable
    def __init__(
        self,
        *,
        alpha: float = 2.0,
        beta: float = 4.0,
        offset_weight: float = 1.0,
        embedding_images: float = 5.0,
    ):
        self.alpha, self.beta, self.offset_weight = alpha, beta, offset_weight
        self.embedding_images = embedding_images

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        loss = cfg.MODEL.CORNERNET.LOSS
        return {
            "alpha": loss.ALPHA,
            "beta": loss.BETA,
            "offset_weight": loss.OFFSET_WEIGHT,
            "embedding_images": loss.EMBEDDING_IMAGES,
        }

    def __call__(
        self,
        stacks: Sequence[CornerMaps],
        batch: TargetBatch,
        pairing: Pairing = EmbeddingPairing(),
    ) -> dict[str, Tensor]:
        """Compute the losses.

        Args:
            stacks: maps of each stack, (N, ., h, w).
            batch: of the same N images, of :meth:`prepare`.
            pairing: whose outputs are in the maps.

        Returns:
            loss_heatmap, the pairing's (loss_pull and loss_push of embeddings) and loss_offset, and
            of a centre branch loss_center_heatmap and loss_center_offset: scalars, weighted, to be
            summed.
        """
        dtype = torch.promote_types(stacks[0]["tl"]["heatmap"].dtype, torch.float32)
        norms = self.normalizers(batch.counts, dtype)
        terms = [self._stack_terms(maps, batch, norms, pairing) for maps in stacks]
        weights = {"heatmap": 1.0, **pairing.weights, "offset": self.offset_weight}
        if "center" in stacks[0]:
            weights |= {"center_heatmap": 1.0, "center_offset": self.offset_weight}
        scale = self.stack_weight(len(stacks))
        return {
            f"loss_{name}": scale * weight * torch.stack([t[name] for t in terms]).sum()
            for name, weight in weights.items()
        }

    def prepare(
        self,
        targets: Sequence[CornerTargets],
        device: torch.device,
        counts: Tensor | None = None,
    ) -> TargetBatch:
        """Join the targets of a batch on the device of the maps.

        Args:
            targets: of N images, of one map size.
            device: of the maps.
            counts: sum of what :meth:`count` gives for all batches whose gradients are accumulated
                into one step; default: of this batch alone.
        """
        return TargetBatch.join(targets, device, self.count(targets) if counts is None else counts)

    def count(self, targets: Sequence[CornerTargets]) -> Tensor:
        """What is divided by, to be added up over the batches that make one step.

        Returns:
            float64, on the CPU: here the numbers of objects and of images.
        """
        return torch.tensor([sum(map(len, targets)), len(targets)], dtype=torch.float64)

    def normalizers(self, counts: Tensor, dtype: torch.dtype) -> Norms:
        """What the sums are multiplied by, in ``dtype``, given the counts of a step."""
        objects, images = (1 / _mean_over_processes(counts)).to(dtype)
        return Norms((objects,) * 3, (objects,) * 3, self.embedding_images * images)

    def stack_weight(self, stacks: int) -> float:
        """What the sum over the stacks is multiplied by."""
        return 1.0 / stacks

    def heatmap_loss(self, logits: Tensor, batch: TargetBatch, corner: int) -> Tensor:
        """Sum over the cells of one corner's, or the centre's, heat maps (N, C, h, w)."""
        truth = batch.heatmaps.of_point(corner)
        return heatmap_focal_loss(logits, *truth, alpha=self.alpha, beta=self.beta)

    def regression_loss(
        self, predicted: Tensor, target: Tensor, batch: TargetBatch, corner: int
    ) -> Tensor:
        """Sum over the objects, of offsets or shifts (M, 2) predicted in one corner's cells."""
        return offset_loss(predicted, target)

    def embedding_losses(
        self, tl: Tensor, br: Tensor, batch: TargetBatch, margin: float
    ) -> tuple[Tensor, Tensor]:
        """Pull and push of each image, (N,), from the embeddings (M, D) at objects' corners."""
        return pull_push_loss(
            tl,
            br,
            batch.image_index,
            batch.num_images,
            margin=margin,
            max_objects=batch.max_objects,
        )

    def _stack_terms(
        self, maps: CornerMaps, batch: TargetBatch, norms: Norms, pairing: Pairing
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        values: dict[str, list[Tensor]] = {name: [] for name in pairing.outputs}
        for i, point in enumerate(p for p in POINTS if p in maps):
            prefix = "" if point in CORNERS else f"{point}_"
            where = batch.image_index, batch.cells[:, i]
            loss = norms.heatmap[i] * self.heatmap_loss(maps[point]["heatmap"], batch, i)
            terms[f"{prefix}heatmap"] = terms.get(f"{prefix}heatmap", 0.0) + loss
            predicted = at_cells(maps[point]["offset"], *where)
            loss = self.regression_loss(predicted, batch.offsets[:, i], batch, i)
            terms[f"{prefix}offset"] = terms.get(f"{prefix}offset", 0.0) + norms.offset[i] * loss
            for name in values if point in CORNERS else ():
                values[name].append(at_cells(maps[point][name], *where))
        return terms | pairing.losses(values, batch, norms, self)


@CRITERION_REGISTRY.register()
def default(cfg: CfgNode) -> CornerCriterion:
    """The paper's losses, whatever the number of processes."""
    return CornerCriterion(cfg)


def build_criterion(cfg: CfgNode) -> CornerCriterion:
    """The criterion that MODEL.CORNERNET.LOSS.CONVENTION names in CRITERION_REGISTRY."""
    name = cfg.MODEL.CORNERNET.LOSS.CONVENTION
    if name not in CRITERION_REGISTRY:
        known = ", ".join(sorted(known for known, _ in CRITERION_REGISTRY))
        raise ValueError(f"MODEL.CORNERNET.LOSS.CONVENTION is {name!r}; registered: {known}")
    return CRITERION_REGISTRY.get(name)(cfg)


def _mean_over_processes(counts: Tensor) -> Tensor:
    """Total over all processes, at least 1, over their number: DDP averages the gradients."""
    world_size = comm.get_world_size()
    if world_size > 1:
        counts = counts.clone()
        dist.all_reduce(counts)
    return counts.clamp(min=1) / world_size
