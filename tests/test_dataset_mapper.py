"""The mapper from real files: boxes, ignore regions, targets, seeds, and Detectron2's datasets."""

import copy
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import LazyCall, get_cfg, instantiate
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_train_loader,
)
from detectron2.data import transforms as T
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng
from PIL import Image

from cornernet_d2 import add_cornernet_config, model_zoo
from cornernet_d2.canvas import Canvas
from cornernet_d2.data import CornerNetDatasetMapper
from cornernet_d2.engine import CornerNetTrainer
from cornernet_d2.targets import CornerTargetGenerator


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_cornernet_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_hourglass_backbone"
    cfg.MODEL.HOURGLASS.DEPTH = 1
    cfg.MODEL.HOURGLASS.WIDTHS = [4, 4]
    cfg.MODEL.HOURGLASS.BLOCKS = [1, 1]
    cfg.MODEL.CORNERNET.NUM_CLASSES = 3
    cfg.INPUT.CORNERNET.CROP.SIZE = [63, 95]
    cfg.INPUT.CORNERNET.CROP.BORDER = 16
    cfg.INPUT.MIN_SIZE_TEST = 0
    return cfg


@pytest.fixture
def without_augmentation(cfg):
    cfg.INPUT.CORNERNET.CROP.ENABLED = False
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.CORNERNET.COLOR_JITTER = cfg.INPUT.CORNERNET.LIGHTING = 0.0
    return cfg


def box(x0, y0, x1, y1, category=0, **rest):
    return {
        "bbox": [x0, y0, x1, y1],
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": category,
        **rest,
    }


