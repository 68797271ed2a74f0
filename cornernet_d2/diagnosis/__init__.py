"""What a trained model sees and why it errs: causes, oracle table, report, pictures."""

from .analysis import Analysis, analyze
from .causes import FALSE, MISSED, ImageDiagnosis, diagnose
from .summary import Summary
from .visualizer import CornerNetVisualizer

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
