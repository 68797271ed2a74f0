"""What a trained model sees and why it errs: causes, oracle table, report, pictures."""

from ..visualize import CornerNetVisualizer
from .analysis import Analysis, analyze
from .causes import FALSE, MISSED, ImageDiagnosis, diagnose
from .summary import Summary

__all__ = [
    "FALSE",
    "MISSED",
    "Analysis",
    "CornerNetVisualizer",
    "ImageDiagnosis",
    "Summary",
    "analyze",
    "diagnose",
]
