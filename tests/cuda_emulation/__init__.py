"""The CUDA kernels and their launch geometry, compiled for the host: see cuda_emulation.h."""

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).parent
CSRC = SOURCE.parents[1] / "cornernet_d2" / "csrc"
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
FORWARD, BACKWARD, SUM = range(3)


class Launch(ctypes.Structure):
    """A launch as the kernels' host code sets it up; ``args`` are the kernel's parameters."""

    _fields_ = [
        ("grid", ctypes.c_uint32),
        ("block", ctypes.c_uint32 * 2),
        ("size", ctypes.c_int),
        ("args", ctypes.c_ubyte * 256),
    ]


class Emulation:
    """Builds the library in ``folder`` with g++; operands are (out, input, second input)."""

    def __init__(self, folder: Path) -> None:
        library = folder / "emulation.so"
        command = [
            "g++",
            "-O1",
            "-U_FORTIFY_SOURCE",
            "-std=c++20",
            "-Wno-psabi",
            "-fPIC",
            "-shared",
        ]
        command += [f"-I{SOURCE}", f"-I{CSRC}", str(SOURCE / "harness.cpp"), "-o", str(library)]
        subprocess.run(command, check=True)
        self._library = ctypes.CDLL(str(library))

    def run(self, operation: int, dim: int, reverse: bool, *operands: Tensor) -> int | None:
        """Runs the kernels; returns bytes an access, or None where operands need a copy first."""
        width = self._library.emulate(*_arguments(operation, dim, reverse, operands))
        return None if width < 0 else width

    def launches(self, operation: int, dim: int, reverse: bool, *operands: Tensor) -> list[Launch]:
        """What would be launched; no memory is touched."""
        records = (Launch * 2)()
        arguments = _arguments(operation, dim, reverse, operands)
        return list(records[: self._library.geometry(*arguments, records)])


def _arguments(operation: int, dim: int, reverse: bool, operands: Sequence[Tensor]) -> tuple:
    tensors = [*operands, *[operands[-1]] * (3 - len(operands))]
    sizes = (ctypes.c_int64 * 4)(*operands[0].shape)
    strides = (ctypes.c_int64 * 12)(*(s for t in tensors for s in t.stride()))
    data = (ctypes.c_void_p * 3)(*(t.data_ptr() for t in tensors))
    code = DTYPES.index(operands[0].dtype)
    return operation, code, sizes, strides, data, dim, int(reverse)
