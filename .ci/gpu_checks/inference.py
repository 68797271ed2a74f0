"""Inference of Hourglass-104, one image at a time, by stage."""

from typing import Any

import torch
from torch import nn

from cornernet_d2.modeling.decode import decode_corners
from cornernet_d2.tools.benchmark.train import noise_batch

from . import Rows, Settings
from .cases import build, config, side
from .timing import Memory, wall_seconds

FLIP = {"MODEL__CORNERNET__TEST__FLIP": True}
LAST = {"MODEL__CORNERNET__CHANNELS_LAST": True}
CASES: dict[str, tuple[torch.dtype | None, dict[str, Any]]] = {
    "float32": (None, {}),
    "float32, flip": (None, FLIP),
    "bfloat16": (torch.bfloat16, {}),
    "bfloat16, channels_last": (torch.bfloat16, LAST),
    "float16": (torch.float16, {}),
    "float16, channels_last": (torch.float16, LAST),
    "float16, channels_last, flip": (torch.float16, LAST | FLIP),
}


def run(settings: Settings) -> Rows:
    yield {"note": f"Milliseconds for an image of {side(settings)} pixels, {settings.device}."}
    for name, (dtype, overrides) in CASES.items():
        model = build(config(settings, **overrides)).eval()
        yield measure(name, settings, model, dtype)


@torch.no_grad()
def measure(
    name: str, settings: Settings, model: nn.Module, dtype: torch.dtype | None
) -> dict[str, Any]:
    """A row: all of a call, of which network and decoding; the rest is before and after them.

    The network computes all stacks here, of which a call needs the heads of the last alone.
    """
    device, repeats = settings.device, 1 if settings.tiny else 10
    examples = [{"image": x["image"]} for x in noise_batch(1, side(settings), 80)]
    canvas = side(settings) + 1
    images = torch.randn(1, 3, canvas, canvas, device=device)
    memory = Memory(device)
    with torch.autocast(device, dtype, enabled=dtype is not None):
        maps = model.corner_maps(images)[-1]
        maps = {corner: {k: v.clone() for k, v in part.items()} for corner, part in maps.items()}
        stages = {
            "all": lambda: model(examples),
            "network": lambda: model.corner_maps(images),
            "decoding": lambda: decode_corners(maps),
        }
        row: dict[str, Any] = {"inference": name}
        for stage, call in stages.items():
            for _ in range(1 if settings.tiny else 3):
                call()
            row[f"{stage}, ms"] = wall_seconds(call, device, repeats) * 1e3
        results = model(examples)
    row["peak GB"] = memory.peak()
    row["ok"] = bool(results[0]["instances"].scores.isfinite().all())
    return row
