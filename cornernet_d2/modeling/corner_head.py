"""Prediction modules: corner pooling, then the outputs of one corner.

Heat maps and offsets, and what the pairing needs: embeddings in the paper. Of centres, where the
model has a branch for them (Duan et al., "CenterNet", ICCV 2019), heat maps and offsets.

Law & Deng, "CornerNet", sec. 3.5 and fig. 7. Letters: N images, C classes, h x w map pixels.
"""

import torch
from torch import nn

from .outputs import CORNERS, CornerMaps, OutputBranch
from .pairing import EmbeddingPairing, Pairing
from .pool_blocks import CascadePoolBlock, CenterPoolBlock, CornerPoolBlock
from .recompute import Recomputable

# The share of positive cells that the heat maps start from: sigmoid(-2.19) = 0.1, the value that
# the authors' release and Lin et al., "Focal Loss", sec. 4.1, use.
PRIOR_LOGIT = -2.19


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
        cascade: bool,
    ):
        super().__init__()
        self.outputs = ("heatmap", *pairing.outputs, "offset")
        pool_block = CascadePoolBlock if cascade else CornerPoolBlock
        self.pool = pool_block(in_channels, pool_width, norm, corner)
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


class CenterBranch(nn.Module):
    """All that is predicted of centres: "heatmap" logits (N, C, h, w), "offset" (N, 2, h, w)."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        width: int,
        pool_width: int,
        norm: str,
        kernel: int,
    ):
        super().__init__()
        self.pool = CenterPoolBlock(in_channels, pool_width, norm)
        self.heatmap = OutputBranch(in_channels, width, num_classes, kernel)
        self.offset = OutputBranch(in_channels, width, 2, kernel)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.pool(x)
        return {"heatmap": self.heatmap(x), "offset": self.offset(x)}


class CornerHead(nn.Module):
    """The prediction modules of one feature map.

    ``forward`` takes (N, in_channels, h, w) and returns {"tl": maps, "br": maps}, with ``center``
    also {"center": maps}; see :class:`CornerBranch` and :class:`CenterBranch` for the maps.

    Args:
        in_channels: channels of the feature map.
        num_classes: C.
        width: channels of the convolution in front of each output.
        pool_width: channels of the corner-pooled branches.
        norm: name of the normalisation.
        recompute: recompute the activations of each part in the backward pass.
        pairing: what else is predicted of a corner.
        kernel: side of the convolution in front of each output.
        center: also predict centres.
        cascade: cascade corner pooling.
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
        center: bool = False,
        cascade: bool = False,
    ):
        super().__init__()
        for corner in CORNERS:
            settings = num_classes, width, pool_width, corner, norm, pairing, kernel, cascade
            self.add_module(corner, CornerBranch(in_channels, *settings))
        if center:
            self.center = CenterBranch(in_channels, num_classes, width, pool_width, norm, kernel)
        for module in self.modules():
            if isinstance(module, Recomputable):
                module.recompute = recompute
        for branch in self.children():
            nn.init.constant_(branch.heatmap[1].bias, PRIOR_LOGIT)

    def forward(self, x: torch.Tensor) -> CornerMaps:
        return {point: branch(x) for point, branch in self.named_children()}
