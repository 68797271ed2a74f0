"""The hourglass of CornerNet-Squeeze: fire blocks, learned upsampling, stride 8.

Law et al., "CornerNet-Lite: Efficient Keypoint Based Object Detection" (BMVC 2020), sec. 3.2; fire
blocks are SqueezeNet's (Iandola et al., 2016) with MobileNet's depthwise convolution. Letters:
N images, h x w cells of 8 pixels.
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from torch import nn
from torch.nn import functional as F

from ..hourglass import Hourglass, HourglassLevel, conv_norm
from ..recompute import Recomputable


class FireBlock(Recomputable, CNNBlockBase):
    """Half the channels, then 1x1 beside depthwise 3x3; (N, in, h, w) -> (N, out, ~h/s, ~w/s).

    The input is added where it has the output's shape; there is no projection elsewhere. No ReLU
    follows the first convolution, as in the authors' code.

    Raises:
        ValueError: an odd number of output channels.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str, stride: int = 1):
        super().__init__(in_channels, out_channels, stride)
        if out_channels % 2:
            raise ValueError(
                f"MODEL.HOURGLASS.WIDTHS has {out_channels}; fire blocks need even widths"
            )
        half = out_channels // 2
        self.squeeze = conv_norm(in_channels, half, 1, norm, relu=False)
        self.expand1x1 = Conv2d(half, half, 1, stride=stride, bias=False)
        self.expand3x3 = Conv2d(half, half, 3, stride=stride, padding=1, groups=half, bias=False)
        self.norm = get_norm(norm, out_channels)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        squeezed = self.squeeze(x)
        out = self.norm(torch.cat((self.expand1x1(squeezed), self.expand3x3(squeezed)), 1))
        return F.relu_(out + x if self.residual else out)


class SqueezeLevel(HourglassLevel):
    """A level of fire blocks, upsampled by a transposed convolution."""

    block = FireBlock

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], norm: str):
        super().__init__(widths, blocks, norm)
        self.up2 = nn.ConvTranspose2d(widths[0], widths[0], 4, stride=2, padding=1)

    def upsample(self, low: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        return self.up2(low)[..., : size[0], : size[1]]


class SqueezeHourglass(Hourglass):
    """:class:`.Hourglass` of fire blocks, with one more strided block in the stem: stride 8.

    Stem and links between stacks have ordinary residual blocks. Arguments as of the base class.
    """

    level = SqueezeLevel
    stem_blocks = 2


@BACKBONE_REGISTRY.register()
def build_squeeze_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> SqueezeHourglass:
    """Build :class:`SqueezeHourglass` from ``MODEL.HOURGLASS``."""
    return SqueezeHourglass(cfg, input_shape)
