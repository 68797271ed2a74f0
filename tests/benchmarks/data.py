"""Data loading: this project's mapper against the paper's sampler with dense heat maps.

The baseline is a transcription of the published sampling, image by image and object by object:
crop, resize, flip, colour steps on floats, normalisation, and one float32 heat map per class and
corner, all written into arrays of the batch. Each side feeds the same images through one worker
of a torch ``DataLoader``; images/s are those that arrive in the main process.
"""

import argparse
import math
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode
from torch.utils.data import DataLoader

from cornernet_d2 import add_cornernet_config
from cornernet_d2.data import CornerNetDatasetMapper
from cornernet_d2.data.colors import COLOR_EIGENVALUES, COLOR_EIGENVECTORS
from cornernet_d2.targets import CornerTargets, draw_heatmaps

SIZE, CLASSES, MAP, MAX_OBJECTS = 511, 80, 128, 128  # of the published training config
SCALES = np.arange(0.6, 1.4, 0.1)
MEAN = np.array([0.40789654, 0.44719302, 0.47026115], np.float32)
STD = np.array([0.28863828, 0.27408164, 0.27809835], np.float32)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--annotations", help="COCO json; without it, synthetic photos are used")
    parser.add_argument("--image-root", default="", help="folder of the json's images")
    parser.add_argument("--images", type=int, default=48, help="images used")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7, help="passes over the images, each side")


def run(args: argparse.Namespace) -> int:
    """Print images/s per worker and bytes per image of both; 0 always."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.annotations:
            dicts = load_coco_json(args.annotations, args.image_root, "benchmark")[: args.images]
        else:
            dicts = _synthetic_dicts(Path(folder), args.images)
        mapper = CornerNetDatasetMapper(_config(), is_train=True)
        sides = {
            "paper's sampler, dense maps": _sample_batch,
            "CornerNetDatasetMapper": lambda batch: [mapper(d) for d in batch],
        }
        rates = _interleaved(list(sides.values()), dicts, args.batch_size, args.repeats)
        some = dicts[: args.batch_size]
        sizes = [_queue_bytes(side(some)) / len(some) for side in sides.values()]
        drawing = _drawing_seconds([mapper(d)["corner_targets"] for d in some], args.repeats)
    _report(list(sides), rates, sizes, drawing)
    return 0


def _report(
    names: Sequence[str], rates: Sequence[float], sizes: Sequence[float], drawing: float
) -> None:
    print(f"{'one worker':30}{'images/s':>10}{'ms/image':>10}{'KB/image':>10}")
    for name, rate, size in zip(names, rates, sizes):
        print(f"{name:30}{rate:10.1f}{1000 / rate:10.2f}{size / 1000:10.1f}")
    heat = 2 * CLASSES * MAP * MAP * 4
    print(f"{'ratio':30}{rates[1] / rates[0]:9.2f}x{'':10}{sizes[0] / sizes[1]:9.1f}x")
    print(f"dense float32 heat maps alone: {heat / 1000:.1f} KB, {heat / sizes[1]:.1f}x of ours")
    print(
        f"drawing the heat maps where the model is, here on one core: {1000 * drawing:.2f} ms/image"
    )


def _interleaved(
    sides: Sequence[Callable], dicts: Sequence[dict], batch_size: int, repeats: int
) -> list[float]:
    """Median images/s of each side, taking turns pass by pass."""
    loaders = [DataLoader(dicts, batch_size, collate_fn=side, num_workers=1) for side in sides]
    rates: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats):
        for loader, record in zip(loaders, rates):
            batches = iter(loader)
            next(batches)  # the worker's start is not what is measured
            start = time.perf_counter()
            images = sum(1 for _ in batches) * batch_size
            record.append(images / (time.perf_counter() - start))
    return [statistics.median(record) for record in rates]


def _drawing_seconds(targets: list[CornerTargets], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        draw_heatmaps(targets)
        times.append(time.perf_counter() - start)
    return statistics.median(times) / len(targets)


def _queue_bytes(value: object) -> int:
    """Bytes a worker hands over: tensors go by shared memory, the rest is pickled."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, (list, tuple)):
        return sum(_queue_bytes(v) for v in value)
    if isinstance(value, dict):
        return sum(len(k) + _queue_bytes(v) for k, v in value.items())
    if isinstance(value, CornerTargets):
        return _queue_bytes(vars(value))
    if hasattr(value, "get_fields"):  # Instances
        return _queue_bytes(value.get_fields())
    return _queue_bytes(value.tensor) if hasattr(value, "tensor") else len(pickle.dumps(value))


def _config():
    cfg = get_cfg()
    add_cornernet_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_hourglass_backbone"
    cfg.MODEL.CORNERNET.PADDING = "center_black"
    cfg.MODEL.CORNERNET.TARGETS.MIN_OVERLAP = 0.3  # of the published config: larger windows
    cfg.INPUT.CORNERNET.CROP.SCALES = SCALES.tolist()
    return cfg


def _synthetic_dicts(folder: Path, count: int) -> list[dict]:
    """Photo-like JPEGs of 640x480 with 1 to 14 boxes, COCO's usual size and mean number."""
    rng = np.random.RandomState(0)
    dicts = []
    for i in range(count):
        coarse = rng.randint(0, 256, (30, 40, 3), np.uint8)
        image = cv2.resize(coarse, (640, 480), interpolation=cv2.INTER_CUBIC)
        image = cv2.add(image, rng.randint(0, 8, image.shape, np.uint8))
        file_name = str(folder / f"{i}.jpg")
        cv2.imwrite(file_name, image)
        corner = rng.rand(rng.randint(1, 15), 2) * [560, 400]
        size = 8 + rng.rand(len(corner), 2) * ([632, 472] - corner)
        annotations = [
            {
                "bbox": [*xy, *wh],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": int(rng.randint(CLASSES)),
                "iscrowd": 0,
            }
            for xy, wh in zip(corner.tolist(), size.tolist())
        ]
        dicts.append(
            dict(file_name=file_name, image_id=i, height=480, width=640, annotations=annotations)
        )
    return dicts


