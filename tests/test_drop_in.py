"""In a Detectron2 program that knows nothing of this package but its import and its config."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from detectron2.modeling import build_model
from tiny_run import TINY_NETWORK

import cornernet_d2
import cornernet_d2.engine

NAME = "drop_in"
BOX = [8, 12, 30, 28]  # x, y, width, height, pixels


@pytest.fixture
def cfg(tmp_path):
    rng = np.random.RandomState(0)
    images, annotations = [], []
    for i in range(2):
        picture = rng.randint(0, 60, (64, 64, 3), np.uint8)
        cv2.rectangle(picture, (BOX[0], BOX[1]), (37, 39), (40, 200, 250), -1)
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture)
        images.append({"id": i, "file_name": f"{i}.png", "height": 64, "width": 64})
        box = {"bbox": BOX, "area": 840, "iscrowd": 0}
        annotations.append({"id": i + 1, "image_id": i, "category_id": 5, **box})
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 5, "name": "block"}]
    (tmp_path / "blocks.json").write_text(json.dumps(content))
    register_coco_instances(NAME, {}, str(tmp_path / "blocks.json"), str(tmp_path))

    cfg = get_cfg()
    cornernet_d2.add_cornernet_config(cfg)
    cfg.merge_from_file(cornernet_d2.model_zoo.get_config_file("CornerNet-HG104.yaml"))
    cfg.merge_from_list(
        # twice as wide as the tiny network: it has to learn
        [*TINY_NETWORK, "MODEL.HOURGLASS.WIDTHS", [16, 16, 24], "MODEL.HOURGLASS.STACKS", 1]
        + ["MODEL.HOURGLASS.OUT_CHANNELS", 16, "MODEL.CORNERNET.HEAD_WIDTH", 16]
        + ["MODEL.CORNERNET.POOL_WIDTH", 16, "MODEL.CORNERNET.NUM_CLASSES", 1]
        + ["INPUT.MIN_SIZE_TRAIN", (0,)]
        + ["INPUT.RANDOM_FLIP", "none", "SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 3]
        + ["SOLVER.STEPS", (), "DATASETS.TRAIN", (NAME,), "DATASETS.TEST", ()]
        + ["DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", str(tmp_path / "output")]
    )
    yield cfg
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_default_trainer(cfg, tmp_path):
    """Stock loader, mapper, optimiser and hooks: the model makes its targets itself."""
    (tmp_path / "output").mkdir()
    trainer = DefaultTrainer(cfg)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters()))
    assert (tmp_path / "output" / "model_final.pth").is_file()


class Trainer(DefaultTrainer):
    """As README has it."""

    @classmethod
    def build_optimizer(cls, cfg, model):
        return cornernet_d2.engine.build_optimizer(cfg, model)


def test_optimizer_of_a_stock_trainer(cfg, tmp_path):
    """Detectron2's own takes SGD, whatever SOLVER.OPTIMIZER says; one line puts that right."""
    (tmp_path / "output").mkdir()
    assert type(DefaultTrainer(cfg).optimizer) is torch.optim.SGD
    trainer = Trainer(cfg)
    assert type(trainer.optimizer) is torch.optim.Adam
    assert trainer.optimizer.defaults["betas"] == tuple(cfg.SOLVER.BETAS)


def test_short_schedule_in_a_stock_trainer(cfg, tmp_path):
    """Its clipping is none of Detectron2's kinds, and is part of our optimiser."""
    (tmp_path / "output").mkdir()
    short = cornernet_d2.model_zoo.get_config("CornerNet-HG104-12ep")
    cfg.merge_from_list(
        ["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1e-3]
        + ["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", short.SOLVER.CLIP_GRADIENTS.CLIP_TYPE]
    )
    trainer = Trainer(cfg)
    trainer.train()
    norm = torch.stack([p.grad.norm() for p in trainer.model.parameters()]).norm()
    assert 0.9e-3 < norm < 1.001e-3


def test_plain_loop_and_coco_evaluator(cfg, tmp_path):
    """A loop without Detectron2's trainer learns two pictures; its evaluator scores them."""
    torch.manual_seed(0)
    model = build_model(cfg)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for batch, _ in zip(build_detection_train_loader(cfg), range(100)):
        optimizer.zero_grad()
        sum(model(batch).values()).backward()
        optimizer.step()
    evaluator = COCOEvaluator(NAME, tasks=("bbox",), output_dir=str(tmp_path), use_fast_impl=False)
    loader = build_detection_test_loader(cfg, NAME)
    results = inference_on_dataset(model, loader, evaluator)
    assert results["bbox"]["AP"] > 50


def test_import_leaves_the_engine_to_those_who_need_it():
    code = "import sys, cornernet_d2; before = 'cornernet_d2.engine' in sys.modules\n"
    code += "name = cornernet_d2.build_predictor.__module__\n"
    code += "print(before, name, 'cornernet_d2.engine' in sys.modules)"
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "cornernet_d2.predictor.build", "True"]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cornernet_d2.nothing
