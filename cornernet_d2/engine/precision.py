"""Which arithmetic a training computes in."""

import torch
from detectron2.config import CfgNode

from ..hardware import hardware_precision

PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": None}
AUTO = "auto"


def precision(cfg: CfgNode) -> torch.dtype | None:
    """The dtype that training autocasts to, None for float32; see :func:`choose_precision`."""
    return choose_precision(cfg)[0]


def choose_precision(cfg: CfgNode) -> tuple[torch.dtype | None, str]:
    """The dtype that SOLVER.AMP asks for on MODEL.DEVICE, None for float32, and why.

    Raises:
        ValueError: SOLVER.AMP.PRECISION is unknown.
    """
    amp = cfg.SOLVER.AMP
    if amp.PRECISION not in (AUTO, *PRECISIONS):
        choices = [AUTO, *PRECISIONS]
        raise ValueError(f"SOLVER.AMP.PRECISION is {amp.PRECISION!r}; choose one of {choices}")
    if not amp.ENABLED:
        return None, "SOLVER.AMP.ENABLED is False"
    if amp.PRECISION != AUTO:
        return PRECISIONS[amp.PRECISION], "SOLVER.AMP.PRECISION"
    return hardware_precision(cfg.MODEL.DEVICE)


def precision_name(dtype: torch.dtype | None) -> str:
    """The name that SOLVER.AMP.PRECISION gives a dtype."""
    return next(name for name, known in PRECISIONS.items() if known == dtype)
