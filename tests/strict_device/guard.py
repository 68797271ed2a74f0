"""Builds guard.cpp and puts its device in the place of the one that a driver would give."""

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("guard.cpp")
COMPILER = os.environ.get("CXX", "c++")


def missing() -> str:
    """Why the guard cannot be built here; empty if it can."""
    if torch.version.cuda is None:
        return "torch is built without CUDA"
    if shutil.which(COMPILER) is None:
        return f"there is no C++ compiler ({COMPILER})"
    return ""


@functools.cache
def install() -> None:
    """Compile and load the guard; for good, and before anything has asked torch for a GPU.

    Raises:
        RuntimeError: the compiler's message.
    """
    torch_folder = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        library = os.path.join(folder, "guard.so")
        command = [COMPILER, "-std=c++20", "-shared", "-fPIC", str(SOURCE), "-o", library]
        command += [f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}"]
        done = subprocess.run(
            [*command, "-lc10", "-ltorch_cpu"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{SOURCE.name} does not compile:\n{done.stderr[-2000:]}")
        ctypes.CDLL(library).install()
