"""The test pipeline around a stand-in that sees corners; tests/parity has the authors' results."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling.postprocessing import detector_postprocess

from cornernet_d2 import add_cornernet_config
from cornernet_d2.modeling.canvas import pad_to_canvas, resize
from cornernet_d2.modeling.postprocess import CONVENTIONS, Candidates, CornerInference
from cornernet_d2.targets import PADDINGS

MEAN = 255 * torch.tensor([0.40789654, 0.44719302, 0.47026115]).view(3, 1, 1)
STD = 255 * torch.tensor([0.28863828, 0.27408164, 0.27809835]).view(3, 1, 1)


class SeesCorners:
    """A model that finds the corners of the bright rectangles of each channel, one a channel.

    The maps have a quarter of the canvas' side and say where a corner is to the pixel.
    """

    def __init__(self, padding):
        self.padding, self.batches = padding, []

    def preprocess_image(self, batched_inputs):
        images = [x["image"] for x in batched_inputs]
        return pad_to_canvas(images, torch.zeros(3, 1, 1), torch.ones(3, 1, 1), 32, self.padding)

    def best_maps(self, images):
        self.batches.append(tuple(images.shape))
        n, c, height, width = images.shape
        h, w = -(-height // 4), -(-width // 4)
        maps = {}
        for side in ("tl", "br"):
            maps[side] = {
                "heatmap": torch.full((n, c, h, w), -12.0),
                "embedding": torch.zeros(n, 1, h, w),
                "offset": torch.zeros(n, 2, h, w),
            }
        for image, channel in np.ndindex(n, c):
            rows, columns = (images[image, channel] > 127).nonzero(as_tuple=True)
            if len(rows) == 0:
                continue
            corners = {"tl": (columns.min(), rows.min()), "br": (columns.max() + 1, rows.max() + 1)}
            for side, (x, y) in corners.items():
                x, y = x.item() * w / width, y.item() * h / height
                cell = image, slice(None), min(int(y), h - 1), min(int(x), w - 1)
                maps[side]["heatmap"][cell][channel] = 2.0 + channel
                maps[side]["embedding"][cell] = channel
                maps[side]["offset"][cell] = torch.tensor([x - cell[3], y - cell[2]])
        return maps


def picture(height, width, boxes):
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for channel, (x0, y0, x1, y1) in boxes.items():
        image[channel, y0:y1, x0:x1] = 255
    return image


BOXES = [
    {0: (8, 12, 40, 28), 1: (20, 4, 76, 56), 2: (36, 40, 60, 60)},
    {2: (0, 0, 48, 16)},
    {},
    {0: (16, 16, 60, 88), 1: (4, 60, 12, 68)},
]
PICTURES = [
    picture(h, w, boxes) for (h, w), boxes in zip([(64, 80), (40, 56), (64, 80), (90, 70)], BOXES)
]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.5)])
def test_finds_the_boxes_of_a_batch(padding, convention, flip, scales):
    model = SeesCorners(padding)
    inference = CornerInference(convention=convention, flip=flip, scales=scales, top_k=3)
    views = len(scales) * (1 + flip)
    for result, image, boxes in zip(inference(model, PICTURES), PICTURES, BOXES):
        assert result.image_size == tuple(image.shape[1:])
        assert len(result) <= 100 and len(result) >= len(boxes)
        strong = result[result.scores > 0.5]
        assert len(strong) == len(boxes) or views > 1
        for channel, box in boxes.items():
            mine = result[result.pred_classes == channel]
            best = int(mine.scores.argmax())
            score = 1 / (1 + np.exp(-2.0 - channel))
            assert mine.scores[best].item() == pytest.approx(score, abs=1e-5)
            # At scale 1 exact; a resized edge is found to half a pixel of the smallest scale.
            tolerance = 1e-3 if scales == (1.0,) else 1.01
            got = mine.pred_boxes.tensor[best]
            torch.testing.assert_close(got, torch.tensor(box).float(), rtol=0, atol=tolerance)
        if not boxes:  # the authors have no least score
            assert len(result) == 0 or convention == "official" and result.scores.max() < 1e-4
            with_area = int(result.pred_boxes.nonempty().sum())
            assert len(detector_postprocess(result, 20, 30)) == with_area
    if padding == "bottom_right":
        assert len(model.batches) == len(scales)  # one batch a scale, mirror images included
        assert all(batch[0] == len(PICTURES) * (1 + flip) for batch in model.batches)


@pytest.mark.parametrize("padding", ["center_black", "center_mean"])
def test_centred_results_do_not_depend_on_the_batch(padding):
    inference = CornerInference(convention="official", flip=True, scales=(0.75, 1.0))
    together = inference(SeesCorners(padding), PICTURES)
    for image, result in zip(PICTURES, together):
        (alone,) = inference(SeesCorners(padding), [image])
        assert torch.equal(result.pred_boxes.tensor, alone.pred_boxes.tensor)
        assert torch.equal(result.scores, alone.scores)


def test_merging_averages_scales_and_mirror_images():
    settings = {"flip": True, "scales": (0.5, 1.0, 1.5), "top_k": 3}
    (merged,) = CornerInference(merge_exponent=10.0, **settings)(
        SeesCorners("bottom_right"), PICTURES[:1]
    )
    (plain,) = CornerInference(**settings)(SeesCorners("bottom_right"), PICTURES[:1])
    assert torch.equal(merged.scores, plain.scores)
    moved = (merged.pred_boxes.tensor - plain.pred_boxes.tensor).abs().max()
    assert 0 < moved < 1


def far_apart(scores, image=0):
    count = len(scores)
    start = torch.arange(count)[:, None] * 20.0
    return Candidates(
        boxes=torch.cat([start, start, start + 9, start + 9], 1),
        scores=torch.tensor(scores),
        corner_scores=torch.tensor(scores)[:, None].repeat(1, 2),
        classes=torch.arange(count) % 2,
        images=torch.full((count,), image),
    )


def test_how_many_are_kept_when_scores_are_equal():
    candidates = far_apart([0.3, 0.9, 0.5, 0.5, 0.5])
    size = [(200, 200)]
    (default,) = CornerInference(max_detections=3).select(candidates, size)
    assert default.scores.tolist() == pytest.approx([0.9, 0.5, 0.5])
    (official,) = CornerInference(max_detections=3, convention="official").select(candidates, size)
    assert official.scores.tolist() == pytest.approx([0.5, 0.5, 0.9, 0.5])  # class by class
    assert official.pred_classes.tolist() == [0, 0, 1, 1]


def test_limit_is_per_image():
    parts = zip(far_apart([0.9, 0.8, 0.7]), far_apart([0.4, 0.3], image=2))
    candidates = Candidates(*(torch.cat(part) for part in parts))
    results = CornerInference(max_detections=2).select(candidates, [(99, 99)] * 3)
    assert [len(result) for result in results] == [2, 0, 2]
    assert results[2].scores.tolist() == pytest.approx([0.4, 0.3])


def test_clipping_by_convention():
    image = picture(40, 60, {0: (4, 4, 60, 40)})

    class Beyond(SeesCorners):
        def best_maps(self, images):
            maps = super().best_maps(images)
            maps["br"]["offset"] += 1.0  # 4 pixels out of the image
            maps["tl"]["offset"] -= 2.0
            return maps

    for convention, right in (("default", 60.0), ("official", 60.0), ("mmdet", 64.0)):
        (result,) = CornerInference(convention=convention)(Beyond("bottom_right"), [image])
        assert result.pred_boxes.tensor[0].tolist() == [0.0, 0.0, right, right - 20]


def test_nan_maps_give_no_boxes():
    class Broken(SeesCorners):
        def best_maps(self, images):
            maps = super().best_maps(images)
            return {s: {k: v * torch.nan for k, v in side.items()} for s, side in maps.items()}

    for convention in CONVENTIONS:
        results = CornerInference(convention=convention)(Broken("bottom_right"), PICTURES)
        assert [len(result) for result in results] == [0, 0, 0, 0]


def test_a_model_in_half_precision_keeps_pixels_exact():
    class Half(SeesCorners):
        def preprocess_image(self, batched_inputs):
            pixels, borders = super().preprocess_image(batched_inputs)
            return pixels.bfloat16(), borders

    box = (1001, 3, 1030, 38)  # bfloat16 has no 1001
    image = picture(40, 1500, {1: box})
    (result,) = CornerInference(flip=True)(Half("center_black"), [image])
    wanted = torch.tensor(box).float().expand(2, -1)
    torch.testing.assert_close(result.pred_boxes.tensor[:2], wanted, rtol=0, atol=1e-2)


def test_canvas_fill_and_the_row_that_testing_loses():
    image = torch.full((3, 31, 20), 200, dtype=torch.uint8)
    black, borders = pad_to_canvas([image], MEAN, STD, 32, "center_black")
    assert black.shape == (1, 3, 31, 31) and borders == [(0, 5)]
    torch.testing.assert_close(black[0, :, :, :5], (-MEAN / STD).expand(3, 31, 5))
    torch.testing.assert_close(black[0, :, :30, 5:25], ((200 - MEAN) / STD).expand(3, 30, 20))
    torch.testing.assert_close(black[0, :, 30], (-MEAN / STD)[:, 0].expand(3, 31))
    mean, _ = pad_to_canvas([image, image], MEAN, STD, 32, "center_mean", training=True)
    assert not mean[0, :, :, :5].any() and mean[0, :, 30, 5:25].all()
    corner, borders = pad_to_canvas([image, image[:, :8]], MEAN, STD, 32)
    assert corner.shape == (2, 3, 32, 32) and borders == [(0, 0), (0, 0)]
    assert corner[0, :, :31, :20].all() and not corner[0, :, 31].any()
    assert not corner[1, :, 8:].any()


def test_resizing_like_opencv_and_antialiased():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (3, 33, 47), generator=generator, dtype=torch.uint8)
    want = cv2.resize(image.permute(1, 2, 0).numpy().copy(), (35, 24))
    for given in (image, image.float()):  # DefaultPredictor makes floats of whole numbers
        assert np.array_equal(resize(given, (24, 35), True).permute(1, 2, 0).numpy(), want)
    assert resize(image, (33, 47), True) is image
    checkers = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 255.0
    smooth = resize(checkers.expand(3, -1, -1), (16, 16), False)
    assert (smooth - 127.5).abs().max() < 20


def test_from_config_carries_every_setting():
    cfg = get_cfg()
    add_cornernet_config(cfg)
    plain = vars(CornerInference.from_config(cfg))
    assert plain == vars(CornerInference())
    test = cfg.MODEL.CORNERNET.TEST
    test.TOP_K, test.NMS_KERNEL, test.EMBEDDING_THRESHOLD, test.MAX_PAIRS = 7, 5, 0.3, 50
    test.CONVENTION, test.SCALES, test.FLIP = "mmdet", [0.5, 2.0], True
    test.SOFT_NMS.METHOD, test.SOFT_NMS.SIGMA = "linear", 0.7
    test.SOFT_NMS.IOU_THRESHOLD, test.SOFT_NMS.MIN_SCORE = 0.4, 0.01
    test.MERGE.ENABLED, test.MERGE.EXPONENT = True, 8.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 9
    changed = vars(CornerInference.from_config(cfg))
    assert changed["soft_nms"] == {
        "method": "linear",
        "sigma": 0.7,
        "iou_threshold": 0.4,
        "min_score": 0.01,
    }
    assert changed["scales"] == (0.5, 2.0) and changed["merge_exponent"] == 8.0
    assert all(changed[name] != plain[name] for name in plain)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"convention": "coco"}, "convention"),
        ({"scales": ()}, "scales"),
        ({"scales": (1.0, 0.0)}, "scales"),
        ({"soft_nms_method": "soft"}, "method"),
        ({"sigma": 0.0}, "sigma"),
        ({"merge_exponent": 0.0}, "exponent"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CornerInference(**settings)
