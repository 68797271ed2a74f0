"""Two processes, a GPU each: the gradient of a batch that they share is that of one process."""

import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import torch
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm
from torch import Tensor, nn

from cornernet_d2.engine import launch
from cornernet_d2.tools.benchmark.train import noise_batch

from . import Rows, Settings
from .cases import build, config

# Statistics of a batch norm are those of one process's images: not what is compared here.
FIXED_NORM = {"MODEL__HOURGLASS__NORM": "GN", "MODEL__CORNERNET__NORM": "GN"}
WIDE = {
    "MODEL__HOURGLASS__STACKS": 2, "MODEL__HOURGLASS__DEPTH": 1,
    "MODEL__HOURGLASS__WIDTHS": [32, 32], "MODEL__HOURGLASS__BLOCKS": [1, 1],
    "MODEL__HOURGLASS__STEM_WIDTH": 32, "MODEL__HOURGLASS__OUT_CHANNELS": 32,
    "MODEL__CORNERNET__HEAD_WIDTH": 32, "MODEL__CORNERNET__POOL_WIDTH": 32,
}  # fmt: skip  # group norm wants multiples of 32 channels
IMAGES = 4
TOLERANCE = 1e-9  # relative, in float64


def run(settings: Settings) -> Rows:
    if settings.device == "cuda" and torch.cuda.device_count() < 2:
        yield {"skipped": f"{torch.cuda.device_count()} GPU, two are needed"}
        return
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{s.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "gradient.pt"
        launch(work, 2, dist_url=url, args=(settings, str(path)))
        shared = torch.load(path, weights_only=True)
    alone = gradient(settings, slice(None))
    difference = ((shared - alone).norm() / alone.norm()).item()
    yield {
        "processes": 2, "difference of gradients": difference, "tolerance": str(TOLERANCE),
        "ok": difference <= TOLERANCE,
    }  # fmt: skip


def work(settings: Settings, path: str) -> None:
    """In each process: half of the batch; the first writes the gradient down."""
    half = IMAGES // 2
    mine = slice(comm.get_rank() * half, (comm.get_rank() + 1) * half)
    result = gradient(settings, mine)
    if comm.is_main_process():
        torch.save(result, path + os.extsep + "part")
        os.replace(path + os.extsep + "part", path)


def gradient(settings: Settings, images: slice) -> Tensor:
    """All gradients of one step on some of the images, as one vector on the CPU."""
    cfg = config(settings, **FIXED_NORM, **WIDE)
    model: Any = build(cfg).double().train()
    if comm.get_world_size() > 1:
        placed = {} if settings.device == "cuda" else {"device_ids": None}
        model = create_ddp_model(model, broadcast_buffers=False, **placed)
    sum(model(noise_batch(IMAGES, 63, 80)[images]).values()).backward()
    parameters: list[nn.Parameter] = list(model.parameters())
    return torch.cat([p.grad.flatten().cpu() for p in parameters])
