"""The presets "official" and "mmdet": their settings, and what models built from them compute.

Their numbers are pinned to the outputs of both code bases by test_parity.py, which builds every
model and criterion from these presets; here are the settings that those files do not reach.
"""

import math

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from test_checkpoint_formats import tiny_config

from cornernet_d2 import model_zoo
from cornernet_d2.compat.mmdet import MMDetCriterion, MMDetInference
from cornernet_d2.compat.official import OfficialCriterion, OfficialInference
from cornernet_d2.data.augmentation import RandomPixelFlip, RandomScaleCrop
from cornernet_d2.data.dataset_mapper import CornerNetDatasetMapper
from tests.parity.reference import MMDetReference, OfficialReference

OFFICIAL = "CornerNet-HG104-official.yaml"
MULTI_SCALE = "CornerNet-HG104-official-multi_scale.yaml"
MMDET = "CornerNet-HG104-mmdet.yaml"

# config/CornerNet.json of the authors, and what their code hard-codes.
OFFICIAL_SETTINGS = {
    "SOLVER.OPTIMIZER": "ADAM",
    "SOLVER.BASE_LR": 0.00025,
    "SOLVER.MAX_ITER": 500000,
    "SOLVER.STEPS": (450000,),
    "SOLVER.GAMMA": 0.1,
    "SOLVER.WEIGHT_DECAY": 0.0,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.IMS_PER_BATCH": 49,
    "INPUT.FORMAT": "BGR",
    "INPUT.CORNERNET.CROP.SIZE": [511, 511],
    "INPUT.CORNERNET.CROP.SCALES": np.arange(0.6, 1.4, 0.1).tolist(),  # as their code makes them
    "INPUT.CORNERNET.CROP.BORDER": 128,
    "INPUT.CORNERNET.CROP.FILL": "black",
    "INPUT.CORNERNET.CROP.MIN_VISIBLE": 0.0,
    "INPUT.CORNERNET.COLOR_JITTER": 0.4,
    "INPUT.CORNERNET.LIGHTING": 0.1,
    "INPUT.CORNERNET.PIXEL_FLIP": True,
    "INPUT.CORNERNET.CROWD": "positive",
    "INPUT.MIN_SIZE_TEST": 0,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
    "MODEL.CORNERNET.PADDING": "center_black",
    "MODEL.CORNERNET.TARGETS.MIN_OVERLAP": 0.3,
    "MODEL.CORNERNET.TARGETS.RADIUS_FORMULA": "exact",
    "MODEL.CORNERNET.TARGETS.GAUSSIAN": True,
    "MODEL.CORNERNET.TARGETS.CLIP": "last_pixel",
    "MODEL.CORNERNET.LOSS.CONVENTION": "official",
    "MODEL.CORNERNET.LOSS.PULL_WEIGHT": 0.1,
    "MODEL.CORNERNET.LOSS.PUSH_WEIGHT": 0.1,
    "MODEL.CORNERNET.LOSS.OFFSET_WEIGHT": 1.0,
    "MODEL.CORNERNET.TEST.CONVENTION": "official",
    "MODEL.CORNERNET.TEST.TOP_K": 100,
    "MODEL.CORNERNET.TEST.NMS_KERNEL": 3,
    "MODEL.CORNERNET.TEST.EMBEDDING_THRESHOLD": 0.5,
    "MODEL.CORNERNET.TEST.MAX_PAIRS": 1000,
    "MODEL.CORNERNET.TEST.SCALES": [1.0],
    "MODEL.CORNERNET.TEST.FLIP": True,
    "MODEL.CORNERNET.TEST.SOFT_NMS.METHOD": "gaussian",
    "MODEL.CORNERNET.TEST.SOFT_NMS.SIGMA": 0.5,
    "MODEL.CORNERNET.TEST.SOFT_NMS.IOU_THRESHOLD": 0.5,
    "MODEL.CORNERNET.TEST.SOFT_NMS.MIN_SCORE": 0.001,
    "MODEL.CORNERNET.TEST.MERGE.ENABLED": False,
    "TEST.DETECTIONS_PER_IMAGE": 100,
}
# config/CornerNet-multi_scale.json
MULTI_SCALE_SETTINGS = {
    **OFFICIAL_SETTINGS,
    "MODEL.CORNERNET.TEST.SCALES": [0.5, 0.75, 1.0, 1.25, 1.5],
    "MODEL.CORNERNET.TEST.MERGE.ENABLED": True,
    "MODEL.CORNERNET.TEST.MERGE.EXPONENT": 10.0,
}
# cornernet_hourglass104_mstest_10x5_210e_coco.py of MMDetection 2.x, and its code
MMDET_SETTINGS = {
    "SOLVER.OPTIMIZER": "ADAM",
    "SOLVER.BASE_LR": 0.0005,
    "SOLVER.IMS_PER_BATCH": 50,
    "SOLVER.MAX_ITER": 210 * math.ceil(117266 / 50),
    "SOLVER.STEPS": (180 * math.ceil(117266 / 50),),
    "SOLVER.WARMUP_ITERS": 500,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 35.0,
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "INPUT.CORNERNET.CROP.FILL": "mean",
    "INPUT.CORNERNET.CROP.SCALES": [0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3],
    "INPUT.CORNERNET.PIXEL_FLIP": False,
    "INPUT.CORNERNET.CROWD": "drop",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
    "MODEL.CORNERNET.PADDING": "center_mean",
    "MODEL.CORNERNET.TARGETS.MIN_OVERLAP": 0.3,
    "MODEL.CORNERNET.TARGETS.RADIUS_FORMULA": "exact",
    "MODEL.CORNERNET.LOSS.CONVENTION": "mmdet",
    "MODEL.CORNERNET.LOSS.PULL_WEIGHT": 0.1,
    "MODEL.CORNERNET.LOSS.PUSH_WEIGHT": 0.1,
    "MODEL.CORNERNET.TEST.CONVENTION": "mmdet",
    "MODEL.CORNERNET.TEST.FLIP": True,
    "MODEL.CORNERNET.TEST.SCALES": [1.0],
    "MODEL.CORNERNET.TEST.SOFT_NMS.METHOD": "gaussian",
    "MODEL.CORNERNET.TEST.MERGE.ENABLED": False,
    "TEST.DETECTIONS_PER_IMAGE": 100,
}


