"""What the four losses are divided by, over corners, stacks, images and processes.

===============  ==========================  ==========================  =====================
convention       default                     official                    mmdet
===============  ==========================  ==========================  =====================
heat map         / objects                   / cells that are 1          / max(1, cells) / 2
offset           / objects                   / (objects + 1e-4)          / max(1, cells) / 2
shared cells     every offset counts         every offset counts         the last one counts
pull, push       5 x mean over images        sum over images             sum over images
over stacks      mean                        mean                        sum
counted over     all processes               one process                 one process
push, 1 object   0                           1, without gradient         0
sigmoid          exact                       clamped at 1e-4             exact
===============  ==========================  ==========================  =====================

"official" is what the authors' released code computes, "mmdet" what MMDetection does. In both the
weight of pull and push grows with the number of images per process, so that the same batch split
over more processes trains differently; in the default it does not. Its factor of 5 is the number
of images that the authors had on a GPU, so that it weighs as much as theirs did, and was the best
of 1, 5 and 16 on the synthetic shapes (AP 57.5, 62.5, 59.2 after 800 iterations). Batches whose
gradients are accumulated count as one in all of them.

Letters: N images, C classes, M objects in all images, h x w map pixels.
"""

from dataclasses import dataclass
from typing import Dict, Optional, Sequence, Tuple, Union

import torch
import torch.distributed as dist
from detectron2.utils import comm

from ..targets import CornerTargets, draw_heatmaps
from .corner_head import CORNERS, CornerMaps
from .losses import OFFICIAL_CLAMP, OFFICIAL_EPS, heatmap_focal_loss, offset_loss, pull_push_loss

CONVENTIONS = ("default", "official", "mmdet")

# Factors of the two heat map sums, of the two offset sums, and of the sums over images.
Norms = Tuple[Sequence, Sequence, Union[float, torch.Tensor]]


@dataclass
class TargetBatch:
    """The targets of N images, joined, on the device of the maps."""

    heatmaps: torch.Tensor  # (N, 2, C, h, w), corner 0 is top-left
    ignore: Optional[torch.Tensor]  # bool, same shape: neither positive nor negative
    image_index: torch.Tensor  # (M,) int64, the image of each object
    cells: torch.Tensor  # (M, 2) int64, flat map index of each corner
    offsets: torch.Tensor  # (M, 2, 2) as (corner, xy), map pixels
    counts: torch.Tensor  # what :func:`count_targets` gives for these images

    @classmethod
    def join(cls, targets: Sequence[CornerTargets], device: torch.device) -> "TargetBatch":
        """Draw the heat maps of N targets of one map size on ``device`` and join the rest."""
        counts = count_targets(targets).to(device)
        targets = [t.to(device) for t in targets]
        heatmaps, ignore = draw_heatmaps(targets)
        objects = torch.tensor([len(t) for t in targets], device=device)
        return cls(
            heatmaps=heatmaps,
            ignore=ignore,
            image_index=torch.arange(len(targets), device=device).repeat_interleave(objects),
            cells=torch.cat([t.cells for t in targets]),
            offsets=torch.cat([t.offsets for t in targets]),
            counts=counts,
        )


def count_targets(targets: Sequence[CornerTargets]) -> torch.Tensor:
    """What the conventions divide by, to be added up over the batches that make one step.

    Returns:
        float64 (6,) on the CPU: objects; images; cells whose heat map target is 1, per corner;
        cells that have an offset, whatever the class, per corner.
    """
    counts = torch.zeros(6, dtype=torch.float64)
    for t in targets:
        height, width = t.map_size
        positives = t.classes[:, None] * (height * width) + t.cells
        distinct = [len(x.unique()) for cells in (positives, t.cells) for x in cells.unbind(1)]
        counts += torch.tensor([len(t), 1, *distinct], dtype=torch.float64)
    return counts


