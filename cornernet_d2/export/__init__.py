"""A trained model as one file that needs neither this package nor, for ONNX, PyTorch."""

from .artifact import Artifact, export
from .formats import FORMATS, run
from .parity import compare, report_lines

__all__ = ["FORMATS", "Artifact", "compare", "export", "report_lines", "run"]
