"""Activation checkpointing that leaves the running statistics of normalisation layers alone."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

LEVELS = ("none", "stack", "block")


class Recomputable(nn.Module):
    """A module that, with ``recompute`` set, runs its forward again in the backward pass.

    It then keeps its input alone (Chen et al., "Training Deep Nets with Sublinear Memory Cost").
    Neither parameter names nor results change.
    """

    recompute = False

    def __call__(self, *args: Any) -> Any:
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return super().__call__(*args)
        return checkpoint(
            super().__call__,
            *args,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _frozen_statistics(self)),
        )


def check_level(level: str) -> str:
    """Return ``level``; raise ValueError unless it is "none", "stack" or "block"."""
    if level not in LEVELS:
        raise ValueError(f"MODEL.HOURGLASS.RECOMPUTE is {level!r}; choose one of {LEVELS}")
    return level


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """The second forward must not move running statistics a second time."""
    tracking = [m for m in module.modules() if getattr(m, "num_batches_tracked", None) is not None]
    before = [(m.momentum, m.num_batches_tracked) for m in tracking]
    spare = before[0][1].clone() if before else None
    for m in tracking:
        # The layer still gets its statistics: without them it would save other tensors. And it
        # still counts, in a tensor that nobody reads: nn.SyncBatchNorm insists on having one.
        m.momentum, m.num_batches_tracked = 0.0, spare
    try:
        yield
    finally:
        for m, (momentum, count) in zip(tracking, before):
            m.momentum, m.num_batches_tracked = momentum, count
