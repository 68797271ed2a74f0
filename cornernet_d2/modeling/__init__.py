"""Backbone, head, losses, decoding and the meta-architecture."""

from .hourglass import Hourglass, build_hourglass_backbone

__all__ = ["Hourglass", "build_hourglass_backbone"]
