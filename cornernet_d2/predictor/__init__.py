"""A file in, detections out."""

from ..checkpoint import class_names
from .build import build_predictor, load_config
from .predictor import Detected, Predictor, load

__all__ = ["Detected", "Predictor", "build_predictor", "class_names", "load", "load_config"]
