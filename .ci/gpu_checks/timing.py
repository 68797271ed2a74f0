"""Time of work on the device, without the host's share of it."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch

Call = Callable[[], object]


def kernel_seconds(calls: Sequence[Call], device: str, seconds: float = 0.02) -> float:
    """Seconds of one of ``calls``, run one after the other as often as fits.

    On a GPU the calls are captured into a CUDA graph, each with an output of its own, and the graph
    is replayed between two events: what a call costs the host, 20 to 30 us of Python, is not in it.
    """
    if device != "cuda":
        for call in calls:
            call()
        return wall_seconds(lambda: [call() for call in calls], device, 3) / len(calls)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:  # outside the graph: modules are loaded, workspaces allocated
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        outputs = [call() for call in calls]
    once = _replay(graph, 3)
    repeats = max(3, min(1000, int(seconds / once)))
    result = min(_replay(graph, repeats) for _ in range(3)) / len(calls)
    del outputs, graph
    return result


def _replay(graph: "torch.cuda.CUDAGraph", repeats: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def wall_seconds(call: Call, device: str, repeats: int) -> float:
    """Median seconds of a call, from a device at rest to a device at rest."""
    times = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class Memory:
    """Peak of what torch has allocated on the GPU since it was made, in GB; 0 on a CPU."""

    def __init__(self, device: str) -> None:
        self.on_gpu = device == "cuda"
        if self.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float:
        return torch.cuda.max_memory_allocated() / 1e9 if self.on_gpu else 0.0