@pytest.fixture
def example(tmp_path):
    pixels = np.random.RandomState(0).randint(0, 256, (80, 120, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return {
        "file_name": str(tmp_path / "a.png"),
        "image_id": 7,
        "height": 80,
        "width": 120,
        "annotations": [
            box(10, 12, 50, 60),
            box(60, 5, 119, 70, 2),
            box(0, 0, 30, 30, 1, iscrowd=1, segmentation={"counts": b"", "size": [80, 120]}),
            box(70, 40, 90, 60, 1, ignore=1),
        ],
    }


def test_output(without_augmentation, example):
    before = copy.deepcopy(example)
    mapper = CornerNetDatasetMapper(without_augmentation, is_train=True)
    output = mapper(example)
    assert example == before
    assert isinstance(mapper, DatasetMapper)
    assert "annotations" not in output and output["image_id"] == 7
    stored = np.asarray(Image.open(example["file_name"]))[:, :, ::-1].transpose(2, 0, 1)
    assert output["image"].dtype == torch.uint8
    np.testing.assert_array_equal(output["image"], stored)
    instances = output["instances"]
    assert instances.gt_boxes.tensor.tolist() == [[10, 12, 50, 60], [60, 5, 119, 70]]
    assert instances.gt_classes.tolist() == [0, 2] and instances.image_size == (80, 120)
    assert output["ignored"].gt_boxes.tensor.tolist() == [[0, 0, 30, 30], [70, 40, 90, 60]]
    targets = output["corner_targets"]
    assert targets.map_size == (20, 30)  # the canvas is a multiple of 8 here
    assert targets.cells.tolist() == [[3 * 30 + 2, 15 * 30 + 12], [1 * 30 + 15, 17 * 30 + 29]]
    ignore = targets.ignore_mask()
    assert ignore[:, 1, :8, :8].all() and ignore[:, 1, 10:16, 17:23].all()
    assert ignore.sum() == 2 * (64 + 36) and not ignore[:, [0, 2]].any()


@pytest.mark.parametrize(
    "crowd, kept, hidden", [("ignore", 2, 2), ("positive", 4, 0), ("drop", 2, 0)]
)
def test_crowd_modes(without_augmentation, example, crowd, kept, hidden):
    without_augmentation.INPUT.CORNERNET.CROWD = crowd
    output = CornerNetDatasetMapper(without_augmentation, is_train=True)(example)
    assert len(output["instances"]) == len(output["corner_targets"]) == kept
    assert len(output.get("ignored", [])) == hidden
    assert (output["corner_targets"].ignore_mask() is not None) == (hidden > 0)


@pytest.mark.parametrize("padding", ["bottom_right", "center_black", "center_mean"])
def test_targets_are_those_the_model_would_make(cfg, example, padding):
    cfg.MODEL.CORNERNET.PADDING = padding
    cfg.INPUT.CORNERNET.CROP.SIZE = [64, 90]
    mapper = CornerNetDatasetMapper(cfg, is_train=True)
    seed_all_rng(3)
    for _ in range(5):
        output = mapper(example)
        canvas = Canvas.fit([output["image"].shape[1:]], 8, 4, padding)
        both = [output[key] for key in ("instances", "ignored") if key in output]
        parts = [part for each in both for part in (each.gt_boxes.tensor, each.gt_classes)]
        expected = CornerTargetGenerator(3, fixed_radius=-1).on_canvas(canvas, 0, *parts)
        for name, value in vars(output["corner_targets"]).items():
            other = getattr(expected, name)
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other


def test_objects_cut_too_much_are_ignored_and_cut_away_are_dropped(cfg, example):
    crop = T.CropTransform(40, 0, 60, 80)
    make = CornerTargetGenerator(3)

    def run(min_visible):
        mapper = CornerNetDatasetMapper(
            True, augmentations=[crop], target_generator=make, min_visible=min_visible
        )
        return mapper(example)

    # x from 40 to 100: a quarter of object 0 is left, two thirds of object 1, the crowd is gone.
    output = run(0.0)
    assert output["instances"].gt_boxes.tensor.tolist() == [[0, 12, 10, 60], [20, 5, 60, 70]]
    assert output["ignored"].gt_boxes.tensor.tolist() == [[30, 40, 50, 60]]
    output = run(0.3)
    assert output["instances"].gt_classes.tolist() == [2]
    assert output["ignored"].gt_boxes.tensor.tolist() == [[0, 12, 10, 60], [30, 40, 50, 60]]


def test_augmented_output(cfg, example):
    mapper = CornerNetDatasetMapper(cfg, is_train=True)
    seed_all_rng(0)
    outputs = [mapper(example) for _ in range(8)]
    seed_all_rng(0)
    again = [mapper(example) for _ in range(8)]
    for a, b in zip(outputs, again):
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["corner_targets"].cells, b["corner_targets"].cells)
        assert a["image"].shape == (3, 63, 95) and a["image"].dtype == torch.float16
        assert a["image"].is_contiguous()
    assert len({x["image"].numpy().tobytes() for x in outputs}) == 8


def test_augmentations_follow_the_config(cfg):
    def names():
        augmentations = CornerNetDatasetMapper(cfg, is_train=True).augmentations.augs
        return [type(a).__name__ for a in augmentations]

    assert names() == ["RandomScaleCrop", "ColorJitter", "RandomFlip"]
    cfg.INPUT.CORNERNET.PIXEL_FLIP = True
    cfg.INPUT.CORNERNET.LIGHTING = 0.0
    cfg.INPUT.CROP.ENABLED = True
    assert names() == ["RandomCrop", "RandomScaleCrop", "ColorJitter", "RandomPixelFlip"]
    cfg.INPUT.CORNERNET.CROP.ENABLED = cfg.INPUT.CROP.ENABLED = False
    cfg.INPUT.CORNERNET.COLOR_JITTER = 0.0
    cfg.INPUT.RANDOM_FLIP = "none"
    assert names() == ["ResizeShortestEdge"]
    cfg.INPUT.CORNERNET.CROP.ENABLED = True
    cfg.INPUT.CORNERNET.CROP.FILL = "mean"
    augmentation = CornerNetDatasetMapper(cfg, is_train=True).augmentations.augs[0]
    assert augmentation.fill == cfg.MODEL.PIXEL_MEAN
    cfg.INPUT.CORNERNET.CROP.FILL = "white"
    with pytest.raises(ValueError, match="CROP.FILL"):
        CornerNetDatasetMapper(cfg, is_train=True)


def test_building_leaves_random_state_alone(cfg):
    seed_all_rng(5)
    expected = torch.rand(3), np.random.rand(3)
    seed_all_rng(5)
    CornerNetDatasetMapper(cfg, is_train=True)
    assert torch.equal(torch.rand(3), expected[0]) and (np.random.rand(3) == expected[1]).all()


def test_layout_follows_the_backbone(cfg):
    mapper = CornerNetDatasetMapper(cfg, is_train=True)
    assert (mapper.size_divisibility, mapper.target_generator.stride) == (8, 4)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.CORNERNET.IN_FEATURES = ["p3"]
    mapper = CornerNetDatasetMapper(cfg, is_train=True)
    assert (mapper.size_divisibility, mapper.target_generator.stride) == (32, 8)


@pytest.mark.parametrize("min_size", [0, 40])
def test_inference_is_detectron2s(cfg, example, min_size):
    cfg.INPUT.MIN_SIZE_TEST = min_size
    ours = CornerNetDatasetMapper(cfg, is_train=False)(example)
    stock = DatasetMapper(cfg, is_train=False)(example)
    assert ours.keys() == stock.keys() and torch.equal(ours["image"], stock["image"])
    assert (ours["height"], ours["width"]) == (80, 120)
    assert ours["image"].shape[1] == (min_size or 80)


def test_lazy_config(example):
    lazy = LazyCall(CornerNetDatasetMapper)(
        is_train=True,
        augmentations=[LazyCall(T.ResizeShortestEdge)(short_edge_length=40)],
        target_generator=LazyCall(CornerTargetGenerator)(num_classes=3),
        size_divisibility=32,
    )
    output = instantiate(lazy)(example)
    assert output["image"].shape == (3, 40, 60)
    assert output["corner_targets"].map_size == (16, 16)


def test_hundreds_of_objects_and_none(without_augmentation, example):
    mapper = CornerNetDatasetMapper(without_augmentation, is_train=True)
    rng = np.random.RandomState(0)
    corners = rng.rand(500, 2) * [100, 60]
    example["annotations"] = [box(x, y, x + 9, y + 9) for x, y in corners.tolist()]
    assert len(mapper(example)["corner_targets"]) == 500
    example["annotations"] = []
    output = mapper(example)
    assert len(output["instances"]) == len(output["corner_targets"]) == 0
    example["annotations"] = [box(1, 1, 9, 9, iscrowd=1)]
    output = mapper(example)
    assert len(output["instances"]) == 0 and len(output["ignored"]) == 1


@pytest.mark.parametrize("options", [{"crowd": "keep"}, {"target_generator": None}])
def test_bad_options_are_refused(options):
    options = {"target_generator": CornerTargetGenerator(3), **options}
    with pytest.raises(ValueError, match="CROWD|target_generator"):
        CornerNetDatasetMapper(True, augmentations=[], **options)


@pytest.fixture
def coco_name(tmp_path):
    images, annotations = [], []
    for i in range(4):
        pixels = np.random.RandomState(i).randint(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "height": 40, "width": 50})
        for category, crowd in ((5, 0), (90, 0), (17, 1)):  # ids with holes
            annotations.append(
                dict(id=len(annotations) + 1, image_id=i + 1, category_id=category, iscrowd=crowd,
                     bbox=[5 + category / 10, 6, 20, 15], area=300, segmentation=[])  # fmt: skip
            )
    categories = [{"id": i, "name": f"class{i}"} for i in (5, 17, 90)]
    path = Path(tmp_path) / "coco.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    name = f"mapper_test_{tmp_path.name}"
    register_coco_instances(name, {}, str(path), str(tmp_path))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_registered_coco_set_with_holes_in_its_ids(cfg, coco_name):
    mapper = CornerNetDatasetMapper(cfg, is_train=True)
    output = mapper(DatasetCatalog.get(coco_name)[0])
    assert set(output["instances"].gt_classes.tolist()) <= {0, 2}
    assert output.get("ignored") is None or set(output["ignored"].gt_classes.tolist()) == {1}


