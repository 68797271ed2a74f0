"""The centre check: a pair of corners is an object if it has a centre of its class in its middle.

Duan et al., "CenterNet: Keypoint Triplets for Object Detection", ICCV 2019, sec. 3.2. Letters: N
images, K pairs, P centres. Boxes are ``x0 y0 x1 y1``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from torch import Tensor

from .outputs import REJECTED
from .pairing import Corners


class CenterCheck(NamedTuple):
    """Which part of a box is its middle.

    Attributes:
        parts: odd numbers of parts that the width and the height of boxes up to ``large_area``, and
            of those above, are divided into, of which the middle one counts.
        large_area: canvas pixels^2.
    """

    parts: tuple[int, int] = (3, 5)
    large_area: float = 22500.0

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "CenterCheck | None":
        """What MODEL.CORNERNET.CENTER asks for; None if it is not enabled.

        Raises:
            ValueError: PARTS are not two odd numbers.
        """
        settings = cfg.MODEL.CORNERNET.CENTER
        parts = tuple(settings.PARTS)
        if len(parts) != 2 or any(n < 1 or n % 2 == 0 for n in parts):
            raise ValueError(f"MODEL.CORNERNET.CENTER.PARTS must be two odd numbers, got {parts}")
        return cls(parts, settings.LARGE_AREA) if settings.ENABLED else None

    def __call__(
        self,
        boxes: Tensor,
        scores: Tensor,
        classes: Tensor,
        centers: Corners,
        cell_size: Sequence[float],
    ) -> Tensor:
        """(N, K) scores after the check: the mean of three points', or REJECTED (-1).

        Of several centres that fit a box the one of the highest score counts.

        Args:
            boxes, scores, classes: (N, K, 4) in map pixels, (N, K) and (N, K), of the pairs.
            centers: P of each image.
            cell_size: (x, y) canvas pixels of a cell.
        """
        fits = self.fits(boxes, classes, centers.xy, centers.classes, cell_size)
        best = torch.where(fits, centers.scores[:, None], -torch.inf).amax(dim=-1)
        # What must hold, rather than what must not: comparisons with NaN are false.
        return torch.where((scores >= 0) & (best >= 0), (2 * scores + best) / 3, REJECTED)

    def fits(
        self,
        boxes: Tensor,
        classes: Tensor,
        points: Tensor,
        point_classes: Tensor,
        cell_size: Sequence[float],
    ) -> Tensor:
        """(N, K, P) bool: the point is strictly inside the box's middle, and of its class."""
        low, high = boxes.split(2, dim=-1)
        area = (high - low).prod(dim=-1, keepdim=True) * (cell_size[0] * cell_size[1])
        small, large = self.parts
        parts = torch.where(area > self.large_area, float(large), float(small))
        less, more = (parts - 1) / 2, (parts + 1) / 2
        start, end = (more * low + less * high) / parts, (less * low + more * high) / parts
        within = (points[:, None] > start[:, :, None]) & (points[:, None] < end[:, :, None])
        return within.all(dim=-1) & (classes[:, :, None] == point_classes[:, None])
