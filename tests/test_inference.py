"""Inference around a stand-in that sees corners; tests/parity has what other code bases return."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling.postprocessing import detector_postprocess

from cornernet_d2 import add_cornernet_config, model_zoo
from cornernet_d2.canvas import PADDINGS, Canvas
from cornernet_d2.modeling import INFERENCE_REGISTRY, CornerInference
from cornernet_d2.modeling.center import CenterCheck
from cornernet_d2.modeling.decode import REJECTED
from cornernet_d2.modeling.inference import Candidates
from cornernet_d2.modeling.pairing import EmbeddingPairing
from cornernet_d2.modeling.test_time_augmentation import build_inference

CONVENTIONS = ("default", "official", "mmdet")
MEAN = 255 * torch.tensor([0.40789654, 0.44719302, 0.47026115]).view(3, 1, 1)
STD = 255 * torch.tensor([0.28863828, 0.27408164, 0.27809835]).view(3, 1, 1)


class SeesCorners:
    """A model that finds the corners of the bright rectangles of each channel, one a channel.

    The maps have a quarter of the canvas' side and say where a corner is to the pixel.
    """

    device = torch.device("cpu")

    pairing = EmbeddingPairing()

    def __init__(self, padding="bottom_right"):
        self.padding, self.batches = padding, []

    def canvas(self, sizes, mirrored=()):
        return Canvas.fit(sizes, 32, 4, self.padding, mirrored=mirrored)

    def preprocess_image(self, batched_inputs, mirrored=()):
        images = [x["image"] for x in batched_inputs]
        canvas = self.canvas([image.shape[-2:] for image in images], mirrored)
        return canvas.paste(images, torch.zeros(3, 1, 1), torch.ones(3, 1, 1)), canvas

    def last_maps(self, images):
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


def config(convention="default", flip=False, scales=(1.0,), **settings):
    """A config with keys of MODEL.CORNERNET.TEST, and TEST.DETECTIONS_PER_IMAGE as ``best``."""
    cfg = get_cfg()
    add_cornernet_config(cfg)
    cfg.TEST.DETECTIONS_PER_IMAGE = settings.pop("best", 100)
    test = cfg.MODEL.CORNERNET.TEST
    test.CONVENTION, test.FLIP, test.SCALES = convention, flip, list(scales)
    for key, value in settings.items():
        test[key] = value
    return cfg


def inference_of(*args, **kwargs):
    return build_inference(config(*args, **kwargs))


def rows(result):
    fields = result.pred_boxes.tensor, result.scores[:, None], result.pred_classes[:, None]
    return torch.cat(fields, 1)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0, 1.5)])
def test_finds_the_boxes_of_a_batch(padding, convention, flip, scales):
    model = SeesCorners(padding)
    inference = inference_of(convention, flip, scales, TOP_K=3, best=3 * len(scales) * (1 + flip))
    views = len(scales) * (1 + flip)
    for result, image, boxes in zip(inference(model, PICTURES), PICTURES, BOXES):
        assert result.image_size == tuple(image.shape[1:])
        assert len(result) >= len(boxes)
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


def test_images_of_one_canvas_go_through_the_network_together():
    model = SeesCorners()
    inference_of(flip=True)(model, PICTURES)
    # 64 x 80, 40 x 56 and 64 x 80 again, 90 x 70; each with its mirror image
    assert model.batches == [(4, 3, 64, 96), (2, 3, 64, 64), (2, 3, 96, 96)]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_results_do_not_depend_on_the_batch(padding, convention):
    inference = inference_of(convention, flip=True, scales=(0.75, 1.0))
    together = inference(SeesCorners(padding), PICTURES)
    for image, result in zip(PICTURES, together):
        (alone,) = inference(SeesCorners(padding), [image])
        assert torch.equal(rows(result), rows(alone))


def test_corners_in_the_padding_take_no_place():
    """Defect: the padding got 80 of 100 corners, and the boxes there were found and clipped."""

    class Excited(SeesCorners):
        def last_maps(self, images):
            maps = super().last_maps(images)
            for side in maps.values():
                side["heatmap"][:, :, :, 15:] = 9.0  # the image has 14 columns of cells
            return maps

    (result,) = inference_of(TOP_K=3, best=3)(Excited(), [PICTURES[1]])
    assert rows(result)[:, :4].tolist() == [[0, 0, 48, 16]]


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
    (default,) = inference_of(best=3).select(candidates, size)
    assert default.scores.tolist() == pytest.approx([0.9, 0.5, 0.5])
    (official,) = inference_of("official", best=3).select(candidates, size)
    assert official.scores.tolist() == pytest.approx([0.5, 0.5, 0.9, 0.5])  # class by class
    assert official.pred_classes.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_limit_is_per_image(convention):
    parts = zip(far_apart([0.9, 0.8, 0.7]), far_apart([0.4, 0.3], image=2))
    candidates = Candidates(*(torch.cat(part) for part in parts))
    results = inference_of(convention, best=2).select(candidates, [(99, 99)] * 3)
    assert [len(result) for result in results] == [2, 0, 2]
    assert results[2].scores.tolist() == pytest.approx([0.4, 0.3])


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_as_many_detections_as_asked_for(convention):
    """Defect: TOP_K and MAX_PAIRS capped them; -1, for all, lost the last one."""

    class Board(SeesCorners):
        def last_maps(self, images):
            maps = super().last_maps(images)
            for i, side in enumerate(("tl", "br")):  # 20 x 20 objects of one cell
                maps[side]["heatmap"][:, 0, i:60:3, i:60:3] = 5.0
                maps[side]["embedding"][0, 0, i:60:3, i:60:3] = torch.arange(400.0).view(20, 20)
            return maps

    image = torch.zeros(3, 240, 240, dtype=torch.uint8)
    for best, found in ((100, 100), (400, 400), (150, 150), (-1, 400)):
        settings = {"TOP_K": 400, "MAX_PAIRS": 400} if best < 0 else {"MAX_PAIRS": 100}
        inference = inference_of(convention, best=best, **settings)
        (result,) = inference(Board(), [image])
        strong = int((result.scores > 0.9).sum())
        # the authors keep all that share the last score
        assert strong == found or convention == "official" and strong >= found


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_nothing_is_kept_of_nothing(convention):
    candidates = far_apart([REJECTED, REJECTED])
    for best in (0, 5, -1):
        results = inference_of(convention, best=best).select(candidates, [(9, 9)], [(18, 18)])
        assert [len(result) for result in results] == [0]


def test_clipping_by_convention():
    image = picture(40, 60, {0: (4, 4, 60, 40)})

    class Beyond(SeesCorners):
        def last_maps(self, images):
            maps = super().last_maps(images)
            maps["br"]["offset"] += 1.0  # 4 pixels out of the image
            maps["tl"]["offset"] -= 2.0
            return maps

    for convention, right in (("default", 60.0), ("official", 60.0), ("mmdet", 64.0)):
        inference = inference_of(convention)
        (result,) = inference(Beyond(), [image])
        assert result.pred_boxes.tensor[0].tolist() == [0.0, 0.0, right, right - 20]
        # Defect: what reached the evaluator was clipped in any case.
        (result,) = inference(Beyond(), [image], [(80, 120)])
        assert result.image_size == (80, 120)
        box = result.pred_boxes.tensor[0].tolist()
        assert box == [0.0, 0.0, 2 * right, 2 * (right - 20)]


@pytest.mark.parametrize("convention", ["default", "official"])
def test_output_sizes_are_treated_as_detectron2_does(convention):
    sizes = [(200, 100), (40, 56), (7, 900), (91, 71)]
    inference = inference_of(convention, flip=True)
    plain, sized = (inference(SeesCorners(), PICTURES, s) for s in (None, sizes))
    for given, got, size in zip(plain, sized, sizes):
        want = detector_postprocess(given, *size)
        assert got.image_size == size and torch.equal(rows(got), rows(want))


def test_mmdetection_mirrors_at_the_left_border():
    """Of an even width the right border is a pixel wider; boxes are clipped before they go back."""
    image = picture(63, 60, {0: (8, 8, 40, 40), 1: (0, 12, 20, 52)})
    plain, mirrored = (
        inference_of("mmdet").candidates(SeesCorners("center_mean"), [image], [flag])
        for flag in (False, True)
    )
    boxes = [found.boxes[found.scores > 0.5] for found in (plain, mirrored)]
    torch.testing.assert_close(boxes[0], torch.tensor([[0.0, 12, 20, 52], [8, 8, 40, 40]]))
    torch.testing.assert_close(boxes[1], boxes[0] - torch.tensor([1.0, 0, 1, 0]))


def test_nan_maps_give_no_boxes():
    class Broken(SeesCorners):
        def last_maps(self, images):
            maps = super().last_maps(images)
            return {s: {k: v * torch.nan for k, v in side.items()} for s, side in maps.items()}

    for convention in CONVENTIONS:
        results = inference_of(convention)(Broken(), PICTURES)
        assert [len(result) for result in results] == [0, 0, 0, 0]


def test_a_model_in_half_precision_keeps_pixels_exact():
    class Half(SeesCorners):
        def preprocess_image(self, batched_inputs, mirrored=()):
            pixels, canvas = super().preprocess_image(batched_inputs, mirrored)
            return pixels.bfloat16(), canvas

    box = (1001, 3, 1030, 38)  # bfloat16 has no 1001
    image = picture(40, 1500, {1: box})
    (result,) = inference_of(flip=True)(Half("center_black"), [image])
    wanted = torch.tensor(box).float().expand(2, -1)
    torch.testing.assert_close(result.pred_boxes.tensor[:2], wanted, rtol=0, atol=1e-2)


def paste(images, padding, training=False):
    canvas = Canvas.fit([x.shape[-2:] for x in images], 32, 4, padding, training=training)
    return canvas.paste(images, MEAN, STD), canvas


def test_canvas_fill_and_the_row_that_testing_loses():
    image = torch.full((3, 31, 20), 200, dtype=torch.uint8)
    black, canvas = paste([image], "center_black")
    assert black.shape == (1, 3, 31, 31) and canvas.borders == ((0, 5),)
    torch.testing.assert_close(black[0, :, :, :5], (-MEAN / STD).expand(3, 31, 5))
    torch.testing.assert_close(black[0, :, :30, 5:25], ((200 - MEAN) / STD).expand(3, 30, 20))
    torch.testing.assert_close(black[0, :, 30], (-MEAN / STD)[:, 0].expand(3, 31))
    mean, _ = paste([image, image], "center_mean", training=True)
    assert not mean[0, :, :, :5].any() and mean[0, :, 30, 5:25].all()
    corner, canvas = paste([image, image[:, :8]], "bottom_right")
    assert corner.shape == (2, 3, 32, 32) and canvas.borders == ((0, 0), (0, 0))
    assert corner[0, :, :31, :20].all() and not corner[0, :, 31].any()
    assert not corner[1, :, 8:].any()


def test_cells_inside():
    canvas = Canvas.fit([(16, 32), (13, 8)], 32, 4)
    inside = canvas.inside()
    assert inside.shape == (2, 8, 8)
    # A box that ends with the image ends in the next cell, where there is one.
    assert inside[0, :5].all() and not inside[0, 5:].any()
    assert inside[1, :4, :3].all() and inside[1].sum() == 12
    assert Canvas.fit([(32, 64)] * 2, 32, 4).inside() is None
    centred = Canvas.fit([(31, 11)], 32, 4, "center_mean")  # columns 10 to 20 of 31
    assert centred.inside()[0].any(0).tolist() == [i in (2, 3, 4, 5) for i in range(8)]


def test_from_config_carries_every_setting():
    plain = vars(inference_of())
    assert plain == vars(CornerInference())
    cfg = config(TOP_K=7, NMS_KERNEL=5, MAX_PAIRS=50, best=6)
    test = cfg.MODEL.CORNERNET.TEST
    test.SOFT_NMS.METHOD, test.SOFT_NMS.SIGMA = "linear", 0.7
    test.SOFT_NMS.IOU_THRESHOLD, test.SOFT_NMS.MIN_SCORE = 0.4, 0.01
    test.MERGE.ENABLED, test.MERGE.EXPONENT = True, 8.0
    cfg.MODEL.CORNERNET.CENTER.ENABLED = True
    changed = vars(build_inference(cfg))
    assert changed == {
        "decoding": {
            "top_k": 7,
            "nms_kernel": 5,
            "max_detections": 50,
            "center": CenterCheck(),
        },
        "soft_nms": {"method": "linear", "sigma": 0.7, "iou_threshold": 0.4, "min_score": 0.01},
        "merge_exponent": 8.0,
        "max_detections": 6,
    }
    assert all(changed[name] != plain[name] for name in plain)


def test_an_inference_of_ones_own_is_named_in_the_config():
    class OnlyWide(CornerInference):
        def to_image(self, pairs, canvas):
            pairs = super().to_image(pairs, canvas)
            width, height = (pairs.boxes[..., 2:] - pairs.boxes[..., :2]).unbind(-1)
            return pairs._replace(scores=torch.where(width > height, pairs.scores, REJECTED))

    with pytest.raises(ValueError, match="CONVENTION 'OnlyWide' is not registered.*'official'"):
        inference_of("OnlyWide")
    INFERENCE_REGISTRY.register(OnlyWide)
    try:
        (result,) = inference_of("OnlyWide", TOP_K=3, best=3)(SeesCorners(), PICTURES[:1])
    finally:
        del INFERENCE_REGISTRY._obj_map["OnlyWide"]
    assert sorted(result.pred_classes.tolist()) == [0, 1, 2][: len(result)] == [0, 1, 2]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"soft_nms_method": "soft"}, "method"),
        ({"sigma": 0.0}, "sigma"),
        ({"merge_exponent": 0.0}, "exponent"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        CornerInference(**settings)


def test_test_size_can_be_set_alone():
    """Defect: MAX_SIZE_TEST was 0, so that MIN_SIZE_TEST 512 resized to 0 x 0."""
    cfg = model_zoo.get_config("CornerNet-HG104.yaml")
    image = np.zeros((480, 640, 3), np.uint8)
    for side, size in ((0, (480, 640)), (512, (512, 683))):
        cfg.INPUT.MIN_SIZE_TEST = side
        resize = ResizeShortestEdge([side, side], cfg.INPUT.MAX_SIZE_TEST)
        assert resize.get_transform(image).apply_image(image).shape[:2] == size