def test_workers_and_epochs_differ_and_repeat(cfg, coco_name):
    cfg.DATASETS.TRAIN = (coco_name,)
    cfg.SOLVER.IMS_PER_BATCH = 2
    cfg.DATALOADER.NUM_WORKERS = 2
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.SEED = 3
    mapper = CornerNetDatasetMapper(cfg, is_train=True)

    def images():
        seed_all_rng(11)
        batches = iter(build_detection_train_loader(cfg, mapper=mapper))
        return [x for _ in range(6) for x in next(batches)]

    first, second = images(), images()
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, second))
    # Twelve images are three passes over four: no draw is repeated by a worker or a pass.
    assert len({x["image"].numpy().tobytes() for x in first}) == 12
    crops = {tuple(x["corner_targets"].offsets.flatten().tolist()) for x in first}
    assert len(crops) == 12


def test_pascal_voc_folder(cfg, tmp_path):
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("000001\n000002\n")
    for name in ("000001", "000002"):
        Image.new("RGB", (60, 50), (9, 99, 199)).save(tmp_path / f"JPEGImages/{name}.jpg")
        (tmp_path / f"Annotations/{name}.xml").write_text(
            "<annotation><size><width>60</width><height>50</height><depth>3</depth></size><object>"
            "<name>dog</name><difficult>0</difficult><bndbox><xmin>11</xmin><ymin>6</ymin>"
            "<xmax>40</xmax><ymax>45</ymax></bndbox></object></annotation>"
        )
    pascal_voc = pytest.importorskip("detectron2.data.datasets.pascal_voc")
    try:
        dicts = pascal_voc.load_voc_instances(str(tmp_path), "train", pascal_voc.CLASS_NAMES)
    except AttributeError as error:  # Detectron2 0.6 uses names that numpy 1.24 dropped
        pytest.skip(str(error))
    cfg.MODEL.CORNERNET.NUM_CLASSES = 20
    mapper = CornerNetDatasetMapper(cfg, is_train=True)
    seed_all_rng(0)
    outputs = [mapper(dicts[0]) for _ in range(4)]
    assert {int(c) for x in outputs for c in x["instances"].gt_classes} == {
        pascal_voc.CLASS_NAMES.index("dog")
    }


