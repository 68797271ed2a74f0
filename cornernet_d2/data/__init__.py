"""Dataset dicts to training examples: augmentations, mapper and checks of the data."""

from . import builtin  # noqa: F401
from .dataset_mapper import CornerNetDatasetMapper

__all__ = ["CornerNetDatasetMapper"]
