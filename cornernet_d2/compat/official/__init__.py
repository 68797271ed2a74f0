"""The authors' release (princeton-vl/CornerNet)."""

from .criterion import OfficialCriterion
from .inference import OfficialInference, resize_like_opencv
from .soft_nms import official_soft_nms

__all__ = ["OfficialCriterion", "OfficialInference", "official_soft_nms", "resize_like_opencv"]