def setting(cfg, key):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def batch(sizes, seed=0):
    """Dicts of a stock Detectron2 mapper with two objects an image, one of them shared by cells."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for height, width in sizes:
        instances = Instances((height, width))
        boxes = [[5.0, 6.0, 40.3, 33.1], [12.0, 9.0, 50.2, 45.5], [12.5, 9.5, 50.9, 45.9]]
        instances.gt_boxes = Boxes(torch.tensor(boxes))
        instances.gt_classes = torch.tensor([0, 3, 1])
        image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        result.append({"image": image, "instances": instances})
    return result


class TestSettings:
    @pytest.mark.parametrize(
        "name, settings",
        [
            (OFFICIAL, OFFICIAL_SETTINGS),
            (MULTI_SCALE, MULTI_SCALE_SETTINGS),
            (MMDET, MMDET_SETTINGS),
        ],
    )
    def test_are_those_of_the_release(self, name, settings):
        cfg = model_zoo.get_config(name)
        wrong = {k: setting(cfg, k) for k, v in settings.items() if setting(cfg, k) != v}
        assert not wrong

    def test_parity_is_measured_on_the_preset(self):
        assert (OfficialReference.preset, MMDetReference.preset) == (OFFICIAL, MMDET)

    def test_warm_up_starts_at_a_third(self):
        assert model_zoo.get_config(MMDET).SOLVER.WARMUP_FACTOR == pytest.approx(1 / 3)

    @pytest.mark.parametrize("name, fill, flip", [(OFFICIAL, 0, True), (MMDET, None, False)])
    def test_reach_the_mapper(self, name, fill, flip):
        cfg = tiny_config(name)
        mapper = CornerNetDatasetMapper(cfg, True)
        augmentations = mapper.augmentations.augs
        (crop,) = (a for a in augmentations if isinstance(a, RandomScaleCrop))
        assert crop.fill == (cfg.MODEL.PIXEL_MEAN if fill is None else fill)
        assert any(isinstance(a, RandomPixelFlip) for a in augmentations) == flip
        assert mapper.crowd == cfg.INPUT.CORNERNET.CROWD
        assert mapper.target_generator.min_overlap == 0.3

    @pytest.mark.parametrize("name", [OFFICIAL, MULTI_SCALE, MMDET])
    def test_reach_the_model(self, name):
        cfg = tiny_config(name)
        model = build_model(cfg)
        assert type(model.criterion) is (MMDetCriterion if name == MMDET else OfficialCriterion)
        assert model.padding == cfg.MODEL.CORNERNET.PADDING
        views = model.corner_inference
        assert type(views.inference) is (MMDetInference if name == MMDET else OfficialInference)
        assert views.inference.merge_exponent == (10.0 if name == MULTI_SCALE else None)
        assert views.flip and len(views.scales) == (5 if name == MULTI_SCALE else 1)

    @pytest.mark.parametrize("name", [OFFICIAL, MULTI_SCALE, MMDET])
    def test_train_and_detect(self, name):
        model = build_model(tiny_config(name))
        inputs = batch([(63, 79), (50, 60)])
        assert all(torch.isfinite(loss) for loss in model(inputs).values())
        with torch.no_grad():
            outputs = model.eval()(inputs)
        assert [o["instances"].image_size for o in outputs] == [(63, 79), (50, 60)]


class TestPadding:
    @pytest.mark.parametrize("name, border", [(OFFICIAL, "black"), (MMDET, "mean")])
    def test_border(self, name, border):
        model = build_model(tiny_config(name)).eval()
        image = torch.full((3, 20, 30), 200, dtype=torch.uint8)
        pixels, canvas = model.preprocess_image([{"image": image}])
        assert pixels.shape[-2:] == (31, 31)  # 20 | 15 and 30 | 15
        assert canvas.borders == ((15 - 10, 15 - 15),)
        black = -(model.pixel_mean / model.pixel_std).flatten()
        expected = black if border == "black" else torch.zeros(3)
        torch.testing.assert_close(pixels[0, :, 0, 0], expected)

    def test_training_crops_are_used_whole(self):
        model = build_model(tiny_config(OFFICIAL))
        inputs = [{"image": torch.full((3, 31, 31), 255, dtype=torch.uint8)}]
        assert (model.train().preprocess_image(inputs)[0] > 0).all()
        tested = model.eval().preprocess_image(inputs)[0]
        assert (tested[..., :-1, :-1] > 0).all() and (tested[..., -1, :] < 0).all()
