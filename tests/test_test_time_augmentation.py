"""Scales, sizes and mirror images around an inference, and the config keys that ask for them."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling.test_time_augmentation import DatasetMapperTTA

from cornernet_d2 import prepare_for_inference
from cornernet_d2.compat.official import resize_like_opencv
from cornernet_d2.modeling import CornerInference, InferenceWithTTA
from cornernet_d2.modeling.inference import Candidates
from cornernet_d2.modeling.test_time_augmentation import build_inference
from tests.test_cornernet import detecting_model, example, tiny_model
from tests.test_inference import PICTURES, SeesCorners, config, rows

CPU = torch.device("cpu")


def augmented(sizes, flip, longest=4000, **settings):
    cfg = config(**settings)
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.FLIP = True, flip
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE = sizes, longest
    return cfg


class SeesSizes(SeesCorners):
    """Notes the images that it is given, in order, and whether each is mirrored."""

    def __init__(self):
        super().__init__()
        self.given = []

    def preprocess_image(self, batched_inputs, mirrored=()):
        self.given += [(x["image"], flag) for x, flag in zip(batched_inputs, mirrored)]
        return super().preprocess_image(batched_inputs, mirrored)


@pytest.mark.parametrize("flip", [False, True])
def test_detectron2s_keys_give_detectron2s_views(flip):
    """Defect: TEST.AUG was ignored without a word."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, 60, 90), generator=generator, dtype=torch.uint8)
    cfg, model = augmented([40, 60, 100], flip, longest=120), SeesSizes()
    build_inference(cfg)(model, [image])
    views = DatasetMapperTTA(cfg)({"image": image, "height": 60, "width": 90})
    assert len(model.given) == len(views) == 3 * (1 + flip)
    for (seen, mirrored), view in zip(model.given, views):
        seen, want = (seen.flip(-1) if mirrored else seen).float(), view["image"].float()
        assert seen.shape == want.shape
        assert (seen - want).abs().max() <= 1  # Pillow rounds each axis to whole numbers
    assert [mirrored for _, mirrored in model.given] == [False, True][: 1 + flip] * 3


@pytest.mark.parametrize(
    "keys",
    [
        ("TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", [48, 80]),
        ("MODEL.CORNERNET.TEST.SCALES", [0.75, 1.5], "MODEL.CORNERNET.TEST.FLIP", True),
        ("MODEL.CORNERNET.TEST.FLIP", True),
    ],
)
def test_a_model_built_from_the_config_applies_it(keys):
    model, plain = detecting_model(*keys), detecting_model()
    assert isinstance(model.corner_inference, InferenceWithTTA)
    x = example(0)
    (views,), (one,) = model([x]), plain([x])
    assert len(views["instances"]) and views["instances"].image_size == one["instances"].image_size
    assert not torch.equal(views["instances"].scores, one["instances"].scores)
    assert type(tiny_model().corner_inference) is CornerInference


def test_one_view_of_the_image_itself_changes_nothing():
    cfg = augmented([64], flip=False, TOP_K=3, best=3)
    for image in (PICTURES[0], PICTURES[2]):  # 64 x 80
        for inference in (build_inference(cfg), InferenceWithTTA(build_inference(config()))):
            (want,) = (inference.inference)(SeesCorners(), [image], [(50, 50)])
            (got,) = inference(SeesCorners(), [image], [(50, 50)])
            assert torch.equal(rows(got), rows(want)) and got.image_size == (50, 50)


@pytest.mark.parametrize("convention", ["default", "official", "mmdet"])
def test_images_at_once_equal_one_by_one(convention):
    cfg = augmented([48, 64, 81], flip=True, convention=convention)
    inference = build_inference(cfg)
    for result, image in zip(inference(SeesCorners(), PICTURES), PICTURES):
        (alone,) = inference(SeesCorners(), [image])
        assert torch.equal(rows(result), rows(alone))


def test_of_a_thin_image_a_row_is_left():
    """Defect: 1x500 pixels became an image without rows, and an error."""
    (found,) = build_inference(augmented([40], flip=True, longest=120))(
        SeesCorners(), [torch.zeros(3, 1, 500)]
    )
    assert found.image_size == (1, 500)


