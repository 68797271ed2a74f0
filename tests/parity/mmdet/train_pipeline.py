"""train_pipeline.npz: crops with given draws, from image and boxes to the targets."""

import os
import tempfile
from collections.abc import Iterator
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import BoxMode

from cornernet_d2.data import CornerNetDatasetMapper
from cornernet_d2.data.augmentation import RandomScaleCrop, ScaleCropTransform

from ..check import Case, Check, check_stats, guarded, stats
from ..ours import preprocess, small_config, small_model
from ..reference import MMDET, Arrays, Reference, numbered
from .targets import check_heatmaps

SAMPLE_STRIDE, INPUT_STRIDE = 16, 12
PIXELS = 1e-2  # tolerance of boxes


def run(folder: Reference, file: str) -> Iterator[Check]:
    arrays = folder.load(file)
    cfg = small_config(MMDET)
    mapper = CornerNetDatasetMapper(cfg, is_train=True)
    (crop,) = (a for a in mapper.augmentations.augs if isinstance(a, RandomScaleCrop))
    if "border_sizes" in arrays:
        got = [crop.least_distance(int(size)) for size in arrays["border_sizes"]]
        yield Case(file, "border").exact("least distances", got, arrays["border"])
    for index, want in numbered(arrays, "crop"):
        case = Case(file, f"crop{index}")
        yield from guarded(case, _crop(case, folder, want, mapper, crop))


def _crop(
    case: Case,
    folder: Reference,
    want: Arrays,
    mapper: CornerNetDatasetMapper,
    crop: RandomScaleCrop,
) -> Iterator[Check]:
    height, width = (int(side) for side in want["size"])
    image = folder.recipe.make_image(height, width, int(want["seed"]))
    for axis, side in (("x", width), ("y", height)):
        least = crop.least_distance(side)
        yield case.exact(f"range of {axis}", [least, side - least], want[f"{axis}_range"])
    transform = _drawn(crop, image, want)
    yield case.exact("crop size", transform.crop_size, want["crop_shape"])
    unscaled = ScaleCropTransform(
        transform.center, transform.crop_size, transform.crop_size, crop.fill
    )
    cropped = unscaled.apply_image(image[..., ::-1])[..., ::-1]  # ours is RGB, theirs BGR
    sample = cropped[::SAMPLE_STRIDE, ::SAMPLE_STRIDE]
    yield case.absolute("crop sample", sample, want["crop_sub"], 1e-3)
    transforms = [transform, T.HFlipTransform(crop.size[1])]
    example = _mapped(mapper, image, want, transforms[: 1 + bool(want["flip"])])
    yield from _input(case, example["image"], want)
    yield case.exact("labels", example["instances"].gt_classes, want["final_labels"])
    boxes = example["instances"].gt_boxes.tensor
    yield case.absolute("boxes", boxes, want["final_boxes"], PIXELS)
    targets = example["corner_targets"]
    yield case.exact("cells", targets.cells, want["cells"])
    offsets = torch.stack([torch.from_numpy(want[f"{name}_off"]) for name in ("tl", "br")], 1)
    yield case.absolute("offsets", targets.offsets, offsets, PIXELS)
    yield from check_heatmaps(case, [targets], want)


def _drawn(crop: RandomScaleCrop, image: np.ndarray, want: Arrays) -> ScaleCropTransform:
    """The crop that comes of the reference's draws: a ratio, then x and y."""
    point = iter(int(x) for x in want["center"])
    with (
        mock.patch.object(np.random, "choice", lambda scales: float(want["ratio"])),
        mock.patch.object(np.random, "randint", lambda low, high: next(point)),
    ):
        return crop.get_transform(image, want["boxes"])


def _input(case: Case, image: torch.Tensor, want: Arrays) -> Iterator[Check]:
    """Compare what the network sees."""
    pixels, _ = preprocess(small_model(MMDET).train(), [image])
    pixels = pixels[0]
    yield case.exact("input shape", pixels.shape, want["input_shape"])
    yield from check_stats(case, "input", stats(pixels), want["input_stats"], 1e-4)
    sums, scale = pixels.double().sum((1, 2)), pixels.double().abs().sum((1, 2))
    yield case.relative("input channel sums", sums, want["input_sums"], 5e-5, scale=scale)
    sample = pixels[:, ::INPUT_STRIDE, ::INPUT_STRIDE]
    yield case.absolute("input sample", sample, want["input_sub"], 1e-4)


def _mapped(
    mapper: CornerNetDatasetMapper, image: np.ndarray, want: Arrays, transforms: list[T.Transform]
) -> dict[str, Any]:
    """What the mapper makes of an image and its boxes with these transforms, and no colours."""
    annotations = [
        {"bbox": box.tolist(), "bbox_mode": BoxMode.XYXY_ABS, "category_id": int(label)}
        for box, label in zip(want["boxes"], want["labels"])
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "image.png")
        cv2.imwrite(path, image)
        with mock.patch.object(mapper, "augmentations", T.AugmentationList(transforms)):
            return mapper({"file_name": path, "image_id": 0, "annotations": annotations})
