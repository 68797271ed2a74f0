"""Peak memory of a process, from the system or the GPU's allocator."""

import ctypes
from pathlib import Path

import torch


class CudaMeter:
    """Bytes that are taken at the peak since this was made; PyTorch's allocator alone."""

    def __init__(self) -> None:
        torch.cuda.reset_peak_memory_stats()
        self.before = torch.cuda.memory_allocated()

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def added(self) -> int:
        return torch.cuda.max_memory_allocated() - self.before


class LinuxMeter:
    """Bytes that are taken at the peak since this was made, from the kernel's account.

    Args:
        trim: first give back what the C library holds without need, which would be used again.
    """

    def __init__(self, trim: bool = False) -> None:
        if trim:
            getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak, see proc(5)
        self.before = self._read("VmRSS")

    def synchronize(self) -> None:
        """A CPU is never behind."""

    def added(self) -> int:
        return self._read("VmHWM") - self.before

    def _read(self, field: str) -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
        raise ValueError(f"/proc/self/status has no {field}")
