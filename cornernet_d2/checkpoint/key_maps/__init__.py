"""Names of CornerNet's parameters in every published code base, mapped both ways without loss.

A file a family of networks has its rules, and the order of keys in its files.
"""

from .names import FORMATS, detect_format, rename, sort_keys

__all__ = ["FORMATS", "detect_format", "rename", "sort_keys"]
