"""Images a second of CornerNetTrainer's loader, from photos on disk to batches in this process."""

import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from cornernet_d2.engine import CornerNetTrainer
from cornernet_d2.tools.benchmark.train import OBJECTS

from . import Rows, Settings
from .cases import config

NAME = "gpu_check_photos"


def run(settings: Settings) -> Rows:
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        register_photos(Path(folder), 4 if settings.tiny else 64)
        for workers in [0] if settings.tiny else [0, *{min(4, cores), min(16, cores)}]:
            yield {"workers": workers, "images/s": rate(settings, workers)}


def rate(settings: Settings, workers: int) -> float:
    """After a first batch, which starts the workers."""
    size = 2 if settings.tiny else 8
    cfg = config(
        settings,
        DATASETS__TRAIN=(NAME,),
        DATALOADER__NUM_WORKERS=workers,
        SOLVER__IMS_PER_BATCH=size,
        SEED=1,
    )
    batches = iter(CornerNetTrainer.build_train_loader(cfg))
    next(batches)
    count, start = 0, time.perf_counter()
    while count < (1 if settings.tiny else 5) * size or time.perf_counter() - start < 3:
        count += len(next(batches))
        if settings.tiny:
            break
    return count / (time.perf_counter() - start)


def register_photos(folder: Path, count: int) -> None:
    """JPEG files of 640 x 480 pixels, smooth like photos, with boxes."""
    rng = np.random.default_rng(0)
    dicts = []
    for k in range(count):
        path = folder / f"{k}.jpg"
        coarse = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        cv2.imwrite(str(path), cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC))
        boxes = np.concatenate(
            [rng.uniform(0, 300, (OBJECTS, 2)), rng.uniform(20, 150, (OBJECTS, 2))], 1
        )
        objects = [
            {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": j, "iscrowd": 0}
            for j, box in enumerate(boxes.tolist())
        ]
        dicts.append(
            {"file_name": str(path), "image_id": k, "height": 480, "width": 640}
            | {"annotations": objects}
        )
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(NAME, None)
    DatasetCatalog.register(NAME, lambda: dicts)
    MetadataCatalog.get(NAME).thing_classes = [str(k) for k in range(80)]