def _sample_batch(dataset_dicts: Sequence[dict]) -> dict[str, torch.Tensor]:
    """The paper's sampler: normalised images, dense heat maps, tags and offsets of a batch."""
    count = len(dataset_dicts)
    batch = {
        "image": np.zeros((count, 3, SIZE, SIZE), np.float32),
        "heat": np.zeros((count, 2, CLASSES, MAP, MAP), np.float32),
        "tags": np.zeros((count, 2, MAX_OBJECTS), np.int64),
        "offsets": np.zeros((count, 2, MAX_OBJECTS, 2), np.float32),
        "mask": np.zeros((count, MAX_OBJECTS), np.uint8),
    }
    for i, dataset_dict in enumerate(dataset_dicts):
        _sample(dataset_dict, {key: array[i] for key, array in batch.items()})
    return {key: torch.from_numpy(array) for key, array in batch.items()}


def _sample(dataset_dict: dict, output: dict[str, np.ndarray]) -> None:
    image = cv2.imread(dataset_dict["file_name"])
    boxes = [
        [*BoxMode.convert(obj["bbox"], obj["bbox_mode"], BoxMode.XYXY_ABS), obj["category_id"]]
        for obj in dataset_dict["annotations"]
    ]
    image, boxes = _random_crop(image, np.array(boxes, np.float64).reshape(-1, 5))
    boxes[:, 0:4:2] *= SIZE / image.shape[1]
    boxes[:, 1:4:2] *= SIZE / image.shape[0]
    image = cv2.resize(image, (SIZE, SIZE))
    boxes[:, :4] = np.clip(boxes[:, :4], 0, SIZE - 1)
    boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    if np.random.uniform() > 0.5:
        image = image[:, ::-1].copy()
        boxes[:, [0, 2]] = SIZE - 1 - boxes[:, [2, 0]]
    output["image"][:] = _normalised_colors(image).transpose(2, 0, 1)
    _draw_targets(boxes[:MAX_OBJECTS], output)


def _random_crop(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    side = int(SIZE * np.random.choice(SCALES))
    center, window, onto = [], [], []
    for length in image.shape[1::-1]:
        divisor = 1
        while length - 128 // divisor <= 128 // divisor:
            divisor *= 2
        point = np.random.randint(128 // divisor, length - 128 // divisor)
        low, high = max(point - side // 2, 0), min(point + side // 2, length)
        center.append(point)
        window.append(slice(low, high))
        onto.append(slice(side // 2 - (point - low), side // 2 + (high - point)))
    output = np.zeros((side, side, 3), image.dtype)
    output[onto[1], onto[0]] = image[window[1], window[0]]
    boxes[:, 0:4:2] += side // 2 - center[0]
    boxes[:, 1:4:2] += side // 2 - center[1]
    return output, boxes


def _normalised_colors(image: np.ndarray) -> np.ndarray:
    image = image.astype(np.float32) / 255
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    mean = grey.mean()
    for step in np.random.permutation(3):
        factor = 1 + np.random.uniform(-0.4, 0.4)
        image *= factor
        if step == 1:
            image += mean * (1 - factor)
        elif step == 2:
            image += grey[:, :, None] * (1 - factor)
    image += COLOR_EIGENVECTORS @ (COLOR_EIGENVALUES * np.random.normal(scale=0.1, size=3))
    image -= MEAN
    image /= STD
    return image


def _draw_targets(boxes: np.ndarray, output: dict[str, np.ndarray]) -> None:
    ratio = MAP / SIZE
    for i, (*box, category) in enumerate(boxes):
        width = math.ceil((box[2] - box[0]) * ratio)
        height = math.ceil((box[3] - box[1]) * ratio)
        radius = max(0, int(_radius(height, width, 0.3)))
        for corner in range(2):
            x, y = box[2 * corner] * ratio, box[2 * corner + 1] * ratio
            _draw(output["heat"][corner, int(category)], int(x), int(y), radius)
            output["tags"][corner, i] = int(y) * MAP + int(x)
            output["offsets"][corner, i] = x - int(x), y - int(y)
        output["mask"][i] = 1


def _radius(height: float, width: float, overlap: float) -> float:
    total, area = height + width, height * width
    one = (total - math.sqrt(total**2 - 4 * area * (1 - overlap) / (1 + overlap))) / 2
    inside = (2 * total - math.sqrt(4 * total**2 - 16 * (1 - overlap) * area)) / 8
    b = 2 * overlap * total
    outside = (-b + math.sqrt(b**2 + 16 * overlap * (1 - overlap) * area)) / (8 * overlap)
    return min(one, inside, outside)


def _draw(heat: np.ndarray, x: int, y: int, radius: int) -> None:
    sigma = (2 * radius + 1) / 6
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    gaussian = np.exp(-(rows**2 + columns**2) / (2 * sigma**2))
    left, right = min(x, radius), min(MAP - x, radius + 1)
    top, bottom = min(y, radius), min(MAP - y, radius + 1)
    area = heat[y - top : y + bottom, x - left : x + right]
    np.maximum(
        area, gaussian[radius - top : radius + bottom, radius - left : radius + right], out=area
    )
