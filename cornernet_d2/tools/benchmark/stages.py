"""Where the time of one forward pass of an eager model goes."""

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import torch.nn.functional as F
from torch import Tensor

from ...modeling import CornerNet, pool_blocks

STAGES = ("preprocess", "backbone", "heads", "corner pooling", "decode", "soft-NMS", "rest")


def measure(
    model: CornerNet, images: Sequence[Tensor], clock: Callable[[], float], rounds: int
) -> dict[str, float]:
    """Seconds of each of STAGES, and of all "convolutions", the mean of some passes.

    Args:
        model: eager; without test-time augmentation.
        images: (3, H, W) uint8.
        clock: gives seconds, once the device is done.
        rounds: how many passes.
    """
    spent: Counter[str] = Counter()
    batch = [{"image": image} for image in images]
    with _timed(model, clock, spent):
        for _ in range(rounds):
            start = clock()
            model(batch)
            spent["total"] += clock() - start
    spent["heads"] -= spent["corner pooling"]
    spent["rest"] = spent["total"] - sum(spent[name] for name in STAGES)
    return {name: spent[name] / rounds for name in (*STAGES, "convolutions", "total")}


@contextlib.contextmanager
def _timed(model: CornerNet, clock: Callable[[], float], spent: Counter[str]) -> Iterator[None]:
    def timed(stage: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            result = function(*args, **kwargs)
            spent[stage] += clock() - start
            return result

        return call

    places: list[tuple[str, Any, str]] = [
        ("preprocess", model, "preprocess_image"),
        ("backbone", model.backbone, "forward"),
        ("heads", model.head[-1], "forward"),
        ("corner pooling", pool_blocks, "corner_pool_sum"),
        ("corner pooling", pool_blocks, "corner_pool"),
        ("decode", model.corner_inference, "decode"),
        ("soft-NMS", model.corner_inference, "select"),
    ]
    places.append(("convolutions", F, "conv2d"))
    with contextlib.ExitStack() as stack:
        for stage, owner, name in places:
            wrapped = timed(stage, getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, wrapped))
        yield
