"""Models and batches of the steps, made through the interfaces that users have."""

from typing import Any

import torch
from detectron2.config import CfgNode
from torch import nn

from cornernet_d2 import model_zoo
from cornernet_d2.engine import CornerNetTrainer

from . import Settings

SMALL = {
    "MODEL.HOURGLASS.STACKS": 2,
    "MODEL.HOURGLASS.DEPTH": 1,
    "MODEL.HOURGLASS.WIDTHS": [8, 8],
    "MODEL.HOURGLASS.BLOCKS": [1, 1],
    "MODEL.HOURGLASS.STEM_WIDTH": 8,
    "MODEL.HOURGLASS.OUT_CHANNELS": 8,
    "MODEL.CORNERNET.HEAD_WIDTH": 8,
    "MODEL.CORNERNET.POOL_WIDTH": 8,
    "MODEL.CORNERNET.TEST.TOP_K": 20,
}


def config(settings: Settings, device: str | None = None, **overrides: Any) -> CfgNode:
    """Hourglass-104 of the paper, or a tiny one; keys are written with __ for the dot."""
    cfg = model_zoo.get_config("CornerNet-HG104")
    cfg.defrost()
    changes = dict(SMALL) if settings.tiny else {}
    changes |= {key.replace("__", "."): value for key, value in overrides.items()}
    cfg.merge_from_list([part for item in changes.items() for part in item])
    cfg.MODEL.DEVICE = device or settings.device
    return cfg


def build(cfg: CfgNode, seed: int = 0) -> nn.Module:
    """The model with the weights that ``seed`` gives on any device."""
    device = cfg.MODEL.DEVICE
    cfg = cfg.clone()
    cfg.MODEL.DEVICE = "cpu"
    torch.manual_seed(seed)
    return CornerNetTrainer.build_model(cfg).to(device)


def side(settings: Settings) -> int:
    """Pixels of a training image."""
    return 31 if settings.tiny else 511


def images_that_fit(settings: Settings) -> int:
    """Images of a training step in float32 without recomputation: about 10 GB each, at most 6."""
    if settings.device != "cuda":
        return 1
    gigabytes = torch.cuda.get_device_properties(0).total_memory / 1e9
    return max(1, min(6, int(gigabytes / 10)))
