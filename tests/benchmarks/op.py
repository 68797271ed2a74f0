"""``benchmark op``: corner pooling against a copy and against every other way to compute it.

Baselines: ``clone`` (what memory allows), flip + cummax + flip (mmcv), the log-step form in
standard operators (this package's fallback) and a loop over rows or columns (the authors' form).
"""

import argparse
import ctypes
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cornernet_d2.layers import corner_pool, corner_pool_sum, fallback, is_compiled

MODES = {"top": (2, True), "bottom": (2, False), "left": (3, True), "right": (3, False)}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# The thread's processor time leaves out what other programs take; it counts one thread only.
Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.thread_time}
Way = Callable[[Tensor, str], Tensor]


def cummax(x: Tensor, mode: str) -> Tensor:
    dim, reverse = MODES[mode]
    if reverse:
        return x.flip(dim).cummax(dim).values.flip(dim)
    return x.cummax(dim).values


def loop(x: Tensor, mode: str) -> Tensor:
    dim, reverse = MODES[mode]
    slices = list(x.unbind(dim))[:: -1 if reverse else 1]
    for i in range(1, len(slices)):
        slices[i] = torch.maximum(slices[i - 1], slices[i])
    return torch.stack(slices[:: -1 if reverse else 1], dim)


def log_step(x: Tensor, mode: str) -> Tensor:
    if x.requires_grad:
        return fallback.corner_pool(x, *MODES[mode])
    return fallback.scan_max(x, *MODES[mode])


WAYS: dict[str, Way] = {
    "corner_pool": corner_pool, "cummax": cummax, "log-step": log_step, "loop": loop
}  # fmt: skip


def keep_freed_memory() -> None:
    """Tells glibc to reuse freed memory instead of returning it to the system.

    Otherwise the page faults of fresh memory, which every way pays alike and which depend on what
    ran before, hide the operators.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_max = -1, -4  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_MAX
        if hasattr(libc, "mallopt"):
            libc.mallopt(trim_threshold, 2**31 - 1)
            libc.mallopt(mmap_max, 0)


def measure(
    calls: Sequence[Callable[[], object]], repeats: int, device: str, clock: Clock
) -> list[float]:
    """Median milliseconds of each call; the calls take turns.

    Every timed call follows an untimed one, so that caches and the allocator are equally warm
    whatever ran before.
    """
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for record, call in zip(times, calls):
            call()
            _wait(device)
            start = clock()
            call()
            _wait(device)
            record.append((clock() - start) * 1e3)
    return [statistics.median(record) for record in times]


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _forward(way: Way, x: Tensor, mode: str) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad():
            return way(x, mode)

    return call


def _both(way: Way, x: Tensor, grad: Tensor, mode: str) -> Callable[[], object]:
    leaf = x.clone().requires_grad_()

    def call() -> object:
        return torch.autograd.grad(way(leaf, mode), leaf, grad)

    return call


def compare(
    x: Tensor, grad: Tensor, mode: str, repeats: int, clock: Clock
) -> list[tuple[str, float, float]]:
    """(name, forward ms, forward + backward ms) for the copy and every way."""
    device = x.device.type
    copy: Way = lambda x, _: x.clone()  # noqa: E731
    ways = {"clone": copy, **WAYS}
    forward = measure([_forward(way, x, mode) for way in ways.values()], repeats, device, clock)
    both = measure([_both(way, x, grad, mode) for way in ways.values()], repeats, device, clock)
    return list(zip(ways, forward, both))


def compare_sum(
    x: Tensor, grad: Tensor, corner: str, repeats: int, clock: Clock
) -> list[tuple[str, float, float]]:
    """The same for the fused sum of a corner's two pools."""
    vertical, horizontal = ("top", "left") if corner == "tl" else ("bottom", "right")

    def two_pools(x: Tensor, _: str) -> Tensor:
        return corner_pool(x, vertical) + corner_pool(x, horizontal)

    def fused(x: Tensor, _: str) -> Tensor:
        return corner_pool_sum(x, x, corner)

    def add(x: Tensor, _: str) -> Tensor:
        return x + grad

    ways = {"x + y": add, "corner_pool_sum": fused, "two pools": two_pools}
    device = x.device.type
    forward = measure([_forward(way, x, corner) for way in ways.values()], repeats, device, clock)
    both = measure([_both(way, x, grad, corner) for way in ways.values()], repeats, device, clock)
    return list(zip(ways, forward, both))


def _rows(label: str, results: list[tuple[str, float, float]]) -> list[str]:
    _, base, _ = results[0]
    _, ours, ours_both = results[1]
    return [
        f"| {label} | {name} | {forward:.3f} | {forward / base:.2f} | {forward / ours:.1f} "
        f"| {both:.3f} | {both / ours_both:.1f} |"
        for name, forward, both in results
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", type=int, nargs=4, action="append", metavar=("N", "C", "H", "W"))
    parser.add_argument("--dtype", choices=DTYPES, action="append")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument(
        "--clock", default="wall", choices=CLOCKS, help="cpu: for a busy machine, with --threads 1"
    )


def run(args: argparse.Namespace) -> int:
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.clock == "cpu" and (args.device != "cpu" or torch.get_num_threads() != 1):
        raise SystemExit("--clock cpu measures one CPU thread: give --threads 1")
    clock = CLOCKS[args.clock]
    keep_freed_memory()
    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads, ", end="")
    print(f"compiled: {is_compiled()}; medians of {args.repeats} interleaved runs, ")
    print(f"{args.clock} ms\n")
    print("| map | way | forward | / copy | / ours | forward + backward | / ours |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    torch.manual_seed(0)
    for shape in args.shape or [[1, 128, 128, 128], [8, 256, 128, 128]]:
        for dtype in args.dtype or ["float32", "bfloat16"]:
            x = torch.randn(shape, device=args.device).relu_().to(DTYPES[dtype])
            grad = torch.randn(shape, device=args.device).to(DTYPES[dtype])
            size = "x".join(map(str, shape))
            for mode in MODES:
                results = compare(x, grad, mode, args.repeats, clock)
                print("\n".join(_rows(f"{size} {dtype} {mode}", results)), flush=True)
            for corner in ("tl", "br"):
                results = compare_sum(x, grad, corner, args.repeats, clock)
                print("\n".join(_rows(f"{size} {dtype} {corner}", results)), flush=True)
    return 0
