"""Augmentations; tests/parity has the published code's results, draw by draw."""

import itertools

import cv2
import numpy as np
import pytest
from detectron2.data import transforms as T

from cornernet_d2.data.augmentation import RandomPixelFlip, RandomScaleCrop, ScaleCropTransform
from cornernet_d2.data.colors import (
    COLOR_EIGENVALUES,
    COLOR_EIGENVECTORS,
    ColorJitter,
    ColorTransform,
    PhotometricDistortion,
)


def test_draws_come_from_numpys_global_state():
    image = np.random.RandomState(0).randint(0, 256, (200, 300, 3), np.uint8)
    augmentation = T.AugmentationList(
        [RandomScaleCrop((64, 96), [0.5, 1.5], 30), ColorJitter(), RandomPixelFlip()]
    )

    def run(seed: int) -> np.ndarray:
        np.random.seed(seed)
        aug_input = T.AugInput(image.copy())
        augmentation(aug_input)
        return aug_input.image

    outputs = [run(seed) for seed in range(6)]
    assert all(np.array_equal(output, run(seed)) for seed, output in enumerate(outputs))
    assert len({output.tobytes() for output in outputs}) == 6
    assert all(output.shape == (64, 96, 3) for output in outputs)


def test_all_scales_and_centres_are_drawn():
    np.random.seed(0)
    augmentation = RandomScaleCrop((100, 100), [0.5, 1.0, 2.0], border=10)
    image = np.zeros((24, 40, 3), np.uint8)
    drawn = [augmentation.get_transform(image) for _ in range(400)]
    assert {t.crop_size for t in drawn} == {(50, 50), (100, 100), (200, 200)}
    assert {t.center[0] for t in drawn} == set(range(10, 30))
    assert {t.center[1] for t in drawn} == set(range(10, 14))


@pytest.mark.parametrize("fill", [0, (10, 20, 30)])
def test_points_follow_pixels_and_outside_is_filled(fill):
    image = np.full((60, 80, 3), 200, np.uint8)
    image[40, 10] = 255
    crop = ScaleCropTransform((12, 38), (40, 40), (160, 160), fill)
    output = crop.apply_image(image)
    y, x = np.unravel_index(output[..., 0].argmax(), output.shape[:2])
    centre = crop.apply_coords(np.array([[10.5, 40.5]]))[0]  # of the marked pixel
    assert abs(x + 0.5 - centre[0]) <= 1 and abs(y + 0.5 - centre[1]) <= 1
    np.testing.assert_array_equal(output[0, 0], np.broadcast_to(fill, 3))  # left of the image
    np.testing.assert_array_equal(output[20, 100], [200] * 3)


def test_crop_of_masks_and_single_channels():
    mask = np.zeros((50, 50), np.uint8)
    mask[20:30, 20:30] = 1
    crop = ScaleCropTransform((5, 25), (40, 40), (80, 80), fill=9)
    output = crop.apply_segmentation(mask)
    assert output.dtype == np.uint8 and set(np.unique(output)) == {0, 1}
    assert crop.apply_image(mask[:, :, None].astype(np.float32)).shape == (80, 80, 1)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 900)])
def test_tiny_images_are_cropped(size):
    np.random.seed(0)
    for _ in range(20):
        image = np.full((*size, 3), 255, np.uint8)
        output = RandomScaleCrop((511, 511), [0.6, 1.3]).get_transform(image).apply_image(image)
        assert output.shape == (511, 511, 3) and output.max() > 0


def test_flip_conventions():
    np.random.seed(1)
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    box = np.array([[0.0, 0, 3, 1]])
    pixel, stock = RandomPixelFlip(1.0), T.RandomFlip(1.0)
    np.testing.assert_array_equal(pixel.get_transform(image).apply_box(box), [[0, 0, 3, 1]])
    np.testing.assert_array_equal(stock.get_transform(image).apply_box(box), [[1, 0, 4, 1]])
    for flip in (pixel, stock):
        output = flip.get_transform(image).apply_image(image)
        np.testing.assert_array_equal(output, image[:, ::-1])
    assert isinstance(RandomPixelFlip(0.0).get_transform(image), T.NoOpTransform)
    assert isinstance(pixel.get_transform(image), T.HFlipTransform)  # what keypoints look for


def slow_jitter(
    image: np.ndarray, order: list[str], factors: list[float], alpha: np.ndarray
) -> np.ndarray:
    """The steps one after another, on a BGR image in 0..1."""
    image = image / 255
    grey = image @ [0.114, 0.587, 0.299]
    for name, factor in zip(order, factors):
        image = image * factor
        if name == "contrast":
            image = image + (1 - factor) * grey.mean()
        elif name == "saturation":
            image = image + (1 - factor) * grey[..., None]
    for component in range(3):
        image = (
            image
            + alpha[component] * COLOR_EIGENVALUES[component] * COLOR_EIGENVECTORS[:, component]
        )
    return image * 255


