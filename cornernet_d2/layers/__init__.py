"""Operators of the corner heads."""

from .corner_pool import CornerPool, corner_pool, corner_pool_sum
from .extension import is_compiled

__all__ = ["CornerPool", "corner_pool", "corner_pool_sum", "is_compiled"]
