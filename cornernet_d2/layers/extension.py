"""Loads the compiled kernels, if there are any."""

import importlib
import logging
import os
import sys
from typing import Dict

import torch

logger = logging.getLogger(__name__)

# Set to 1 to ignore compiled kernels and run everything in standard PyTorch operators.
FALLBACK_VARIABLE = "CORNERNET_D2_FORCE_FALLBACK"


def _load() -> bool:
    if os.environ.get(FALLBACK_VARIABLE, "0") == "1":
        return False
    try:
        importlib.import_module("cornernet_d2._C")
    except ModuleNotFoundError:
        return False  # not built: a supported installation
    except ImportError as error:
        logger.warning("The compiled corner-pool kernels do not load (%s); rebuild them.", error)
        return False
    return True


_LOADED = _load()


def is_compiled() -> Dict[str, bool]:
    """Whether corner pooling has compiled kernels: ``{"cpu": bool, "cuda": bool}``.

    Where it is False the same operators run in standard PyTorch operators.
    """
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    name = "cornernet_d2::corner_pool"
    return {"cpu": _LOADED and has(name, "CPU"), "cuda": _LOADED and has(name, "CUDA")}


def report() -> Dict[str, str]:
    """How the operator runs here, as lines for an environment report."""
    compiled = is_compiled()
    path = getattr(sys.modules.get("cornernet_d2._C"), "__file__", None) or "not loaded"
    forced = os.environ.get(FALLBACK_VARIABLE, "0") == "1"
    return {
        "corner_pool kernels": ", ".join(k for k, v in compiled.items() if v) or "none (fallback)",
        "corner_pool library": f"{FALLBACK_VARIABLE} is set" if forced else path,
    }
