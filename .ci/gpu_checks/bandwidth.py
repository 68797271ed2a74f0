"""Bytes a second of every kernel, as a share of a device copy's, and of other ways to compute it.

Bytes are those that the operation has to move, each map once: two maps for a pool, three for its
backward pass (gradient, input, result) and for a sum of two, five for the backward pass of a sum.
The calls take turns over enough maps that none is left in the L2 cache when its turn comes again.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from cornernet_d2.layers import corner_pool, corner_pool_sum

from . import Rows, Settings
from .timing import kernel_seconds

MODES = {"top": (2, True), "bottom": (2, False), "left": (3, True), "right": (3, False)}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
MAX_SETS = 24  # of maps: N = 1 in 16 bits is 4 MB, the largest L2 caches hold 100 MB and more

Make = Callable[["Maps"], object]


class Maps(NamedTuple):
    """A set of operands: two maps and a gradient, (N, 128, 128, 128)."""

    x: Tensor
    y: Tensor
    grad: Tensor


def ours() -> Iterator[tuple[str, int, Make]]:
    """(name, maps moved, call) of this package's kernels, below autograd."""
    operators = torch.ops.cornernet_d2
    for mode, (dim, reverse) in MODES.items():
        yield mode, 2, lambda m, mode=mode: corner_pool(m.x, mode)
        yield (
            f"{mode} backward",
            3,
            lambda m, d=dim, r=reverse: operators.corner_pool_backward(m.grad, m.x, d, r),
        )
    for corner in ("tl", "br"):
        yield f"sum {corner}", 3, lambda m, c=corner: corner_pool_sum(m.x, m.y, c)
        yield (
            f"sum {corner} backward",
            5,
            lambda m, c=corner: operators.corner_pool_sum_backward(m.grad, m.x, m.y, c == "tl"),
        )


def others() -> Iterator[tuple[str, int, Make]]:
    """The same for other ways to pool towards the top and the left."""
    for mode in ("top", "left"):
        dim = MODES[mode][0]
        yield f"{mode}: flip, cummax, flip", 2, lambda m, d=dim: flipped_cummax(m.x, d)
        yield f"{mode}: loop as the authors'", 2, lambda m, d=dim: loop(m.x, d)


def flipped_cummax(x: Tensor, dim: int) -> Tensor:
    return x.flip(dim).cummax(dim).values.flip(dim)


def loop(x: Tensor, dim: int) -> Tensor:
    """A maximum for each row or column: the loop of the authors' top_pool and left_pool."""
    out = x.clone()
    for i in range(x.shape[dim] - 2, -1, -1):
        before, here = out.select(dim, i + 1), out.select(dim, i)
        torch.maximum(before, here, out=here)
    return out


def run(settings: Settings) -> Rows:
    l2 = torch.cuda.get_device_properties(0).L2_cache_size if settings.device == "cuda" else 0
    side = 8 if settings.tiny else 128
    yield {"note": __doc__.split("\n\n")[1].replace("\n", " ")}
    yield {"note": f"The L2 cache holds {l2 / 2**20:.0f} MiB. One launch, outputs apart, us."}
    for n in (1,) if settings.tiny else (1, 5, 8):
        for dtype in DTYPES:
            for name, layout in LAYOUTS.items():
                sets = make_sets((n, side, side, side), dtype, layout, settings.device, l2)
                label = {"N": n, "dtype": str(dtype)[6:], "layout": name, "sets": len(sets)}
                yield from measure(sets, label, settings.device, n == 5 or settings.tiny)


def make_sets(
    shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format, device: str, l2: int
) -> list[Maps]:
    """So many that the inputs of a round are three times the L2 cache."""
    bytes_each = dtype.itemsize * shape[0] * shape[1] * shape[2] * shape[3]
    count = max(1, min(MAX_SETS, -(-3 * l2 // bytes_each)))
    rng = torch.Generator(device=device).manual_seed(0)

    def draw() -> Tensor:
        x = torch.randn(shape, generator=rng, device=device)  # a ReLU precedes the pool
        return x.relu_().to(dtype).contiguous(memory_format=layout)

    return [Maps(draw(), draw(), draw()) for _ in range(count)]


@torch.inference_mode()
def measure(sets: list[Maps], label: dict[str, object], device: str, all_ways: bool) -> Rows:
    x = sets[0].x
    size = x.numel() * x.element_size()
    copy = None
    ways = [("copy", 2, lambda m: m.x.clone()), *ours(), *(others() if all_ways else ())]
    for name, maps, make in ways:
        seconds = kernel_seconds([lambda m=m, f=make: f(m) for m in sets], device)
        rate = maps * size / seconds / 1e9
        copy = copy or rate
        yield {**label, "kernel": name, "us": seconds * 1e6, "GB/s": rate, "of copy": rate / copy}
