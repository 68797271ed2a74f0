"""MMDetection, 2.x and 3.x."""

from .criterion import MMDetCriterion
from .inference import MMDetInference

__all__ = ["MMDetCriterion", "MMDetInference"]
