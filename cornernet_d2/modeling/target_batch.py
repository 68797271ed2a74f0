"""The targets of a batch, joined on the host and brought to the device in one copy.

Letters: N images, C classes, M objects in all images, h x w map (cells); Q points of an object: its
two corners and, where the model has a centre branch, its centre.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..heatmaps import Heatmaps
from ..targets import CornerTargets, plan_heatmaps
from .transfer import to_device


class TargetBatch(NamedTuple):
    """The targets of N images of one map size; tensors on the device of the maps.

    Attributes:
        heatmaps: of the planes that hold anything.
        image_index: (M,) int64, the image of each object, ascending.
        cells: (M, Q) int64, flat map index of each point, point 0 is the top-left corner.
        offsets: (M, Q, 2) float32 as (point, xy), cells.
        counts: float64, what the criterion divides by; see :meth:`.CornerCriterion.count`.
        objects: number of objects of each image, on the host.
    """

    heatmaps: Heatmaps
    image_index: Tensor
    cells: Tensor
    offsets: Tensor
    counts: Tensor
    objects: tuple[int, ...]

    @property
    def num_images(self) -> int:
        return len(self.objects)

    @property
    def corners(self) -> Tensor:
        """(M, 2, 2) float32 as (corner, xy): the exact places of the corners, cells."""
        width, cells = self.heatmaps.values.shape[-1], self.cells[:, :2]
        return torch.stack((cells % width, cells // width), dim=-1) + self.offsets[:, :2]

    @property
    def max_objects(self) -> int:
        """Most objects of one image."""
        return max(self.objects)

    @classmethod
    def join(
        cls,
        targets: Sequence[CornerTargets],
        device: torch.device,
        counts: Tensor | None = None,
    ) -> "TargetBatch":
        """Join the targets of N images and draw their heat maps on ``device``.

        Args:
            targets: of one map size and number of classes.
            device: of the maps.
            counts: on the CPU, to be taken along.
        """
        plan = plan_heatmaps(targets)
        objects = tuple(len(t) for t in targets)
        images = torch.arange(len(objects)).repeat_interleave(torch.tensor(objects))
        cells, offsets = (
            torch.cat([getattr(t, name) for t in targets]) for name in ("cells", "offsets")
        )
        counts = torch.zeros(0, dtype=torch.float64) if counts is None else counts
        drawn = [getattr(plan, name) for name in plan.TENSORS]
        images, cells, offsets, counts, *drawn = to_device(
            [images, cells, offsets, counts, *drawn], device
        )
        heatmaps = plan._replace(**dict(zip(plan.TENSORS, drawn))).draw()
        return cls(heatmaps, images, cells, offsets, counts, objects)


def at_cells(x: Tensor, image_index: Tensor, cells: Tensor) -> Tensor:
    """Values of (N, D, h, w) at flat cells of given images: (M, D)."""
    return x[image_index, :, cells // x.shape[-1], cells % x.shape[-1]]
