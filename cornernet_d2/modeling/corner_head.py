"""Prediction modules: corner pooling, then heat maps, embeddings and offsets of one corner.

Law & Deng, "CornerNet", sec. 3.5 and fig. 7. Letters: N images, C classes, h x w map pixels.
"""

import torch
from detectron2.layers import Conv2d
from torch import nn
from torch.nn import functional as F

from ..layers import corner_pool_sum
from .hourglass import conv_norm
from .recompute import Recomputable

CORNERS = ("tl", "br")
# Corner -> "heatmap", "embedding" and "offset" -> map; see CornerBranch.
CornerMaps = dict[str, dict[str, torch.Tensor]]

# The share of positive cells that the heat maps start from: sigmoid(-2.19) = 0.1, the value that
# the authors' release and Lin et al., "Focal Loss", sec. 4.1, use.
PRIOR_LOGIT = -2.19


class CornerPoolBlock(Recomputable):
    """A residual block whose first 3x3 convolution is corner pooling; (N, in, h, w) -> same.

    Args:
        channels: channels of input and output.
        pool_width: channels of the two pooled branches.
        corner: "tl" (top-left) or "br" (bottom-right).
        norm: name of the normalisation.
    """

    def __init__(self, channels: int, pool_width: int, corner: str, norm: str):
        super().__init__()
        self.corner = corner
        self.p1 = conv_norm(channels, pool_width, 3, norm)  # pooled along columns
        self.p2 = conv_norm(channels, pool_width, 3, norm)  # pooled along rows
        self.merge = conv_norm(pool_width, channels, 3, norm, relu=False)
        self.skip = conv_norm(channels, channels, 1, norm, relu=False)
        self.out = conv_norm(channels, channels, 3, norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = corner_pool_sum(self.p1(x), self.p2(x), self.corner)
        return self.out(F.relu_(self.merge(pooled) + self.skip(x)))


class OutputBranch(Recomputable, nn.Sequential):
    """3x3 convolution, ReLU, 1x1 convolution: (N, in, h, w) -> (N, out, h, w)."""

    def __init__(self, in_channels: int, width: int, out_channels: int):
        super().__init__(
            Conv2d(in_channels, width, 3, padding=1, activation=F.relu_),
            Conv2d(width, out_channels, 1),
        )


class CornerBranch(nn.Module):
    """All that is predicted of one corner, from one feature map.

    ``forward`` takes (N, in_channels, h, w) and returns "heatmap" logits (N, C, h, w),
    "embedding" (N, 1, h, w) and "offset" (N, 2, h, w) as (x, y) in map pixels.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        width: int,
        pool_width: int,
        corner: str,
        norm: str,
    ):
        super().__init__()
        self.pool = CornerPoolBlock(in_channels, pool_width, corner, norm)
        self.heatmap = OutputBranch(in_channels, width, num_classes)
        self.embedding = OutputBranch(in_channels, width, 1)
        self.offset = OutputBranch(in_channels, width, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.pool(x)
        return {name: getattr(self, name)(x) for name in ("heatmap", "embedding", "offset")}


class CornerHead(nn.Module):
    """The two prediction modules of one feature map.

    ``forward`` takes (N, in_channels, h, w) and returns {"tl": maps, "br": maps}; see
    :class:`CornerBranch` for the maps.

    Args:
        in_channels: channels of the feature map.
        num_classes: C.
        width: channels of the 3x3 convolution in front of each output.
        pool_width: channels of the corner-pooled branches.
        norm: name of the normalisation.
        recompute: recompute the activations of each part in the backward pass.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        width: int = 256,
        pool_width: int = 128,
        norm: str = "BN",
        recompute: bool = False,
    ):
        super().__init__()
        self.tl = CornerBranch(in_channels, num_classes, width, pool_width, "tl", norm)
        self.br = CornerBranch(in_channels, num_classes, width, pool_width, "br", norm)
        for module in self.modules():
            if isinstance(module, Recomputable):
                module.recompute = recompute
        for branch in (self.tl, self.br):
            nn.init.constant_(branch.heatmap[1].bias, PRIOR_LOGIT)

    def forward(self, x: torch.Tensor) -> CornerMaps:
        return {"tl": self.tl(x), "br": self.br(x)}
