"""augment.npz: colours with given draws. The crops of targets.npz: geometry with given draws."""

from collections.abc import Iterator

import numpy as np

from cornernet_d2 import model_zoo
from cornernet_d2.data.augmentation import PixelFlipTransform, RandomScaleCrop, ScaleCropTransform
from cornernet_d2.data.colors import COLOR_EIGENVALUES, COLOR_EIGENVECTORS, ColorJitter
from cornernet_d2.targets import CornerTargetGenerator

from ..check import Case, Check, guarded
from ..reference import OFFICIAL, Arrays, Reference, case_names, numbered, strided, under


def run(folder: Reference, file: str) -> Iterator[Check]:
    arrays = folder.load(file)
    if "eig_val" in arrays:
        case = Case(file, "lighting")
        yield case.relative("eigenvalues", COLOR_EIGENVALUES, arrays["eig_val"], 1e-6)
        yield case.relative("eigenvectors", COLOR_EIGENVECTORS, arrays["eig_vec"], 1e-6)
    for name in case_names(arrays):
        case = Case(file, name)
        yield from guarded(case, _colours(case, under(arrays, name)))


def crops(folder: Reference, file: str, arrays: Arrays) -> Iterator[Check]:
    """The groups ``crop/0/``, ``crop/1/``, ... of targets.npz."""
    crop = model_zoo.get_config(OFFICIAL).INPUT.CORNERNET.CROP
    if "crop/random_scales" in arrays:
        case = Case(file, "crop")
        yield case.absolute("scales", crop.SCALES, arrays["crop/random_scales"], 1e-9)
    for index, want in numbered(arrays, "crop/"):
        case = Case(file, f"crop/{index}")
        yield from guarded(case, _crop(case, folder, want, tuple(crop.SIZE), crop.BORDER))


def placed_boxes(transform: ScaleCropTransform, boxes: np.ndarray) -> np.ndarray:
    """Boxes (M, 4 or more columns) after a transform, (M, 4); inverted ones stay inverted."""
    corners = boxes[:, :4].astype(np.float64).reshape(-1, 2)
    return transform.apply_coords(corners).reshape(-1, 4)


def _colours(case: Case, want: Arrays) -> Iterator[Check]:
    """Our images are in 0..255, the reference's in 0..1."""
    cfg = model_zoo.get_config(OFFICIAL)
    image = want["image"].astype(np.float32)
    order = [str(step) for step in want["order"]]
    draws = (order, want["alpha"])
    jittered = ColorJitter().transform(image, *draws).apply_image(image)
    yield case.absolute("after jitter", jittered / 255, want["after_jitter"], 1e-5)
    image = ColorJitter().transform(image, *draws, want["lighting_alpha"]).apply_image(image)
    yield case.absolute("after lighting", image / 255, want["after_lighting"], 1e-5)
    mean, std = np.array(cfg.MODEL.PIXEL_MEAN), np.array(cfg.MODEL.PIXEL_STD)
    yield case.absolute("normalised", (image - mean) / std, want["normalised"], 1e-5)


def _crop(
    case: Case, folder: Reference, want: Arrays, size: tuple[int, int], border: int
) -> Iterator[Check]:
    height, width = (int(side) for side in want["image_size"])
    image = folder.recipe.make_image(height, width, int(want["image_seed"]))
    boxes = want["boxes"]
    scale = float(want["scale"])
    augmentation = RandomScaleCrop(size, [scale], border)
    for axis, side in (("x", width), ("y", height)):
        least = augmentation.least_distance(side)
        yield case.exact(f"range of {axis}", [least, side - least], want[f"{axis}_range"])

    center = (int(want["center_x"]), int(want["center_y"]))
    crop_size = [int(side * scale) for side in size]
    yield case.exact("crop size", crop_size, want["out_size"])
    crop = ScaleCropTransform(center, crop_size, crop_size)
    cropped = crop.apply_image(image)
    yield case.exact("pixel sum", cropped.astype(np.int64).sum(), want["out_sum"])
    sample = want["out_sub"]
    got = strided(cropped.transpose(2, 0, 1), sample.transpose(2, 0, 1).shape)
    yield case.exact("pixel sample", got.permute(1, 2, 0), sample)
    yield from _crop_boxes(case, crop, ScaleCropTransform(center, crop_size, size), boxes, want)


def _crop_boxes(
    case: Case,
    crop: ScaleCropTransform,
    crop_and_resize: ScaleCropTransform,
    boxes: np.ndarray,
    want: Arrays,
) -> Iterator[Check]:
    got = placed_boxes(crop, boxes)
    yield case.absolute("cropped boxes", got, want["out_boxes"][:, :4], 1e-6)
    got = placed_boxes(crop_and_resize, boxes)
    yield case.absolute("resized boxes", got, want["resized_boxes"][:, :4], 1e-6)
    size = crop_and_resize.output_size
    classes = boxes[:, 4].astype(np.int64)
    clipped, kept = _clipped(got, classes, size)
    yield case.exact("classes kept", kept, want["clipped_boxes"][:, 4])
    yield case.absolute("clipped boxes", clipped, want["clipped_boxes"][:, :4], 1e-6)
    flipped = PixelFlipTransform(size[1]).apply_box(clipped) if len(clipped) else clipped
    yield case.absolute("flipped boxes", flipped, want["flipped_boxes"][:, :4], 1e-6)


def _clipped(
    boxes: np.ndarray, classes: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (M, 4) and classes (M,) that the targets keep, as they see them."""
    generator = CornerTargetGenerator(int(classes.max(initial=0)) + 1, clip="last_pixel")
    targets = generator(boxes, classes, size)
    xy = np.stack([targets.cells % targets.map_size[1], targets.cells // targets.map_size[1]], -1)
    corners = (xy + targets.offsets.double().numpy()) / np.array(targets.cells_per_pixel)
    return corners.reshape(-1, 4), targets.classes.numpy()
