"""torch.compile of Hourglass-104: a training step, and inference with CUDA graphs."""

import torch
from torch import nn

from . import Rows, Settings, inference, training
from .cases import build, config, images_that_fit

LAST = {"MODEL__CORNERNET__CHANNELS_LAST": True}


def compile_parts(model: nn.Module, settings: Settings, **options: str) -> None:
    """Backbone and heads, as SOLVER.COMPILE does; without a code generator where it is tiny."""
    if settings.tiny:
        options = {"backend": "eager"}
    for part in (model.backbone, *model.head):
        part.compile(**options)


def run(settings: Settings) -> Rows:
    model = build(config(settings, **LAST)).eval()
    compile_parts(model, settings, mode="reduce-overhead")
    name = "float16, channels_last, compiled with CUDA graphs"
    yield inference.measure(name, settings, model, torch.float16)
    del model
    yield training.measure(
        "bfloat16, channels_last, compiled",
        settings,
        images_that_fit(settings),
        torch.bfloat16,
        LAST,
        lambda model: compile_parts(model, settings),
    )
