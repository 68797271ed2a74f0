"""Shipped configs: every one builds, yaml and LazyConfig agree, Detectron2's own scripts run."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import detectron2
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.modeling import build_model

from cornernet_d2 import add_cornernet_config, model_zoo
from cornernet_d2.modeling import CornerNet

CONFIGS = Path(__file__).parent.parent / "configs"
YAML = sorted(path.name for path in CONFIGS.glob("*.yaml"))
LAZY = sorted(f"lazy/{path.name}" for path in CONFIGS.glob("lazy/*.py"))
TOOLS = Path(detectron2.__file__).parent.parent / "tools"

TINY = [
    "model.backbone.widths=[8,8,12]",
    "model.backbone.blocks=[1,1,1]",
    "model.backbone.stem_width=8",
    "model.backbone.out_channels=8",
    "model.num_classes=2",
    "model.head_width=8",
    "model.pool_width=8",
    "train.device=cpu",
]


def build_on_meta(cfg) -> torch.nn.Module:
    with torch.device("meta"):
        if hasattr(cfg, "MODEL"):
            cfg.MODEL.DEVICE = "meta"
            return build_model(cfg)
        return instantiate(cfg.model)


@pytest.mark.parametrize("name", YAML)
def test_yaml_builds(name):
    cfg = model_zoo.get_config(name)
    assert len(build_on_meta(cfg).head) == cfg.MODEL.HOURGLASS.STACKS


def test_published_recipe():
    solver = model_zoo.get_config("CornerNet-HG104.yaml").SOLVER
    assert (solver.OPTIMIZER, solver.BASE_LR, solver.IMS_PER_BATCH) == ("ADAM", 2.5e-4, 49)
    assert (solver.MAX_ITER, solver.STEPS, solver.GAMMA) == (500_000, (450_000,), 0.1)


@pytest.mark.parametrize("size", ["hg104", "hg52"])
def test_yaml_and_lazy_agree(size):
    """The same parameters and, but for their classes, the same settings of every part."""
    a = build_on_meta(model_zoo.get_config(f"CornerNet-{size.upper()}.yaml"))
    b = build_on_meta(model_zoo.get_config(f"lazy/cornernet_{size}.py"))
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (a, b)]
    assert shapes[0] == shapes[1]
    assert vars(a.criterion) == vars(b.criterion)
    assert vars(a.corner_inference) == vars(b.corner_inference.inference)
    assert (b.corner_inference.scales, b.corner_inference.flip) == ((1.0,), False)
    assert a.target_generator.min_overlap == b.target_generator.min_overlap
    assert (a.padding, a.in_features) == (b.padding, b.in_features)


def test_lazy_config_shows_what_there_is_to_set():
    left_out = {"self", "in_features", "recompute_head"}  # all of them; follows the backbone
    cfg = model_zoo.get_config("lazy/cornernet_hg104.py")
    assert set(inspect.signature(CornerNet.__init__).parameters) - left_out <= set(cfg.model)


def test_unknown_key_is_refused():
    cfg = get_cfg()
    add_cornernet_config(cfg)
    with pytest.raises(AssertionError, match="MODEL.CORNERNET.TYPO"):
        cfg.merge_from_list(["MODEL.CORNERNET.TYPO", 1])


def test_lazy_config_takes_overrides_and_saves(tmp_path):
    cfg = LazyConfig.load(model_zoo.get_config_file(LAZY[0]))
    cfg = LazyConfig.apply_overrides(cfg, TINY)
    assert cfg.model.target_generator.num_classes == 2
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    assert (tmp_path / "config.yaml").stat().st_size > 0
    model = instantiate(cfg.model)
    assert model.head[0].tl.heatmap[1].out_channels == 2


@pytest.fixture(scope="module")
def small_coco(tmp_path_factory):
    """Four 64 x 64 pictures under the path, the name and the classes of COCO 2017."""
    root = tmp_path_factory.mktemp("datasets")
    rng = np.random.RandomState(0)
    images, annotations = [], []
    for split in ("train2017", "val2017"):
        (root / "coco" / split).mkdir(parents=True)
    for i in range(4):
        picture = rng.randint(0, 255, (64, 64, 3), np.uint8)
        for split in ("train2017", "val2017"):
            cv2.imwrite(str(root / "coco" / split / f"{i}.jpg"), picture)
        images.append({"id": i, "file_name": f"{i}.jpg", "height": 64, "width": 64})
        box = {"bbox": [8, 8, 30, 30], "area": 900, "iscrowd": 0}
        annotations.append({"id": i + 1, "image_id": i, "category_id": 1, **box})
    (root / "coco" / "annotations").mkdir()
    categories = [c for c in COCO_CATEGORIES if c["isthing"]]
    content = {"images": images, "annotations": annotations, "categories": categories}
    for split in ("train", "val"):
        path = root / "coco" / "annotations" / f"instances_{split}2017.json"
        path.write_text(json.dumps(content))
    return root


def run_stock(script: str, arguments, datasets: Path, folder: Path) -> str:
    path = TOOLS / script
    if not path.is_file():
        pytest.skip(f"this Detectron2 comes without tools/{script}")
    environment = {**os.environ, "DETECTRON2_DATASETS": str(datasets), "OMP_NUM_THREADS": "1"}
    package = str(CONFIGS.parent)
    environment["PYTHONPATH"] = os.pathsep.join(
        [package, str(TOOLS.parent), environment.get("PYTHONPATH", "")]
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(path), *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_stock_training_script_runs_the_lazy_config(small_coco, tmp_path):
    arguments = ["--config-file", model_zoo.get_config_file("lazy/cornernet_hg104.py"), *TINY]
    arguments += [f"train.output_dir={tmp_path}", "train.max_iter=2", "train.log_period=1"]
    arguments += ["dataloader.train.total_batch_size=2", "dataloader.train.num_workers=0"]
    arguments += ["dataloader.test.num_workers=0", "lr_multiplier.scheduler.milestones=[1]"]
    arguments += ["dataloader.train.mapper.augmentations.0.size=[63,63]", "train.eval_period=2"]
    arguments += ["model.num_classes=80", "dataloader.train.mapper.size_divisibility=16"]
    output = run_stock("lazyconfig_train_net.py", arguments, small_coco, tmp_path)
    assert "loss_heatmap" in output and "copypaste: AP" in output
    assert (tmp_path / "model_final.pth").is_file()


def test_stock_analysis_script_runs_the_lazy_config(small_coco, tmp_path):
    pytest.importorskip("detectron2.utils.analysis", exc_type=ImportError)  # 0.6 needs caffe2
    arguments = ["--tasks", "parameter", "structure", "--config-file"]
    arguments += [model_zoo.get_config_file("lazy/cornernet_hg104.py"), *TINY]
    assert "backbone" in run_stock("analyze_model.py", arguments, small_coco, tmp_path)
