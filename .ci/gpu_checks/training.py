"""Training steps of Hourglass-104: every precision, memory layout and recomputation level."""

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cornernet_d2.engine import CornerNetTrainer
from cornernet_d2.tools.benchmark.train import noise_batch

from . import Rows, Settings
from .cases import build, config, images_that_fit, side
from .timing import Memory, wall_seconds

LAST = {"MODEL__CORNERNET__CHANNELS_LAST": True}
BLOCK = {"MODEL__HOURGLASS__RECOMPUTE": "block"}
STACK = {"MODEL__HOURGLASS__RECOMPUTE": "stack"}
CASES: dict[str, tuple[torch.dtype | None, dict[str, Any]]] = {
    "float32": (None, {}),
    "float32, recompute blocks": (None, BLOCK),
    "bfloat16": (torch.bfloat16, {}),
    "bfloat16, channels_last": (torch.bfloat16, LAST),
    "bfloat16, channels_last, recompute stacks": (torch.bfloat16, LAST | STACK),
    "bfloat16, channels_last, recompute blocks": (torch.bfloat16, LAST | BLOCK),
    "float16 and scaler": (torch.float16, {}),
    "float16 and scaler, channels_last": (torch.float16, LAST),
}


def run(settings: Settings) -> Rows:
    count = images_that_fit(settings)
    yield {"note": f"{count} images of {side(settings)} pixels a step, {settings.device}."}
    for name, (dtype, overrides) in CASES.items():
        yield measure(name, settings, count, dtype, overrides)


def measure(
    name: str,
    settings: Settings,
    count: int,
    dtype: torch.dtype | None,
    overrides: dict[str, Any],
    prepare: Callable[[nn.Module], None] = lambda _: None,
) -> dict[str, Any]:
    """A row: seconds of a step, images a second, peak memory; or that memory ran out."""
    gc.collect()
    memory = Memory(settings.device)
    warm, repeats = (1, 1) if settings.tiny else (2, 5)
    try:
        step = make_step(settings, count, dtype, overrides, prepare)
        finite = [step() for _ in range(warm)][-1]
        seconds = wall_seconds(step, settings.device, repeats)
    except torch.OutOfMemoryError:
        return {"step": name, "s/step": "out of memory", "images/s": "", "peak GB": "", "ok": True}
    return {
        "step": name, "s/step": seconds, "images/s": count / seconds,
        "peak GB": memory.peak(), "ok": bool(finite),
    }  # fmt: skip


def make_step(
    settings: Settings,
    count: int,
    dtype: torch.dtype | None,
    overrides: dict[str, Any],
    prepare: Callable[[nn.Module], None],
) -> Callable[[], torch.Tensor]:
    """A training step to call; it returns whether the losses are finite, on the device."""
    cfg = config(settings, **overrides)
    model = build(cfg).train()
    prepare(model)
    optimizer = CornerNetTrainer.build_optimizer(cfg, model)
    scaler = torch.amp.GradScaler(settings.device, enabled=dtype == torch.float16)
    examples = noise_batch(count, side(settings), cfg.MODEL.CORNERNET.NUM_CLASSES)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(settings.device, dtype, enabled=dtype is not None):
            loss = sum(model(examples).values())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.isfinite()

    return step
