"""What the checks run: a small CornerNet, a dataset with ignore regions, and whole trainer runs."""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import HookBase
from detectron2.modeling import build_model
from detectron2.structures import Boxes, BoxMode, Instances

from cornernet_d2 import model_zoo
from cornernet_d2.engine import CornerNetTrainer

from .device import StrictDevice
from .ledger import Ledger

CLASSES = ("a", "b", "c")
SIDE = 32  # pixels of the training crops
SMALL = {
    "MODEL.HOURGLASS.STACKS": 2,
    "MODEL.HOURGLASS.DEPTH": 1,
    "MODEL.HOURGLASS.WIDTHS": [8, 8],
    "MODEL.HOURGLASS.BLOCKS": [1, 1],
    "MODEL.HOURGLASS.STEM_WIDTH": 8,
    "MODEL.HOURGLASS.OUT_CHANNELS": 8,
    "MODEL.CORNERNET.HEAD_WIDTH": 8,
    "MODEL.CORNERNET.POOL_WIDTH": 8,
    "MODEL.CORNERNET.NUM_CLASSES": len(CLASSES),
    "MODEL.CORNERNET.TEST.TOP_K": 30,
    "INPUT.CORNERNET.CROP.SIZE": [SIDE, SIDE],
    "INPUT.CORNERNET.CROP.BORDER": 4,
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.TRAIN": ("strict",),
    "DATASETS.TEST": (),
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.STEPS": (),
    "SOLVER.MAX_ITER": 3,
    "SEED": 3,
}


def config(device: str, name: str = "CornerNet-HG104", **overrides: Any) -> CfgNode:
    """The shipped config with a small network; keys are written with __ for the dot."""
    cfg = model_zoo.get_config(name)
    cfg.defrost()
    settings = SMALL | {key.replace("__", "."): value for key, value in overrides.items()}
    cfg.merge_from_list([part for item in settings.items() for part in item])
    cfg.MODEL.DEVICE = device
    return cfg


def make_dataset(folder: Path, crowds: bool) -> None:
    """Register "strict": 8 images of noise with 1 to 4 boxes; with ``crowds``, one to ignore."""
    rng = np.random.default_rng(0)
    dicts = []
    for k in range(8):
        path, (height, width) = folder / f"{k}.png", (40 + 2 * k, 56 - 2 * k)
        cv2.imwrite(str(path), rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        objects = []
        for j in range(1 + k % 4 + crowds):
            x, y, w, h = rng.uniform([2, 2, 8, 8], [width / 2, height / 2, 24, 20]).tolist()
            objects.append(
                {"bbox": [x, y, w, h], "bbox_mode": BoxMode.XYWH_ABS, "category_id": (j + k) % 3}
                | {"iscrowd": int(crowds and j == 0)}
            )
        dicts.append(
            {"file_name": str(path), "image_id": k, "height": height, "width": width}
            | {"annotations": objects}
        )
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop("strict", None)
    DatasetCatalog.register("strict", lambda: dicts)
    MetadataCatalog.get("strict").thing_classes = list(CLASSES)


class Run(NamedTuple):
    """What a run of the trainer leaves behind, on the host."""

    losses: dict[str, list[float]]
    weights: dict[str, torch.Tensor]
    average: dict[str, torch.Tensor]
    step: Ledger | None  # of the last iteration but one, hooks included
    finite: list[bool]  # whether the gradients of each iteration were


class _Watch(HookBase):
    """Keeps what happened in one iteration, and how each went."""

    def __init__(self, gpu: StrictDevice | None, iteration: int) -> None:
        self.gpu, self.iteration = gpu, iteration
        self.ledger: Ledger | None = None
        self.finite: list[bool] = []
        self.losses: dict[str, list[float]] = {}

    def before_step(self) -> None:
        if self.gpu is not None:
            self.gpu.ledger.clear()

    def after_step(self) -> None:
        if self.gpu is not None and self.trainer.iter == self.iteration:
            self.ledger, self.gpu.ledger = self.gpu.ledger, Ledger()
        self.finite.append(self.trainer._trainer.finite)
        if self.finite[-1]:
            for name, (value, _) in self.trainer.storage.latest().items():
                if "loss" in name:
                    self.losses.setdefault(name, []).append(value)


def train(
    cfg: CfgNode,
    output: Path,
    *,
    resume: bool = False,
    stop: int | None = None,
    prepare: Callable[[CornerNetTrainer], None] = lambda _: None,
) -> Run:
    """Run CornerNetTrainer as train_net.py does, on the strict device if MODEL.DEVICE is cuda."""
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    cfg.OUTPUT_DIR = str(output)
    with StrictDevice() if cfg.MODEL.DEVICE == "cuda" else nullcontext() as gpu:
        torch.manual_seed(0)
        trainer = CornerNetTrainer(cfg)
        prepare(trainer)
        watch = _Watch(gpu, cfg.SOLVER.MAX_ITER - 2)
        trainer.register_hooks([watch])
        trainer.resume_or_load(resume=resume)
        if stop is not None:
            trainer.max_iter = stop
        trainer.train()
        average = trainer.ema.module if trainer.ema is not None else torch.nn.Module()
        states = [
            {name: x.detach().cpu() for name, x in module.state_dict().items()}
            for module in (trainer.model, average)
        ]
    return Run(watch.losses, *states, watch.ledger, watch.finite)


def without_targets(trainer: CornerNetTrainer) -> None:
    """Have the model make the targets itself, as from the batches of Detectron2's mapper."""

    def strip(_: torch.nn.Module, arguments: tuple[list[dict]]) -> tuple[list[dict]]:
        (batch,) = arguments
        return ([{k: v for k, v in x.items() if k != "corner_targets"} for x in batch],)

    trainer.model.register_forward_pre_hook(strip)


def assert_same(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, rtol=1e-5, atol=1e-6, msg=lambda text: f"{name}: {text}"
        )


def examples() -> list[dict[str, Any]]:
    """Four images of noise of three sizes, with boxes, on the host."""
    rng = torch.Generator().manual_seed(0)
    batch = []
    for height, width in ((48, 60), (33, 40), (48, 60), (60, 41)):
        corners = torch.rand(3, 2, generator=rng) * torch.tensor([width, height]) / 2
        extents = 6 + torch.rand(3, 2, generator=rng) * 10
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.cat([corners, corners + extents], dim=1))
        instances.gt_classes = torch.randint(len(CLASSES), (3,), generator=rng)
        image = torch.randint(256, (3, height, width), generator=rng, dtype=torch.uint8)
        batch.append(
            {"image": image, "height": 2 * height, "width": 2 * width, "instances": instances}
        )
    return batch


def detect(
    cfg: CfgNode, autocast: torch.dtype | None = None
) -> tuple[list[Instances], Ledger | None]:
    """Detections of four images of two sizes, and what the call of the model cost.

    The model's weights are larger than initial ones, so that it finds something everywhere. With
    MODEL.DEVICE cuda a StrictDevice has to be active.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 0.5)
    batch = [{k: v for k, v in x.items() if k != "instances"} for x in examples()]
    gpu = StrictDevice.current if cfg.MODEL.DEVICE == "cuda" else None
    if gpu is not None:
        gpu.ledger.clear()
    with torch.no_grad(), torch.autocast(cfg.MODEL.DEVICE, autocast, enabled=autocast is not None):
        results = [output["instances"] for output in model(batch)]
    if gpu is None:
        return results, None
    ledger, gpu.ledger = gpu.ledger, Ledger()
    return results, ledger
