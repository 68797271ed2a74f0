"""Numbers for Prometheus, in its text format (version 0.0.4)."""

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Mapping

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
PREFIX = "cornernet_"


class Metrics:
    """Requests by status, seconds of requests and of the network, images of a batch.

    Args:
        gauges: name -> what it is, and a function that reads it.
        batch_size: most images of a batch.
    """

    def __init__(
        self, gauges: Mapping[str, tuple[str, Callable[[], float]]], batch_size: int
    ) -> None:
        self._lock = threading.Lock()
        self._gauges = gauges
        self._requests: dict[int, int] = defaultdict(int)
        sizes = tuple(float(2**i) for i in range((batch_size - 1).bit_length() + 1))
        self._histograms = {
            "request_seconds": Histogram("From a request's first byte to its answer.", SECONDS),
            "network_seconds": Histogram("Of the network, a batch.", SECONDS),
            "batch_images": Histogram("Images of a batch.", sizes),
        }

    def count_request(self, status: int, seconds: float) -> None:
        """One answered request."""
        with self._lock:
            self._requests[status] += 1
            self._histograms["request_seconds"].add(seconds)

    def count_batch(self, images: int, seconds: float) -> None:
        """One batch."""
        with self._lock:
            self._histograms["network_seconds"].add(seconds)
            self._histograms["batch_images"].add(images)

    def text(self) -> str:
        """All of it, a sample a line."""
        with self._lock:
            lines = _head("requests_total", "Requests of /predict by HTTP status.", "counter")
            lines += [
                f'{PREFIX}requests_total{{status="{status}"}} {number}'
                for status, number in sorted(self._requests.items())
            ]
            for name, histogram in self._histograms.items():
                lines += histogram.lines(name)
        for name, (what, read) in self._gauges.items():
            lines += [*_head(name, what, "gauge"), f"{PREFIX}{name} {read():g}"]
        return "\n".join(lines) + "\n"


class Histogram:
    """Counts of values up to each bound, their number and sum.

    Args:
        what: it measures.
        bounds: ascending.
    """

    def __init__(self, what: str, bounds: tuple[float, ...]) -> None:
        self.what, self.bounds, self.sum = what, bounds, 0.0
        self.counts = [0] * (len(bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> list[str]:
        lines, total = _head(name, self.what, "histogram"), 0
        for bound, count in zip((*map("{:g}".format, self.bounds), "+Inf"), self.counts):
            total += count
            lines.append(f'{PREFIX}{name}_bucket{{le="{bound}"}} {total}')
        return [*lines, f"{PREFIX}{name}_sum {self.sum:.6f}", f"{PREFIX}{name}_count {total}"]


def _head(name: str, what: str, kind: str) -> list[str]:
    return [f"# HELP {PREFIX}{name} {what}", f"# TYPE {PREFIX}{name} {kind}"]
