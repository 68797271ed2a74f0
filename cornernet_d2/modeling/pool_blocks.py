"""Residual blocks whose first 3x3 convolution is pooling over the map: what a branch begins with.

Law & Deng, "CornerNet", sec. 3.5 and fig. 7; Duan et al., "CenterNet", ICCV 2019, sec. 3.3.
Letters: N images, h x w map pixels.
"""

import abc

import torch
from detectron2.layers import Conv2d
from torch.nn import functional as F

from ..layers import corner_pool, corner_pool_sum
from .hourglass import conv_norm
from .recompute import Recomputable


class PoolBlock(Recomputable, abc.ABC):
    """Pooling and a shortcut; (N, channels, h, w) -> same.

    Args:
        channels: channels of input and output.
        pool_width: channels of the two pooled branches.
        norm: name of the normalisation.
    """

    def __init__(self, channels: int, pool_width: int, norm: str):
        super().__init__()
        self.p1 = conv_norm(channels, pool_width, 3, norm)  # pooled along columns
        self.p2 = conv_norm(channels, pool_width, 3, norm)  # pooled along rows
        self.merge = conv_norm(pool_width, channels, 3, norm, relu=False)
        self.skip = conv_norm(channels, channels, 1, norm, relu=False)
        self.out = conv_norm(channels, channels, 3, norm)

    @abc.abstractmethod
    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        """(N, channels, h, w) -> (N, pool_width, h, w)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(F.relu_(self.merge(self.pooled(x)) + self.skip(x)))


class CornerPoolBlock(PoolBlock):
    """Corner pooling of a corner "tl" (top-left) or "br" (bottom-right)."""

    def __init__(self, channels: int, pool_width: int, norm: str, corner: str):
        super().__init__(channels, pool_width, norm)
        self.corner = corner

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        return corner_pool_sum(self.p1(x), self.p2(x), self.corner)


class CascadePoolBlock(CornerPoolBlock):
    """Cascade corner pooling: along the edge, a look into the object from each of its places.

    The bare 3x3 convolutions behind the looks are the authors' code's, not the paper's.
    """

    def __init__(self, channels: int, pool_width: int, norm: str, corner: str):
        super().__init__(channels, pool_width, norm, corner)
        self.look1 = conv_norm(channels, pool_width, 3, norm)  # along rows, for p1
        self.look2 = conv_norm(channels, pool_width, 3, norm)  # along columns, for p2
        self.mix1 = Conv2d(pool_width, pool_width, 3, padding=1, bias=False)
        self.mix2 = Conv2d(pool_width, pool_width, 3, padding=1, bias=False)

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        along_columns, along_rows = ("top", "left") if self.corner == "tl" else ("bottom", "right")
        vertical = self.mix1(self.p1(x) + corner_pool(self.look1(x), along_rows))
        horizontal = self.mix2(self.p2(x) + corner_pool(self.look2(x), along_columns))
        return corner_pool_sum(vertical, horizontal, self.corner)


class CenterPoolBlock(PoolBlock):
    """Centre pooling: the maximum of the whole column plus that of the whole row."""

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        # The scan ends with the maximum of all: one pass, where a pool there and back takes two.
        columns = corner_pool(self.p1(x), "top")[:, :, :1]
        rows = corner_pool(self.p2(x), "left")[..., :1]
        return columns + rows
