"""Operators of the corner heads."""

from .corner_pool import CornerPool, corner_pool, corner_pool_sum
from .extension import is_compiled
from .soft_nms import soft_nms

__all__ = ["CornerPool", "corner_pool", "corner_pool_sum", "is_compiled", "soft_nms"]
