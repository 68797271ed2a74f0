"""The network of CornerNet-BCCD on synthetic shapes, through the whole trainer: its loss falls."""

import statistics
import tempfile
from pathlib import Path

import make_shapes
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from cornernet_d2 import model_zoo
from cornernet_d2.engine import CornerNetTrainer

from . import Rows, Settings

NAME = "gpu_check_shapes"
FALL = 0.7  # of the mean loss, from the first ten iterations to the last ten


def run(settings: Settings) -> Rows:
    steps, images, size = (4, 4, 64) if settings.tiny else (120, 64, 256)
    with tempfile.TemporaryDirectory() as folder:
        shapes = Path(folder) / "shapes"
        make_shapes.make_shapes(shapes, make_shapes.Settings(train=images, val=1, size=size))
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop(NAME, None)
        annotations = shapes / "annotations/train.json"
        register_coco_instances(NAME, {}, str(annotations), str(shapes / "images"))
        trainer = CornerNetTrainer(config(settings, steps, size, folder))
        trainer.train()
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    window = min(10, len(losses) // 2)
    first, last = statistics.mean(losses[:window]), statistics.mean(losses[-window:])
    yield {
        "iterations": steps, "first losses": first, "last losses": last,
        "ok": len(losses) == steps and (settings.tiny or last < FALL * first),
    }  # fmt: skip


def config(settings: Settings, steps: int, size: int, folder: str) -> object:
    cfg = model_zoo.get_config("CornerNet-BCCD")
    cfg.defrost()
    cfg.MODEL.DEVICE = settings.device
    cfg.MODEL.CORNERNET.NUM_CLASSES = len(make_shapes.CATEGORIES)
    cfg.INPUT.CORNERNET.CROP.SIZE = [size - 1, size - 1]
    cfg.INPUT.CORNERNET.CROP.SCALES = [0.9, 1.0, 1.1]
    cfg.INPUT.CORNERNET.CROP.BORDER = size // 4
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (NAME,), ()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = steps, min(20, steps - 1)
    cfg.SOLVER.IMS_PER_BATCH = 2 if settings.tiny else 8
    cfg.TEST.EVAL_PERIOD = 0
    cfg.DATALOADER.NUM_WORKERS = 0 if settings.tiny else 4
    cfg.SEED = 1
    cfg.OUTPUT_DIR = str(Path(folder) / "output")
    return cfg