def test_lvis_dicts_keep_what_the_evaluator_needs(without_augmentation, example):
    example.update(not_exhaustive_category_ids=[1], neg_category_ids=[2])
    output = CornerNetDatasetMapper(without_augmentation, is_train=True)(example)
    assert output["not_exhaustive_category_ids"] == [1] and output["neg_category_ids"] == [2]


def test_the_test_loader_reads_as_training_does(cfg, coco_name, tmp_path):
    """Detectron2's reader gives 16-bit greys as white."""
    deep = np.random.RandomState(0).randint(0, 2**16, (40, 50)).astype(np.uint16)
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), deep)
    cfg.DATALOADER.NUM_WORKERS = 0
    for batch in CornerNetTrainer.build_test_loader(cfg, coco_name):
        np.testing.assert_array_equal(batch[0]["image"], [deep >> 8] * 3)


def test_mmdet_fill_is_the_mean_whatever_the_colours(example):
    cfg = model_zoo.get_config("CornerNet-HG104-mmdet")
    cfg.MODEL.CORNERNET.NUM_CLASSES = 3
    mapper = CornerNetDatasetMapper(cfg, is_train=True)
    names = [type(a).__name__ for a in mapper.augmentations.augs]
    assert names == ["PhotometricDistortion", "RandomScaleCrop", "RandomFlip"]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    canvas = Canvas.fit([(511, 511)], 128, 4, "center_mean", training=True)
    seed_all_rng(0)
    for _ in range(5):  # the image is far smaller than the crop
        output = mapper(example)
        assert output["image"].dtype == torch.float32
        pixels = canvas.paste([output["image"]], mean, std)[0]
        assert (pixels[:, [0, 0, -1, -1], [0, -1, 0, -1]] == 0).all() and pixels.std() > 0.1
        assert len(output["instances"]) and "ignored" not in output


@pytest.mark.parametrize("center_inside", [False, True])
def test_objects_whose_centre_is_cut_off(cfg, example, center_inside):
    cfg.INPUT.CORNERNET.CROP.CENTER_INSIDE = center_inside
    cfg.INPUT.CORNERNET.CROP.SIZE = [40, 40]
    cfg.INPUT.CORNERNET.CROP.SCALES = [1.0]
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.CORNERNET.CROWD = "drop"
    mapper = CornerNetDatasetMapper(cfg, is_train=True)
    seed_all_rng(0)
    counts = [len(mapper(example)["instances"]) for _ in range(150)]
    # Both objects are in sight of some crops; their centres, 60 pixels apart, are not.
    assert set(counts) == ({1} if center_inside else {1, 2})


def test_sizes_may_be_missing(cfg, example):
    del example["height"], example["width"]
    for is_train in (True, False):
        output = CornerNetDatasetMapper(cfg, is_train=is_train)(example)
        assert (output["height"], output["width"]) == (80, 120)
