"""Stacked hourglass backbone (Newell et al., ECCV 2016) in the form CornerNet gave it.

Law & Deng, "CornerNet", sec. 3.5: stride-2 residual blocks instead of pooling, nearest-neighbour
upsampling, one residual path around each level. Letters: N images, H x W image pixels,
h = ceil(H / 4), w = ceil(W / 4) map pixels.
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn
from torch.nn import functional as F

from .recompute import Recomputable, check_level


def conv_norm(
    in_channels: int, out_channels: int, kernel: int, norm: str, stride: int = 1, relu: bool = True
) -> Conv2d:
    """A "same"-padded convolution without bias, its norm, and by default a ReLU."""
    return Conv2d(
        in_channels,
        out_channels,
        kernel,
        stride=stride,
        padding=kernel // 2,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu_ if relu else None,
    )


class ResidualBlock(Recomputable, CNNBlockBase):
    """Two 3x3 convolutions and a shortcut; (N, in, H, W) -> (N, out, ceil(H/s), ceil(W/s)).

    Detectron2's ``BasicBlock`` has no projection where only the stride changes, which the
    outermost hourglass level needs.
    """

    def __init__(self, in_channels: int, out_channels: int, norm: str, stride: int = 1):
        super().__init__(in_channels, out_channels, stride)
        self.conv1 = conv_norm(in_channels, out_channels, 3, norm, stride)
        self.conv2 = conv_norm(out_channels, out_channels, 3, norm, relu=False)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = conv_norm(in_channels, out_channels, 1, norm, stride, relu=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu_(self.conv2(self.conv1(x)) + self.shortcut(x))


class HourglassLevel(Recomputable):
    """One level of an hourglass, holding all deeper ones: (N, widths[0], h, w) -> same shape.

    A subclass with another ``block`` or another ``upsample`` is another kind of hourglass.

    Args:
        widths: channels at this level and below, outermost first.
        blocks: residual blocks at this level and below; the last entry is the innermost path's.
        norm: name of the normalisation.
    """

    block: type[CNNBlockBase] = ResidualBlock

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], norm: str):
        super().__init__()
        here, below, count = widths[0], widths[1], blocks[0]
        self.up1 = self._chain([here] * (count + 1), norm)
        self.low1 = self._chain([here] + [below] * count, norm, stride=2)
        if len(widths) > 2:
            self.low2 = type(self)(widths[1:], blocks[1:], norm)
        else:
            self.low2 = self._chain([below] * (blocks[1] + 1), norm)
        self.low3 = self._chain([below] * count + [here], norm)

    def _chain(self, widths: Sequence[int], norm: str, stride: int = 1) -> nn.Sequential:
        """Blocks from each width to the next; the first one has the stride."""
        return nn.Sequential(
            *(
                self.block(a, b, norm, stride if i == 0 else 1)
                for i, (a, b) in enumerate(zip(widths[:-1], widths[1:]))
            )
        )

    def upsample(self, low: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """(N, C, ceil(h / 2), ceil(w / 2)) -> (N, C, h, w) for ``size`` (h, w)."""
        # By size rather than by a factor of 2: maps of odd size are then fine as well.
        return F.interpolate(low, size=size, mode="nearest")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = self.low3(self.low2(self.low1(x)))
        return self.up1(x) + self.upsample(low, x.shape[-2:])


class Hourglass(Backbone):
    """Hourglasses in a row on a stride-4 stem.

    A subclass may have levels of another kind, and more strided blocks in the stem.

    ``forward`` takes normalised images (N, in_channels, H, W) and returns
    {"stack1": (N, out_channels, h, w), ..., "stackS": ...}; the last is the best, the others
    are for intermediate supervision.

    Args:
        widths, blocks: channels and residual blocks per level, outermost first, depth + 1 each.
        stacks: number of hourglasses.
        stem_width: channels after the 7x7 convolution.
        out_channels: channels of each output.
        norm: a name that :func:`detectron2.layers.get_norm` knows.
        recompute: recompute activations in the backward pass: "none", "stack" or "block".
        in_channels: channels of the image.

    Raises:
        ValueError: lengths of widths and blocks differ or are below 2, or an unknown recompute.
    """

    level: type[HourglassLevel] = HourglassLevel
    stem_blocks = 1  # residual blocks of stride 2 behind the strided convolution

    @configurable
    def __init__(
        self,
        *,
        widths: Sequence[int] = (256, 256, 384, 384, 384, 512),
        blocks: Sequence[int] = (2, 2, 2, 2, 2, 4),
        stacks: int = 2,
        stem_width: int = 128,
        out_channels: int = 256,
        norm: str = "BN",
        recompute: str = "none",
        in_channels: int = 3,
    ):
        super().__init__()
        if len(widths) != len(blocks) or len(widths) < 2 or min(blocks) < 1 or stacks < 1:
            raise ValueError(
                "MODEL.HOURGLASS.WIDTHS and BLOCKS need one entry per level, DEPTH + 1 in all, "
                f"BLOCKS and STACKS at least 1; got {widths}, {blocks} and {stacks} stacks"
            )
        width = widths[0]
        stem = [conv_norm(in_channels, stem_width, 7, norm, stride=2)]
        for before in [stem_width] + [width] * (self.stem_blocks - 1):
            stem.append(ResidualBlock(before, width, norm, stride=2))
        self.stem = nn.Sequential(*stem)
        self.stacks = nn.ModuleList(self.level(widths, blocks, norm) for _ in range(stacks))
        self.out_convs = nn.ModuleList(
            conv_norm(width, out_channels, 3, norm) for _ in range(stacks)
        )
        # What leads from one stack to the next: relu(inter_conv(in) + remap_conv(out)) and a block.
        links = range(stacks - 1)
        self.inter_convs = nn.ModuleList(
            conv_norm(width, width, 1, norm, relu=False) for _ in links
        )
        self.remap_convs = nn.ModuleList(
            conv_norm(out_channels, width, 1, norm, relu=False) for _ in links
        )
        self.inters = nn.ModuleList(ResidualBlock(width, width, norm) for _ in links)

        stride = 2 ** (1 + self.stem_blocks)
        self._size_divisibility = stride * 2 ** (len(widths) - 1)
        self._out_features = [f"stack{i + 1}" for i in range(stacks)]
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)
        self._out_feature_strides = dict.fromkeys(self._out_features, stride)
        recomputed = {
            "none": (),
            "stack": self.stacks,
            "block": (m for m in self.modules() if isinstance(m, CNNBlockBase)),
        }
        for module in recomputed[check_level(recompute)]:
            module.recompute = True

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        hourglass = cfg.MODEL.HOURGLASS
        levels = hourglass.DEPTH + 1
        for key in ("WIDTHS", "BLOCKS"):
            if len(hourglass[key]) != levels:
                raise ValueError(
                    f"MODEL.HOURGLASS.{key} has {len(hourglass[key])} entries; "
                    f"MODEL.HOURGLASS.DEPTH {hourglass.DEPTH} asks for {levels}"
                )
        return {
            "widths": hourglass.WIDTHS,
            "blocks": hourglass.BLOCKS,
            "stacks": hourglass.STACKS,
            "stem_width": hourglass.STEM_WIDTH,
            "out_channels": hourglass.OUT_CHANNELS,
            "norm": hourglass.NORM,
            "recompute": hourglass.RECOMPUTE,
            "in_channels": input_shape.channels,
        }

    @property
    def size_divisibility(self) -> int:
        """Image sizes that are multiples of this (pixels) make every level's size even."""
        return self._size_divisibility

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.stem(x)
        outputs: list[torch.Tensor] = []
        for i, (stack, out_conv) in enumerate(zip(self.stacks, self.out_convs)):
            outputs.append(out_conv(stack(x)))
            if i < len(self.inters):
                link = self.inter_convs[i](x) + self.remap_convs[i](outputs[-1])
                x = self.inters[i](F.relu_(link))
        return dict(zip(self._out_features, outputs))


@BACKBONE_REGISTRY.register()
def build_hourglass_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Hourglass:
    """Build :class:`Hourglass` from ``MODEL.HOURGLASS``."""
    return Hourglass(cfg, input_shape)
