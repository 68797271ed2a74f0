"""Backbones besides the hourglass."""

from .squeeze import SqueezeHourglass, build_squeeze_backbone
from .timm_fpn import TimmFPN, build_timm_fpn_backbone

__all__ = ["SqueezeHourglass", "TimmFPN", "build_squeeze_backbone", "build_timm_fpn_backbone"]