def test_jitter_is_the_product_of_its_steps_in_either_channel_order():
    rng = np.random.RandomState(0)
    image = rng.randint(0, 256, (20, 30, 3), np.uint8)
    for _ in range(10):
        order = rng.permutation(ColorJitter.STEPS).tolist()
        draws = (order, rng.uniform(0.6, 1.4, 3).tolist(), rng.normal(size=3))
        expected = slow_jitter(image, *draws)
        bgr = ColorJitter(image_format="BGR").transform(image, *draws)
        np.testing.assert_allclose(bgr.apply_image(image), expected, atol=1e-3)
        mirrored = image[..., ::-1]
        rgb = ColorJitter(image_format="RGB").transform(mirrored, *draws)
        np.testing.assert_allclose(rgb.apply_image(mirrored), expected[..., ::-1], atol=1e-3)


@pytest.mark.parametrize("height", [1, 63, 64, 65, 200])
def test_colors_are_changed_in_every_row(height):
    image = np.random.RandomState(height).randint(0, 256, (height, 5, 3), np.uint8)
    transform = ColorTransform(np.diag([1.0, 2, -1]), np.array([0, 1.0, 300]))
    for view in (image, image[:, ::-1], image.astype(np.float32)):
        output = transform.apply_image(view)
        assert output.dtype == np.float32
        np.testing.assert_allclose(output, view * np.array([1.0, 2, -1]) + [0, 1, 300])


def test_colors_leave_geometry_alone():
    transform = ColorJitter().get_transform(np.zeros((4, 4, 3), np.uint8))
    box = np.array([[1.0, 2, 3, 4]])
    assert transform.apply_box(box) is box and transform.apply_coords(box) is box
    assert transform.apply_segmentation(box) is box
    assert isinstance(transform.inverse(), T.NoOpTransform)


def test_bad_options_are_refused():
    for size, scales in (((511, 511), []), ((511,), [1.0]), ((10, 10), [0.1])):
        with pytest.raises(ValueError, match="INPUT.CORNERNET.CROP"):
            RandomScaleCrop(size, scales)
    with pytest.raises(ValueError, match="INPUT.FORMAT"):
        ColorJitter(image_format="L")


def test_resizing_is_opencvs():
    image = np.random.RandomState(0).randint(0, 256, (100, 100, 3), np.uint8)
    output = ScaleCropTransform((50, 50), (100, 100), (70, 70)).apply_image(image)
    np.testing.assert_array_equal(output, cv2.resize(image, (70, 70)))


def test_distortion_draws_every_step_within_its_range():
    np.random.seed(0)
    image = np.zeros((2, 2, 3), np.uint8)
    drawn = [PhotometricDistortion().get_transform(image) for _ in range(500)]
    for name, low, high in (
        ("brightness", -32, 32), ("contrast", 0.5, 1.5), ("saturation", 0.5, 1.5), ("hue", -18, 18)
    ):  # fmt: skip
        values = [v for v in (getattr(t, name) for t in drawn) if v is not None]
        assert 200 < len(values) < 300 and low <= min(values) and max(values) <= high
        assert np.ptp(values) > 0.9 * (high - low)
    assert {tuple(t.channels) for t in drawn if t.channels is not None} == set(
        itertools.permutations(range(3))
    )
    assert 200 < sum(t.contrast_last for t in drawn) < 300
    with pytest.raises(ValueError, match="INPUT.FORMAT"):
        PhotometricDistortion("L")


def test_crops_hold_the_centre_of_an_object():
    """The only object fills a corner that less than a tenth of plain crops reach."""
    image, boxes = np.zeros((400, 400, 3), np.uint8), np.array([[0.0, 0, 60, 60], [9, 9, 9, 9]])
    counts = []
    for center_inside in (False, True):
        np.random.seed(0)
        crop = RandomScaleCrop((100, 100), [0.6, 1.0], 20, center_inside=center_inside)
        kept = 0
        for _ in range(200):
            box = crop.get_transform(image, boxes[:1]).apply_box(boxes[:1])
            size = (box[0, 2:] - box[0, :2]).min()
            kept += bool(size > 0) and bool((box[0, :2] < 50 * size).all())
        counts.append(kept)
    assert counts[1] == 200
    # Nothing to hold, or nothing that any crop could hold: some crop all the same.
    crop = RandomScaleCrop((100, 100), [0.6, 1.0], 20, center_inside=True)
    for unreachable in (np.zeros((0, 4)), np.array([[-90.0, -90, 10, 10]])):
        transform = crop.get_transform(image, unreachable)
        assert transform.apply_image(image).shape == (100, 100, 3)
        output = transform.apply_box(unreachable)
        assert (output[:, 2:] == output[:, :2]).all()
