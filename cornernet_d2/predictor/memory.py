"""Whether a canvas fits into memory, told before any of it is taken."""

import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Canvases up to so many pixels (all images of the batch) are taken to fit without a look.
SMALL = 1 << 21
# Convolutions work in buffers of their own, and allocators cannot use every gap.
RESERVE = 1.5


class _Peak(TorchDispatchMode):
    """Adds up the memory of all tensors that live at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.users: Counter[int] = Counter()

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self._take(storage._cdata, storage.nbytes())
                weakref.finalize(tensor, self._release, storage._cdata, storage.nbytes())
        return result

    def _take(self, key: int, size: int) -> None:
        self.live += 0 if self.users[key] else size
        self.users[key] += 1
        self.peak = max(self.peak, self.live)

    def _release(self, key: int, size: int) -> None:
        self.users[key] -= 1
        self.live -= 0 if self.users[key] else size


def bytes_per_pixel(model: nn.Module) -> float:
    """What the network needs at its peak for each pixel of the canvas, beside its weights.

    Measured on shapes alone: no convolution is computed.
    """
    side = 4 * model.divisibility
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), _Peak() as peak:
        model.last_maps(torch.empty(1, 3, side, side, device=model.device))
    return peak.peak / side**2


def available_bytes(device: torch.device) -> int | None:
    """Memory that can still be taken on a device; None where the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    try:  # of a container
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        return min(found, int(limit) - int(used))
    except (OSError, ValueError):
        return found


def check_memory(pixels: int, per_pixel: Callable[[], float], device: torch.device) -> None:
    """Raises MemoryError if a batch would not fit.

    Args:
        pixels: of the canvas, times images.
        per_pixel: gives :func:`bytes_per_pixel`; called for large canvases alone.
        device: the model's.
    """
    if pixels <= SMALL:
        return
    needed, there = RESERVE * pixels * per_pixel(), available_bytes(device)
    if there is not None and needed > there:
        raise MemoryError(
            f"{pixels / 1e6:.0f} megapixels need about {needed / 2**30:.1f} GiB of memory, and "
            f"{there / 2**30:.1f} GiB are free: use --tile, or set INPUT.MIN_SIZE_TEST"
        )
