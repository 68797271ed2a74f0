"""A detector, a dataset and a config so small that whole training runs fit in a test."""

import io
import itertools
import json
import os
import signal
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import nn

from cornernet_d2 import add_cornernet_config, model_zoo
from cornernet_d2.engine import CornerNetTrainer

SIZE = 16  # pixels
# Keys and values of a CornerNet that has every kind of part and takes milliseconds: stride 4,
# divisibility 16.
TINY_NETWORK = (
    *("MODEL.DEVICE", "cpu", "MODEL.HOURGLASS.DEPTH", 2),
    *("MODEL.HOURGLASS.WIDTHS", [8, 8, 12], "MODEL.HOURGLASS.BLOCKS", [1, 1, 1]),
    *("MODEL.HOURGLASS.STEM_WIDTH", 8, "MODEL.HOURGLASS.OUT_CHANNELS", 8),
    *("MODEL.CORNERNET.HEAD_WIDTH", 8, "MODEL.CORNERNET.POOL_WIDTH", 8),
    *("MODEL.CORNERNET.TEST.FAST", False),  # numbers of all machines alike
    # Backward on two threads crashes in oneDNN of torch 2.14 on so few channels_last channels.
    *("MODEL.CORNERNET.CHANNELS_LAST", False),
    *("MODEL.CORNERNET.NUM_CLASSES", 3),  # last: some tests leave it out
)


def tiny_network(config: str, *overrides: Any) -> CfgNode:
    """A shipped config with that network in it."""
    cfg = model_zoo.get_config(config)
    cfg.merge_from_list([*TINY_NETWORK, *overrides])
    return cfg


@META_ARCH_REGISTRY.register()
class TinyDetector(nn.Module):
    """Convolution, batch norm and dropout: everything that has a state or draws random numbers."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2)
        )
        self.size = nn.Conv2d(4, 2, 1)
        self.unused = nn.Linear(2, 2) if cfg.MODEL.WEIGHTS == "unused" else None

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        images = torch.stack([x["image"].float() / 255 for x in batched_inputs])
        sizes = self.size(self.body(images)).float().mean(dim=(2, 3))
        if not self.training:
            return [self.detect(size) for size in sizes.sigmoid() * SIZE]
        boxes = [x["instances"].gt_boxes.tensor for x in batched_inputs]
        wanted = torch.stack([(b[:, 2:] - b[:, :2]).sum(dim=0) for b in boxes]) / SIZE
        width, height = (sizes - wanted).abs().mean(dim=0)
        return {"loss_width": width, "loss_height": height}

    def detect(self, size: torch.Tensor) -> dict[str, Instances]:
        instances = Instances((SIZE, SIZE))
        instances.pred_boxes = Boxes(torch.cat([size * 0, size])[None])
        instances.scores = torch.ones(1)
        instances.pred_classes = torch.zeros(1, dtype=torch.long)
        return {"instances": instances}


def make_dataset(folder: str, num_images: int = 12) -> None:
    """Register "tiny" for this process; its files are made on the first call."""
    annotations = os.path.join(folder, "tiny.json")
    if not os.path.exists(annotations):
        _write_dataset(folder, annotations, num_images)
    DatasetCatalog.pop("tiny", None)
    MetadataCatalog.pop("tiny", None)
    register_coco_instances("tiny", {}, annotations, folder)


def _write_dataset(folder: str, annotations: str, num_images: int) -> None:
    rng = np.random.default_rng(0)
    images, objects = [], []
    for i in range(num_images):
        name = f"{i}.png"
        cv2.imwrite(
            os.path.join(folder, name), rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
        )
        images.append({"id": i, "file_name": name, "height": SIZE, "width": SIZE})
        for _ in range(1 + i % 3):
            x, y, w, h = rng.integers(1, SIZE // 2, 4).tolist()
            objects.append(
                {"id": len(objects) + 1, "image_id": i, "category_id": 1, "iscrowd": 0}
                | {"bbox": [x, y, w, h], "area": w * h}
            )
    categories = [{"id": 1, "name": "thing"}]
    with open(annotations, "w") as f:
        json.dump({"images": images, "annotations": objects, "categories": categories}, f)


def tiny_config(folder: str, *overrides: Any) -> CfgNode:
    """A run of 12 steps of TinyDetector on "tiny", with its output in folder/output."""
    cfg = get_cfg()
    add_cornernet_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "TinyDetector"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.CORNERNET.NUM_CLASSES = 1
    cfg.MODEL.BACKBONE.NAME = "build_hourglass_backbone"  # of which the mapper asks the stride
    cfg.MODEL.HOURGLASS.DEPTH, cfg.MODEL.HOURGLASS.STACKS = 1, 1
    cfg.MODEL.HOURGLASS.WIDTHS, cfg.MODEL.HOURGLASS.BLOCKS = [8, 8], [1, 1]
    cfg.DATASETS.TRAIN = ("tiny",)
    cfg.DATASETS.TEST = ("tiny",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    cfg.INPUT.MIN_SIZE_TRAIN = (SIZE,)
    cfg.INPUT.MIN_SIZE_TEST = SIZE
    cfg.INPUT.CORNERNET.CROP.ENABLED = False
    cfg.SOLVER.IMS_PER_BATCH = 4
    cfg.SOLVER.BASE_LR = 0.01
    cfg.SOLVER.MAX_ITER = 12
    cfg.SOLVER.STEPS = (9,)
    cfg.SOLVER.WARMUP_ITERS = 4
    cfg.SOLVER.CHECKPOINT_PERIOD = 4
    cfg.SEED = 3
    cfg.OUTPUT_DIR = os.path.join(folder, "output")
    cfg.merge_from_list(list(overrides))
    return cfg


def train(
    folder: str, *overrides: Any, resume: bool = False, started: Any = None
) -> CornerNetTrainer:
    """Train as train_net.py does; set the event ``started`` when the steps begin."""
    torch.set_num_threads(1)
    make_dataset(folder)
    cfg = tiny_config(folder, *overrides)
    torch.manual_seed(0)
    trainer = CornerNetTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    if started is not None:
        started.set()
    trainer.train()
    return trainer


def train_or_die(folder: str, started: Any, death: str | None, call: int, *overrides: Any) -> None:
    """Resume the run; SIGKILL it at the given call of a step of checkpoint writing."""
    os.setpgrp()  # so that a kill reaches the data workers, too
    if death is not None:
        _die_in(death, call)
    train(folder, *overrides, resume=True, started=started)


def _die_in(death: str, call: int) -> None:
    """``death``: "half" in the middle of a file, else the name of a function of os."""
    owner, name = (torch, "save") if death == "half" else (os, death)
    original, calls = getattr(owner, name), itertools.count(1)

    def dying(*args: Any, **kwargs: Any) -> Any:
        if next(calls) != call:
            return original(*args, **kwargs)
        if death == "half":
            whole = io.BytesIO()
            original(args[0], whole)
            args[1].write(whole.getvalue()[: len(whole.getvalue()) // 2])
            args[1].flush()
        os.killpg(0, signal.SIGKILL)

    setattr(owner, name, dying)
