"""Loads the compiled kernels, if there are any."""

import importlib
import logging
import os
import sys

import torch

logger = logging.getLogger(__name__)

# Set to 1 to ignore compiled kernels and run everything in standard PyTorch operators.
FALLBACK_VARIABLE = "CORNERNET_D2_FORCE_FALLBACK"
MODULES = {"cpu": "cornernet_d2._C", "cuda": "cornernet_d2._C_cuda"}


def _load(name: str) -> str | None:
    """Import a compiled module; returns the reason if it cannot be had."""
    if os.environ.get(FALLBACK_VARIABLE, "0") == "1":
        return f"{FALLBACK_VARIABLE} is set"
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return "not built (pip install -v --no-build-isolation says why)"
    except ImportError as error:  # another torch, or a library of CUDA that is not there
        return f"does not load with torch {torch.__version__}: {error}"
    return None


def _load_all() -> dict[str, str]:
    """Import every module; returns why not, by device, for those that cannot be had.

    A broken module is worth a warning, and so is the lack of kernels for the CPU, unless it was
    asked for. Machines without a GPU, and a torch without CUDA, need no kernels for CUDA.
    """
    missing = {device: reason for device, name in MODULES.items() if (reason := _load(name))}
    reason = missing.get("cpu", "")
    if reason and FALLBACK_VARIABLE not in reason:
        logger.warning("Corner pooling runs in standard PyTorch operators, slower: %s", reason)
    reason = missing.get("cuda", "")
    if "does not load" in reason and torch.version.cuda:
        logger.warning("On a GPU corner pooling runs in standard PyTorch operators: %s", reason)
    return missing


_MISSING = _load_all()


def is_compiled() -> dict[str, bool]:
    """Whether the operators have compiled kernels: ``{"cpu": bool, "cuda": bool}``.

    Where it is False the same operators run in standard PyTorch operators.
    """
    return {device: device not in _MISSING for device in MODULES}


def report() -> dict[str, str]:
    """How the operators run here, as lines for an environment report."""
    return {
        f"{device} kernels": _MISSING.get(device) or str(sys.modules[name].__file__)
        for device, name in MODULES.items()
    }