@pytest.mark.parametrize("prepared", [False, True])
def test_a_batch_equals_views_made_one_by_one(prepared):
    """Every view by hand: resized, turned, through the network alone, turned back."""
    keys = ("MODEL.CORNERNET.TEST.SCALES", [0.75, 1.0, 1.5], "MODEL.CORNERNET.TEST.FLIP", True)
    model = detecting_model(*keys)
    model = prepare_for_inference(model, dtype="float32") if prepared else model
    images = [example(0, size, seed)["image"] for seed, size in enumerate(((63, 95), (40, 50)))]
    plain = detecting_model().corner_inference
    for result, image in zip(model([{"image": image} for image in images]), images):
        height, width = image.shape[1:]
        views = []
        for scale in (0.75, 1.0, 1.5):
            h, w = int(height * scale), int(width * scale)
            view = plain.resize(image, (h, w), CPU)
            mirrored = plain.candidates(model, [view.flip(-1)])
            x0, y0, x1, y1 = mirrored.boxes.unbind(1)
            back = torch.stack([w - x1, y0, w - x0, y1], dim=1)
            for found in (plain.candidates(model, [view]), mirrored._replace(boxes=back)):
                factor = torch.tensor([w / width, h / height]).repeat(2)
                views.append(found._replace(boxes=found.boxes / factor))
        together = Candidates(*(torch.cat(field) for field in zip(*views)))
        (wanted,) = plain.select(together, [(height, width)])
        assert len(wanted) > 10 and len(result["instances"]) == len(wanted)
        torch.testing.assert_close(result["instances"].scores, wanted.scores, atol=1e-4, rtol=0)


def test_boxes_of_all_sizes_come_back_to_the_image():
    cfg = augmented([32, 64, 128], flip=True)
    cfg.MODEL.CORNERNET.TEST.SOFT_NMS.METHOD = "hard"
    cfg.MODEL.CORNERNET.TEST.SOFT_NMS.IOU_THRESHOLD = 1.0  # nothing is suppressed
    (found,) = build_inference(cfg)(SeesCorners(), PICTURES[:1])
    found = found[found.scores > 0.5]
    for channel, box in {0: (8, 12, 40, 28), 1: (20, 4, 76, 56), 2: (36, 40, 60, 60)}.items():
        boxes = found.pred_boxes.tensor[found.pred_classes == channel]
        assert len(boxes) == 6  # one of each view
        assert (boxes - torch.tensor(box)).abs().max() < 2.1


def test_merging_averages_scales_and_mirror_images():
    cfg = config(flip=True, scales=(0.5, 1.0, 1.5), TOP_K=3, best=100)
    (plain,) = build_inference(cfg)(SeesCorners(), PICTURES[:1])
    cfg.MODEL.CORNERNET.TEST.MERGE.ENABLED = True
    (merged,) = build_inference(cfg)(SeesCorners(), PICTURES[:1])
    assert torch.equal(merged.scores, plain.scores)
    strong = plain.scores > 0.5
    moved = (merged.pred_boxes.tensor - plain.pred_boxes.tensor)[strong].abs().max()
    assert 0 < moved < 1


def test_resizing_like_opencv_and_antialiased():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, 33, 47), generator=generator, dtype=torch.uint8)
    want = cv2.resize(image.permute(1, 2, 0).numpy().copy(), (35, 24))
    for given in (image, image.float()):  # DefaultPredictor makes floats of whole numbers
        assert np.array_equal(resize_like_opencv(given, (24, 35)).permute(1, 2, 0).numpy(), want)
    assert resize_like_opencv(image, (33, 47)) is image
    checkers = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255.0
    smooth = CornerInference().resize(checkers.expand(3, -1, -1), (16, 16), CPU)
    assert (smooth - 127.5).abs().max() < 20


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"scales": ()}, "scales"),
        ({"scales": (1.0, 0.0)}, "scales"),
        ({"min_sizes": (0,)}, "sizes"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        InferenceWithTTA(CornerInference(), **settings)


def test_two_ways_to_ask_for_sizes_are_refused():
    with pytest.raises(ValueError, match="TEST.SCALES and TEST.AUG.MIN_SIZES"):
        build_inference(augmented([400], flip=True, scales=(0.5, 1.0)))
