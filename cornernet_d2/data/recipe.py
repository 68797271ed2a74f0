"""Settings of the starter network from what is in a dataset and from the machine (docs/data.md)."""

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog

from ..config import override
from .annotations import boxes_xyxy, is_ignored
from .files import add_files
from .reading import image_size

# Long side of an image as the network sees it, pixels, and images a step at most.
LONG_SIDE = {"cpu": 320, "cuda": 512}
BATCH = {"cpu": 8, "cuda": 32}
SMALL_OBJECT = 16  # pixels, the side that small objects keep if that costs no more than ENLARGED
ENLARGED = 1.5  # times LONG_SIDE, at most
# Bytes that a training step adds for a pixel of input, CornerNet-Small in float32: `cornernet
# benchmark train --config-file CornerNet-Small --size 255 --batch-size 4` says 0.38 GB.
BYTES_PER_PIXEL = 1500
EPOCHS = 78  # over small sets: those of CornerNet-BCCD-centripetal
LEAST_EPOCHS = 12  # over large ones: MMDetection's shortest schedule
ITERATIONS = {"cpu": (1500, 6000), "cuda": (3000, 24000)}  # at least and, above 12 epochs, at most
NEIGHBOURS = 5  # objects of one class in an image that have to be told apart by their place
STRIDE = 4  # of the hourglass, whatever its depth


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What the recipe asks of a training set.

    Attributes:
        images: their number.
        height, width: of the median image, pixels.
        turned: images of both orientations are in it, more than one in ten of the rarer.
        small_side: tenth percentile of the objects' sides (root of the area), pixels.
        log_half_side: mean of log(side / 2) over the objects' widths and heights, in pixels.
        most_objects: in one image.
        alike: objects of one class in an image, 90th percentile of its most frequent class.
    """

    images: int
    height: float
    width: float
    turned: bool
    small_side: float
    log_half_side: float
    most_objects: int
    alike: float


class Machine(NamedTuple):
    """Where a training runs: "cpu" or "cuda", and the bytes of free memory there."""

    device: str
    memory: int


def this_machine() -> Machine:
    if torch.cuda.is_available():
        return Machine("cuda", torch.cuda.mem_get_info()[0])
    pages = "SC_AVPHYS_PAGES"
    if pages in os.sysconf_names:
        return Machine("cpu", os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE"))
    return Machine("cpu", 4 * 2**30)


def measure(dicts: Sequence[Mapping]) -> Statistics:
    """The statistics of a set in Detectron2's format.

    Raises:
        ValueError: it has no image, or no object.
    """
    sizes = np.array([image_size(d) for d in dicts]).reshape(-1, 2)
    objects = [[o for o in d.get("annotations", ()) if not is_ignored(o)] for d in dicts]
    if not any(objects):
        raise ValueError("the training set has no object in any image; there is nothing to learn")
    boxes = boxes_xyxy([o for each in objects for o in each])
    lengths = (boxes[:, 2:] - boxes[:, :2]).clip(0)
    sides = np.sqrt(np.prod(lengths, axis=1))
    alike = [max(Counter(o["category_id"] for o in each).values()) for each in objects if each]
    upright = float((sizes[:, 0] > sizes[:, 1]).mean())
    return Statistics(
        images=len(dicts),
        height=float(np.median(sizes[:, 0])),
        width=float(np.median(sizes[:, 1])),
        turned=0.1 < upright < 0.9,
        small_side=float(np.percentile(sides, 10)),
        log_half_side=float(np.log(lengths.clip(1) / 2).mean()),
        most_objects=max(map(len, objects)),
        alike=float(np.percentile(alike, 90)),
    )


def scale(data: Statistics, device: str) -> float:
    """Pixels that the network sees for one of the image, at most 1.

    The long side becomes LONG_SIDE, more if small objects would have less than SMALL_OBJECT.
    """
    base = LONG_SIDE[device] / max(data.height, data.width)
    wanted = SMALL_OBJECT / max(data.small_side, 1.0)
    return min(1.0, max(base, min(wanted, ENLARGED * base)))


def crop_size(data: Statistics, factor: float, divisibility: int) -> tuple[int, int]:
    """(height, width) of the nearest canvas, a multiple of ``divisibility`` less 1 [paper: 511]."""
    height, width = data.height * factor, data.width * factor
    if data.turned:
        height = width = max(height, width)

    def side(pixels: float) -> int:
        return max(1, round((pixels + 1) / divisibility)) * divisibility - 1

    return side(height), side(width)


def batch_size(data: Statistics, crop: tuple[int, int], machine: Machine) -> int:
    """Images a step: a quarter of the memory and of the set at most, and 2 at least."""
    fit = machine.memory // 2 // (BYTES_PER_PIXEL * crop[0] * crop[1])
    return int(max(2, min(BATCH[machine.device], fit, data.images // 4)))


def iterations(images: int, batch: int, device: str) -> int:
    """EPOCHS over the set, within ITERATIONS, but never below LEAST_EPOCHS; in hundreds."""
    least, most = ITERATIONS[device]
    wanted = min(max(EPOCHS * images / batch, least), max(most, LEAST_EPOCHS * images / batch))
    return math.ceil(wanted / 100) * 100


def recipe(data: Statistics, machine: Machine, divisibility: int) -> dict[str, Any]:
    """Config keys and values for the starter network on this data.

    Args:
        data: of the training set.
        machine: where the training runs.
        divisibility: of the sides of the network's canvas, pixels.
    """
    factor = scale(data, machine.device)
    crop = crop_size(data, factor, divisibility)
    batch = batch_size(data, crop, machine)
    steps = iterations(data.images, batch, machine.device)
    short, long = sorted((data.height * factor, data.width * factor))
    count = max(100, math.ceil(data.most_objects * 1.5))
    return {
        "INPUT.MIN_SIZE_TEST": round(short),
        "INPUT.MAX_SIZE_TEST": round(long),
        "INPUT.CORNERNET.CROP.SIZE": list(crop),
        # Nearly whole images, nearly at the size of the test.
        "INPUT.CORNERNET.CROP.SCALES": [
            round(f / factor, 3) for f in (0.8, 0.87, 0.93, 1.0, 1.07, 1.13, 1.2)
        ],
        "INPUT.CORNERNET.CROP.BORDER": round(0.4 * min(data.height, data.width)),
        "MODEL.CORNERNET.CENTRIPETAL.LOG_SIZE": round(
            data.log_half_side + math.log(factor / STRIDE), 2
        ),
        # Of PAIRING embedding.
        "MODEL.CORNERNET.LOSS.EMBEDDING_IMAGES": 50.0 if data.alike >= NEIGHBOURS else 5.0,
        "MODEL.CORNERNET.TEST.TOP_K": count,
        "TEST.DETECTIONS_PER_IMAGE": count,
        "SOLVER.IMS_PER_BATCH": batch,
        "SOLVER.MAX_ITER": steps,
        "SOLVER.CHECKPOINT_PERIOD": math.ceil(steps / 6),
        "TEST.EVAL_PERIOD": math.ceil(steps / 6),
        "MODEL.DEVICE": machine.device,
    }


def own_data(
    cfg: CfgNode, files: Mapping[str, Mapping], *, keep: bool, opts: Sequence[str] = ()
) -> CfgNode:
    """Set a config to own data: datasets, classes and, unless ``keep``, the whole recipe.

    Args:
        cfg: changed in place, and returned.
        files: of training and of validation, from :func:`cornernet_d2.data.sources.find_data`.
        keep: the config is one of the user's choice, whose sizes and schedule stay.
        opts: alternating keys and values that have the last word.

    Raises:
        ValueError: the data cannot be read or has no object.
    """
    train, val = files
    add_files(cfg, files)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (train,), (val,)
    cfg.MODEL.CORNERNET.NUM_CLASSES = len(files[train]["CLASSES"])
    override(cfg, opts)  # of the network, whose canvas the recipe fills
    if not keep:
        divisibility = STRIDE * 2**cfg.MODEL.HOURGLASS.DEPTH
        values = recipe(measure(DatasetCatalog.get(train)), this_machine(), divisibility)
        cfg.OUTPUT_DIR = os.path.join("output", train.removesuffix("_train"))
        cfg.merge_from_list([item for pair in values.items() for item in pair])
        override(cfg, opts)
    return cfg
