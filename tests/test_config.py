"""Shipped configs: every one builds, yaml and LazyConfig agree, Detectron2's own scripts run."""

import inspect
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import detectron2
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.modeling import build_model
from detectron2.structures import BoxMode

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
    if cfg.MODEL.BACKBONE.NAME == "build_timm_fpn_backbone":
        pytest.importorskip("timm", reason="the backbone's optional package")
    features = cfg.MODEL.CORNERNET.IN_FEATURES
    assert len(build_on_meta(cfg).head) == (len(features) or cfg.MODEL.HOURGLASS.STACKS)


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
    assert type(a.criterion) is type(b.criterion) and vars(a.criterion) == vars(b.criterion)
    assert vars(a.corner_inference) == vars(b.corner_inference.inference)
    assert (b.corner_inference.scales, b.corner_inference.flip) == ((1.0,), False)
    settings = [vars(m.target_generator) for m in (a, b)]
    for each in settings:  # negative in yaml, which has no None of its own
        each.pop("fixed_radius")
    assert settings[0] == settings[1]
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


# What was changed, and what of the targets must follow.
CHANGES = {
    "model.target_generator.min_overlap=0.3": ("min_overlap", 0.3),
    "model.num_classes=4": ("num_classes", 4),
    "model.backbone.widths=[8,12]": ("stride", 4),  # canvases of 8 pixels instead of 16
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("padding", ["bottom_right", "center_mean"])
def test_one_change_of_a_lazy_config_reaches_data_and_model(change, padding):
    cfg = LazyConfig.load(model_zoo.get_config_file(LAZY[0]))
    settings = [*TINY, "dataloader.train.mapper.augmentations=[]", f"model.padding={padding}"]
    blocks = ["model.backbone.blocks=[1,1]"] if "widths" in change else []
    cfg = LazyConfig.apply_overrides(cfg, [*settings, change, *blocks])
    mapper, model = (instantiate(c) for c in (cfg.dataloader.train.mapper, cfg.model))
    name, value = CHANGES[change]
    assert getattr(model.target_generator, name) == value
    assert mapper.target_generator == model.target_generator
    size = (50, 60)
    picture = np.random.RandomState(0).randint(0, 255, (*size, 3), np.uint8)
    box = {"bbox": [10, 8, 50, 42], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, "iscrowd": 0}
    with tempfile.TemporaryDirectory() as folder:
        cv2.imwrite(f"{folder}/0.png", picture)
        x = mapper({"file_name": f"{folder}/0.png", "annotations": [box], "image_id": 0})
    (targets,) = model.corner_targets([x], model.preprocess_image([x])[1])
    instances = x.pop("instances")
    canvas = model.preprocess_image([x])[1]
    expected = model.target_generator.on_canvas(
        canvas, 0, instances.gt_boxes.tensor, instances.gt_classes
    )
    assert targets.canvas_size == canvas.size
    assert torch.equal(targets.cells, expected.cells)
    assert torch.equal(targets.offsets, expected.offsets)
    assert torch.equal(targets.radii, expected.radii)
    if padding == "bottom_right":  # the mapper's targets serve: no need for "instances"
        losses = model([x])
        sum(losses.values()).backward()
        assert all(loss.isfinite() for loss in losses.values())


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
    arguments += ["dataloader.test.num_workers=0"]
    arguments += ["dataloader.train.mapper.augmentations.0.size=[63,63]", "train.eval_period=2"]
    arguments += ["model.num_classes=80"]
    output = run_stock("lazyconfig_train_net.py", arguments, small_coco, tmp_path)
    assert "loss_heatmap" in output and "copypaste: AP" in output
    assert (tmp_path / "model_final.pth").is_file()


@pytest.mark.parametrize("max_iter", [10, 1000, 500_000])
def test_the_lazy_schedule_follows_its_length(max_iter: int) -> None:
    config = LazyConfig.load(model_zoo.get_config_file("lazy/cornernet_hg104.py"))
    config = LazyConfig.apply_overrides(config, [f"train.max_iter={max_iter}"])
    schedule = instantiate(config.lr_multiplier)
    rates = [schedule(i / max_iter) for i in (0, max_iter * 0.9 - 1, max_iter * 0.9 + 0.6)]
    assert rates == [1.0, 1.0, 0.1]


def test_stock_analysis_script_runs_the_lazy_config(small_coco, tmp_path):
    pytest.importorskip("detectron2.utils.analysis", exc_type=ImportError)  # 0.6 needs caffe2
    arguments = ["--tasks", "parameter", "structure", "--config-file"]
    arguments += [model_zoo.get_config_file("lazy/cornernet_hg104.py"), *TINY]
    assert "backbone" in run_stock("analyze_model.py", arguments, small_coco, tmp_path)