class CornerCriterion:
    """Corner maps of every stack and targets -> the four weighted losses.

    Args:
        convention: "default", "official" or "mmdet"; see the table above.
        alpha, beta: exponents of the focal loss, eq. 1.
        pull_weight, push_weight, offset_weight: eq. 6 (alpha, beta, gamma there).
        push_margin: Delta of eq. 5.
        embedding_images: the default convention's factor of pull and push.

    Raises:
        ValueError: unknown convention.
    """

    def __init__(
        self,
        *,
        convention: str = "default",
        alpha: float = 2.0,
        beta: float = 4.0,
        pull_weight: float = 0.1,
        push_weight: float = 0.1,
        push_margin: float = 1.0,
        offset_weight: float = 1.0,
        embedding_images: float = 5.0,
    ):
        if convention not in CONVENTIONS:
            raise ValueError(
                f"MODEL.CORNERNET.LOSS.CONVENTION is {convention!r}; choose one of {CONVENTIONS}"
            )
        self.convention = convention
        self.alpha, self.beta, self.margin = alpha, beta, push_margin
        self.embedding_images = embedding_images
        self.weights = {
            "heatmap": 1.0,
            "pull": pull_weight,
            "push": push_weight,
            "offset": offset_weight,
        }

    def __call__(
        self,
        stacks: Sequence[CornerMaps],
        targets: TargetBatch,
        counts: Optional[torch.Tensor] = None,
    ) -> Dict[str, torch.Tensor]:
        """Compute the losses.

        Args:
            stacks: maps of each stack, (N, ., h, w).
            targets: of the same N images, on the device of the maps.
            counts: :func:`count_targets` of all batches whose gradients are accumulated into one
                step; default: of this batch alone.

        Returns:
            loss_heatmap, loss_pull, loss_push, loss_offset: scalars, weighted, to be summed.
        """
        dtype = torch.promote_types(stacks[0]["tl"]["heatmap"].dtype, torch.float32)
        norms = self._normalizers(targets.counts if counts is None else counts, dtype)
        terms = [self._stack_terms(maps, targets, norms) for maps in stacks]
        scale = 1.0 if self.convention == "mmdet" else 1.0 / len(stacks)
        return {
            f"loss_{name}": scale * weight * torch.stack([t[name] for t in terms]).sum()
            for name, weight in self.weights.items()
        }

    def _stack_terms(
        self, maps: CornerMaps, batch: TargetBatch, norms: Norms
    ) -> Dict[str, torch.Tensor]:
        heatmap_norms, offset_norms, image_norm = norms
        heatmap, offset = 0.0, 0.0
        for i, corner in enumerate(CORNERS):
            heatmap = heatmap + heatmap_norms[i] * heatmap_focal_loss(
                maps[corner]["heatmap"],
                batch.heatmaps[:, i],
                None if batch.ignore is None else batch.ignore[:, i],
                alpha=self.alpha,
                beta=self.beta,
                clamp=OFFICIAL_CLAMP if self.convention == "official" else 0.0,
            )
            chosen = _last_in_cell(batch, i) if self.convention == "mmdet" else slice(None)
            where = (batch.image_index[chosen], batch.cells[chosen, i])
            predicted = at_cells(maps[corner]["offset"], *where)
            offset = offset + offset_norms[i] * offset_loss(predicted, batch.offsets[chosen, i])
        tl, br = (
            at_cells(maps[corner]["embedding"], batch.image_index, batch.cells[:, i])[:, 0]
            for i, corner in enumerate(CORNERS)
        )
        pull, push = pull_push_loss(
            tl,
            br,
            batch.image_index,
            len(batch.heatmaps),
            margin=self.margin,
            official=self.convention == "official",
        )
        return {
            "heatmap": heatmap,
            "offset": offset,
            "pull": image_norm * pull.sum(),
            "push": image_norm * push.sum(),
        }

    def _normalizers(self, counts: torch.Tensor, dtype: torch.dtype) -> Norms:
        if self.convention == "default":
            objects, images = (1 / _mean_over_processes(counts)).to(dtype)[:2]
            return (objects, objects), (objects, objects), self.embedding_images * images
        objects, cells, with_offset = counts[0], counts[2:4].clamp(min=1), counts[4:].clamp(min=1)
        if self.convention == "official":
            offset = (1 / (objects + OFFICIAL_EPS)).to(dtype)
            return (1 / cells).to(dtype), (offset, offset), 1.0
        return (0.5 / cells).to(dtype), (0.5 / with_offset).to(dtype), 1.0


def _last_in_cell(batch: TargetBatch, corner: int) -> torch.Tensor:
    """Of the objects that share a corner's cell, whatever their classes, the last: int64 indices.

    MMDetection's offset targets are a map, in which later objects overwrite earlier ones.
    """
    size = batch.heatmaps[0, 0, 0].numel()
    cells = batch.image_index * size + batch.cells[:, corner]
    unique, cell = cells.unique(return_inverse=True)
    objects = torch.arange(len(cells), device=cells.device)
    return torch.zeros_like(unique).scatter_reduce_(0, cell, objects, "amax")


def _mean_over_processes(counts: torch.Tensor) -> torch.Tensor:
    """Total over all processes, at least 1, over their number: DDP averages the gradients."""
    world_size = comm.get_world_size()
    if world_size > 1:
        counts = counts.clone()
        dist.all_reduce(counts)
    return counts.clamp(min=1) / world_size


def at_cells(x: torch.Tensor, image_index: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Values of (N, D, h, w) at flat cells of given images: (M, D)."""
    return x[image_index, :, cells // x.shape[-1], cells % x.shape[-1]]
