"""What is predicted of a point: the names of the maps, and the layers that each is made by.

Letters: N images, h x w map pixels.
"""

import torch
from detectron2.layers import Conv2d
from torch import nn
from torch.nn import functional as F

from .recompute import Recomputable

CORNERS = ("tl", "br")
POINTS = (*CORNERS, "center")  # the last where the model has a centre branch
REJECTED = -1.0  # score of a pair that is no box
# Point -> name of an output -> map (N, ., h, w); see corner_head.CornerBranch.
CornerMaps = dict[str, dict[str, torch.Tensor]]


class OutputBranch(Recomputable, nn.Sequential):
    """A convolution, ReLU, 1x1 convolution: (N, in, h, w) -> (N, out, h, w).

    Args:
        kernel: side of the first convolution's kernel, odd.
        dilation: of the first convolution.
    """

    # Outputs of the same corner that the forward takes besides the feature map.
    after: tuple[str, ...] = ()

    def __init__(
        self, in_channels: int, width: int, out_channels: int, kernel: int = 3, dilation: int = 1
    ):
        reach = {"padding": dilation * (kernel // 2), "dilation": dilation}
        super().__init__(
            Conv2d(in_channels, width, kernel, **reach, activation=F.relu_),
            Conv2d(width, out_channels, 1),
        )
