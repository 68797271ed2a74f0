"""Backbone, head, losses, decoding and the meta-architecture."""

from .corner_head import CornerHead
from .cornernet import CornerNet
from .criterion import CornerCriterion
from .hourglass import Hourglass, build_hourglass_backbone
from .postprocess import CornerInference

__all__ = [
    "CornerCriterion",
    "CornerHead",
    "CornerInference",
    "CornerNet",
    "Hourglass",
    "build_hourglass_backbone",
]
