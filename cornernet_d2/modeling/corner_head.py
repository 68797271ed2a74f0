"""Prediction modules: corner pooling, then the outputs of one corner.

Heat maps and offsets, and what the pairing needs: embeddings in the paper.

Law & Deng, "CornerNet", sec. 3.5 and fig. 7. Letters: N images, C classes, h x w map pixels.
"""

import torch
from torch import nn
from torch.nn import functional as F

from ..layers import corner_pool_sum
from .hourglass import conv_norm
from .outputs import CORNERS, CornerMaps, OutputBranch
from .pairing import EmbeddingPairing, Pairing
from .recompute import Recomputable

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


class CornerBranch(nn.Module):
    """All that is predicted of one corner, from one feature map.

    ``forward`` takes (N, in_channels, h, w) and returns "heatmap" logits (N, C, h, w), the
    pairing's outputs, and "offset" (N, 2, h, w) as (x, y) in map pixels.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        width: int,
        pool_width: int,
        corner: str,
        norm: str,
        pairing: Pairing,
        kernel: int,
    ):
        super().__init__()
        self.outputs = ("heatmap", *pairing.outputs, "offset")
        self.pool = CornerPoolBlock(in_channels, pool_width, corner, norm)
        self.heatmap = OutputBranch(in_channels, width, num_classes, kernel)
        for name, branch in pairing.branches(in_channels, width, kernel).items():
            self.add_module(name, branch)
        self.offset = OutputBranch(in_channels, width, 2, kernel)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.pool(x)
        maps: dict[str, torch.Tensor] = {}
        for name in self.outputs:
            branch = getattr(self, name)
            maps[name] = branch(x, *(maps[other] for other in getattr(branch, "after", ())))
        return maps


class CornerHead(nn.Module):
    """The two prediction modules of one feature map.

    ``forward`` takes (N, in_channels, h, w) and returns {"tl": maps, "br": maps}; see
    :class:`CornerBranch` for the maps.

    Args:
        in_channels: channels of the feature map.
        num_classes: C.
        width: channels of the convolution in front of each output.
        pool_width: channels of the corner-pooled branches.
        norm: name of the normalisation.
        recompute: recompute the activations of each part in the backward pass.
        pairing: what else is predicted of a corner.
        kernel: side of the convolution in front of each output.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        width: int = 256,
        pool_width: int = 128,
        norm: str = "BN",
        recompute: bool = False,
        pairing: Pairing = EmbeddingPairing(),
        kernel: int = 3,
    ):
        super().__init__()
        for corner in CORNERS:
            settings = num_classes, width, pool_width, corner, norm, pairing, kernel
            self.add_module(corner, CornerBranch(in_channels, *settings))
        for module in self.modules():
            if isinstance(module, Recomputable):
                module.recompute = recompute
        for branch in (self.tl, self.br):
            nn.init.constant_(branch.heatmap[1].bias, PRIOR_LOGIT)

    def forward(self, x: torch.Tensor) -> CornerMaps:
        return {"tl": self.tl(x), "br": self.br(x)}
