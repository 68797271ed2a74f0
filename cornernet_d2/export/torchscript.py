"""A detector as TorchScript: traced, but for what loops.

Under torch.jit.trace the sizes of a tensor are traced values, and so is what is computed of them:
images of any size go through the file. Loops whose length depends on a size or on data would be
unrolled; they are scripted: corner pooling and soft-NMS.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .detector import Detector
from .soft_nms import PickLoop


def to_torchscript(detector: Detector, example: Tensor) -> torch.jit.ScriptModule:
    """The detector in PyTorch's own operators, for any batch and any size.

    Args:
        detector: on the CPU, in eval mode.
        example: images (N, 3, H, W) in 0..255, on more than one tile of the network.
    """
    pairs = Detector(detector.model, raw=True).eval()
    with torch.no_grad(), _OwnOperators():
        traced = torch.jit.trace(pairs, (example,), check_trace=False)
        if detector.raw:
            return traced
        return torch.jit.script(_Picking(traced, detector.loop, traced(example)).eval())


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that TorchScript is deprecated, and those of the tracer.

    The tracer's are of sizes that are compared with each other, which are equal for every image.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit\..* is deprecated")
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        yield


class _Picking(nn.Module):
    """Pairs, then soft-NMS; to be scripted.

    Args:
        pairs: images -> the fields of Pairs.
        loop: the rule.
        example: what ``pairs`` gives.
    """

    def __init__(
        self, pairs: torch.jit.ScriptModule, loop: PickLoop, example: tuple[Tensor, ...]
    ) -> None:
        super().__init__()
        self.pairs = pairs
        state = loop.start(*example)
        self.start = torch.jit.trace(loop.start, example, check_trace=False)
        self.more = torch.jit.trace(loop.more, state[:3], check_trace=False)
        self.pick = torch.jit.trace(loop.pick, state, check_trace=False)
        self.finish = torch.jit.trace(
            lambda *picked: tuple(loop.finish(*picked)), state[2:5], check_trace=False
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        boxes, scores, corner_scores, classes = self.pairs(images)
        step, left, values, labels, found, boxes, classes, corners = self.start(
            boxes, scores, corner_scores, classes
        )
        while bool(self.more(step, left, values)):
            step, left, values, labels, found = self.pick(
                step, left, values, labels, found, boxes, classes, corners
            )
        return self.finish(values, labels, found)


def _scan_max(x: Tensor, dim: int, reverse: bool) -> Tensor:
    """As :func:`cornernet_d2.layers.fallback.scan_max`, whose loop is unrolled in Python."""
    length, shift = x.shape[dim], 1
    while shift < length:
        earlier = x.narrow(dim, shift if reverse else 0, length - shift)
        later = x.narrow(dim, 0 if reverse else shift, length - shift)
        pooled = torch.maximum(later, earlier)
        rest = x.narrow(dim, length - shift if reverse else 0, shift)
        x = torch.cat((pooled, rest) if reverse else (rest, pooled), dim)
        shift *= 2
    return x


class _OwnOperators(TorchFunctionMode):
    """While it is entered, this package's operators are TorchScript of PyTorch's."""

    def __init__(self) -> None:
        super().__init__()
        scan = torch.jit.script(_scan_max)

        def both(vertical: Tensor, horizontal: Tensor, reverse: bool) -> Tensor:
            return scan(vertical, 2, reverse) + scan(horizontal, 3, reverse)

        operators = torch.ops.cornernet_d2
        self.forms = {operators.corner_pool: scan, operators.corner_pool_sum: both}

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return self.forms.get(function, function)(*args, **(kwargs or {}))
