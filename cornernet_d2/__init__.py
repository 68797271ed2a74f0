"""CornerNet ("Detecting Objects as Paired Keypoints") as a plugin for Detectron2.

Importing the package registers ``build_hourglass_backbone`` and the ``CornerNet`` meta-architecture
in Detectron2's registries, the rules of other code bases in ours, and does nothing else.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

try:
    with warnings.catch_warnings():
        # Detectron2 compiles functions with what PyTorch calls deprecated: no news for a user.
        warnings.filterwarnings("ignore", "`torch.jit.script", category=FutureWarning)
        import detectron2.modeling  # noqa: F401
except ImportError as error:
    advice = (
        f"cornernet_d2 is a plugin for Detectron2, which cannot be imported ({error}): pip install "
        "--no-build-isolation git+https://github.com/facebookresearch/detectron2, or `make setup` "
        "in a clone of cornernet_d2"
    )
    if Path(*sys.argv[:1]).name in ("cornernet", "cornernet.exe"):  # no traceback at a command line
        sys.exit(f"cornernet: {advice}")
    missing = (error.name or "").startswith("detectron2")
    raise ImportError(advice) from (None if missing else error)

from . import compat, data, model_zoo, modeling  # noqa: F401
from .config import add_cornernet_config
from .prepare import prepare_for_inference

__version__ = "0.1.0"

__all__ = ["__version__", "add_cornernet_config", "model_zoo", "prepare_for_inference"]
_LAZY = ("Predictor", "build_predictor", "class_names", "load", "load_config")
__all__ += _LAZY


def __getattr__(name: str) -> Any:
    """Names that need Detectron2's engine, which is imported when the first is asked for."""
    if name in _LAZY:
        from . import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
