"""Backbones besides the hourglass."""

from .squeeze import SqueezeHourglass, build_squeeze_backbone

__all__ = ["SqueezeHourglass", "build_squeeze_backbone"]
