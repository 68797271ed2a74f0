"""What a dataset asks of a config, in sentences with the lines to paste."""

from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode

from ...data.recipe import NEIGHBOURS, Statistics
from .contents import Contents

FEW = 20  # objects of a class, below which its AP is mostly chance
UNEVEN = 50  # times as many objects of the most frequent class as of the rarest
SHARED = 0.01  # part of the objects
NARROW = 2.0  # cells, the side that a tenth of the objects may stay below


class Advice(NamedTuple):
    """A sentence, and keys and values that follow from it."""

    text: str
    keys: dict[str, Any]

    @property
    def lines(self) -> str:
        """The keys as they are pasted behind a command."""
        return " ".join(f'{key} "{value}"' for key, value in self.keys.items())


def advise(contents: Contents, cfg: CfgNode, stride: int, statistics: Statistics) -> list[Advice]:
    """Of the set that is trained on; empty if nothing is to be said.

    Args:
        contents: of the dataset.
        cfg: what it would be trained with.
        stride: pixels of what the network sees, per cell.
        statistics: of the dataset.
    """
    arguments = contents, contents.objects, cfg, stride
    found = [each for part in (_classes, _size, _sharing) for each in part(*arguments)]
    return [*found, *_crowding(statistics, cfg), *_pairing(statistics, cfg), *_ignored(contents)]


def _classes(every: Contents, objects: Contents, cfg: CfgNode, stride: int) -> list[Advice]:
    names, found = every.class_names, []
    counts = np.bincount(objects.classes, minlength=len(names))
    few = [names[i] for i in np.flatnonzero(counts < FEW)]
    if few:
        shown = ", ".join(few[:8]) + (", ..." if len(few) > 8 else "")
        text = f"{len(few)} classes have fewer than {FEW} objects: {shown}. Label more of them"
        found.append(Advice(f"{text}, or leave them out: their AP will be chance.", {}))
    if counts.min(initial=0) and counts.max() > UNEVEN * counts.min():
        text = (
            f"{names[int(counts.argmax())]} has {counts.max() / counts.min():.0f} times as many "
            f"objects as {names[int(counts.argmin())]}: show images of rare classes more often."
        )
        keys = {"DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler"}
        found.append(Advice(text, {**keys, "DATALOADER.REPEAT_THRESHOLD": 0.1}))
    return found


def _size(every: Contents, objects: Contents, cfg: CfgNode, stride: int) -> list[Advice]:
    if not len(objects.boxes):
        return []
    zoom = every.zoom(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    least = objects.extents.min(axis=1) * zoom[objects.images] / stride
    tenth = float(np.percentile(least, 10))
    if tenth >= NARROW:
        return []
    factor = min(NARROW / max(tenth, 1e-3), 4.0)
    size = np.median(every.sizes * zoom[:, None], axis=0) * factor
    short, long = sorted(int(round(side)) for side in size)
    text = (
        f"A tenth of the objects is less than {tenth:.1f} cells wide or high as the network sees "
        f"them; their two corners are {NARROW:g} cells apart from {short} x {long} pixels on "
        "(training crops have to grow with it: INPUT.CORNERNET.CROP.SCALES divided by "
        f"{factor:.2g}, or SIZE times it)."
    )
    return [Advice(text, {"INPUT.MIN_SIZE_TEST": short, "INPUT.MAX_SIZE_TEST": long})]


def _sharing(every: Contents, objects: Contents, cfg: CfgNode, stride: int) -> list[Advice]:
    zoom = every.zoom(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    share = float(objects.sharing(zoom, stride).mean()) if len(objects.boxes) else 0.0
    if share < SHARED:
        return []
    text = f"{share:.1%} of the objects share a corner's cell with another and cannot be told "
    return [Advice(f"{text}apart: a larger INPUT.MIN_SIZE_TEST separates them.", {})]


def _crowding(statistics: Statistics, cfg: CfgNode) -> list[Advice]:
    most = statistics.most_objects
    if most <= min(cfg.MODEL.CORNERNET.TEST.TOP_K, cfg.TEST.DETECTIONS_PER_IMAGE):
        return []
    number = int(np.ceil(most * 1.5 / 50) * 50)
    text = f"An image has {most} objects: fewer corners than that are kept of it."
    keys = {"MODEL.CORNERNET.TEST.TOP_K": number, "TEST.DETECTIONS_PER_IMAGE": number}
    return [Advice(text, keys)]


def _pairing(statistics: Statistics, cfg: CfgNode) -> list[Advice]:
    if statistics.alike < NEIGHBOURS or cfg.MODEL.CORNERNET.PAIRING != "embedding":
        return []
    text = (
        f"A tenth of the images have {statistics.alike:.0f} or more objects of one class, which "
        "embeddings have to tell apart by their place. Shifts to the centre need not."
    )
    return [Advice(text, {"MODEL.CORNERNET.PAIRING": "centripetal"})]


def _ignored(every: Contents) -> list[Advice]:
    share = float(every.ignored.mean()) if len(every.ignored) else 0.0
    if share < 0.05:
        return []
    text = f"{share:.0%} of the boxes are crowds or ignored: training and AP leave them out. If "
    return [Advice(f"{text}they are objects, set iscrowd to 0.", {})]
