"""Backbone, head, losses, decoding and the meta-architecture."""

from .backbones import (
    SqueezeHourglass,
    TimmFPN,
    build_squeeze_backbone,
    build_timm_fpn_backbone,
)
from .corner_head import CornerHead
from .cornernet import CornerNet
from .criterion import CRITERION_REGISTRY, CornerCriterion
from .hourglass import Hourglass, build_hourglass_backbone
from .inference import INFERENCE_REGISTRY, CornerInference
from .pairing import PAIRING_REGISTRY, CentripetalPairing, EmbeddingPairing, Pairing
from .test_time_augmentation import InferenceWithTTA

__all__ = [
    "CRITERION_REGISTRY",
    "INFERENCE_REGISTRY",
    "PAIRING_REGISTRY",
    "CentripetalPairing",
    "CornerCriterion",
    "CornerHead",
    "CornerInference",
    "CornerNet",
    "EmbeddingPairing",
    "Hourglass",
    "InferenceWithTTA",
    "Pairing",
    "SqueezeHourglass",
    "TimmFPN",
    "build_hourglass_backbone",
    "build_squeeze_backbone",
    "build_timm_fpn_backbone",
]
