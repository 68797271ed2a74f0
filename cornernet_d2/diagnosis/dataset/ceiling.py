"""The AP that ground truth itself reaches when it goes through targets and decoding.

Letters: M objects, C classes of an image, h, w map (cells).
"""

import contextlib
import dataclasses
import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ...canvas import Canvas
from ...data import CornerNetDatasetMapper
from ...modeling.decode import decode_corners
from ...targets import CornerTargetGenerator, CornerTargets
from .contents import Contents

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class Rules(NamedTuple):
    """What a config says of targets, canvas and decoding.

    Attributes:
        generator: of the targets.
        divisibility, padding: of the canvas.
        top_k, nms_kernel, threshold, max_pairs: of the decoding.
    """

    generator: CornerTargetGenerator
    divisibility: int
    padding: str
    top_k: int
    nms_kernel: int
    threshold: float
    max_pairs: int

    @classmethod
    def of(cls, cfg: CfgNode) -> "Rules":
        mapper = CornerNetDatasetMapper(cfg, is_train=True)  # which asks the backbone
        test = cfg.MODEL.CORNERNET.TEST
        return cls(
            mapper.target_generator,
            mapper.size_divisibility,
            mapper.padding,
            test.TOP_K,
            test.NMS_KERNEL,
            test.EMBEDDING_THRESHOLD,
            test.MAX_PAIRS,
        )


class Ceiling(NamedTuple):
    """Attributes:
    images, objects: looked at.
    shared: objects with a corner in the cell of another's, same corner.
    below: objects with a side below the stride.
    crowded: images with more objects than TOP_K.
    stats: COCO's metrics in [0, 1]: :data:`METRICS` and AR100; NaN where nothing is to be found.
    """

    images: int
    objects: int
    shared: int
    below: int
    crowded: int
    stats: dict[str, float]


def ceiling(
    contents: Contents, rules: Rules, chosen: Iterable[int], zoom: np.ndarray | None = None
) -> Ceiling:
    """What maps of cells can represent of some images, at any size.

    Args:
        contents: of the dataset.
        rules: of a config.
        chosen: numbers of the images.
        zoom: (N,) what images are enlarged by before; None: nothing. Boxes are compared in the
            images' own pixels.
    """
    generator, totals = rules.generator, np.zeros(4, dtype=np.int64)
    starts = np.searchsorted(contents.images, np.arange(len(contents.sizes) + 1))
    images, truth, found = [], [], []
    for number in chosen:
        rows = slice(starts[number], starts[number + 1])
        every, classes, ignored = (
            x[rows] for x in (contents.boxes, contents.classes, contents.ignored)
        )
        factor = 1.0 if zoom is None else float(zoom[number])
        height, width = (int(side) for side in contents.sizes[number])
        size = (max(1, round(height * factor)), max(1, round(width * factor)))
        scale = np.array([size[1] / width, size[0] / height] * 2)
        boxes = every[~ignored] * scale
        canvas = Canvas.fit([size], rules.divisibility, generator.stride, rules.padding)
        targets = generator.on_canvas(
            canvas, 0, torch.from_numpy(boxes), torch.from_numpy(classes[~ignored])
        )
        narrow = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) < generator.stride
        totals += (
            len(targets),
            _sharing(targets.cells[:, :2]),
            narrow.sum(),
            len(targets) > rules.top_k,
        )
        images.append({"id": int(number), "height": height, "width": width})
        for box, category, crowd in zip(every, classes, ignored):
            truth.append(_coco(number, category, box, iscrowd=int(crowd)))
        for category, box, score in _decoded(targets, canvas, rules):
            found.append(_coco(number, category, box / scale, score=score))
    stats = _coco_stats(images, truth, found, len(contents.class_names))
    return Ceiling(len(images), *map(int, totals), stats)


def _sharing(cells: torch.Tensor) -> int:
    """Number of objects with a corner in the same cell as another object's, same corner."""
    hit = torch.zeros(len(cells), dtype=torch.bool)
    for side in cells.T:
        _, inverse, counts = side.unique(return_inverse=True, return_counts=True)
        hit |= counts[inverse] > 1
    return int(hit.sum())


def _decoded(
    targets: CornerTargets, canvas: Canvas, rules: Rules
) -> list[tuple[int, np.ndarray, float]]:
    """(class, box in image pixels, score) that perfect maps of the targets decode to."""
    if not len(targets):
        return []
    height, width = targets.map_size
    present, compact = targets.classes.unique(return_inverse=True)
    # Channels of absent classes would be empty: leave them out.
    generator = dataclasses.replace(targets.generator, num_classes=len(present))
    targets = dataclasses.replace(targets, classes=compact, generator=generator)
    heat = targets.dense_heatmaps().clamp(1e-6, 1 - 1e-6).logit()
    maps = {}
    for corner, side in enumerate(("tl", "br")):
        # NaN pairs with nothing; objects that share a cell overwrite each other, as they must.
        embedding = torch.full((1, height * width), torch.nan)
        embedding[0, targets.cells[:, corner]] = torch.arange(len(targets)).float()
        offset = torch.zeros(2, height * width)
        offset[:, targets.cells[:, corner]] = targets.offsets[:, corner].T
        maps[side] = {
            "heatmap": heat[corner][None],
            "embedding": embedding.view(1, 1, height, width),
            "offset": offset.view(1, 2, height, width),
        }
    pairs = decode_corners(maps, rules.top_k, rules.nms_kernel, rules.threshold, rules.max_pairs)
    kept = pairs.scores[0] > 0
    boxes = canvas.to_image(pairs.boxes[:, kept])[0].double().numpy()
    categories = present[pairs.classes[0, kept]].tolist()
    return list(zip(categories, boxes, pairs.scores[0, kept].tolist()))


def _coco_stats(
    images: Sequence[dict], truth: Sequence[dict], found: Sequence[dict], num_classes: int
) -> dict[str, float]:
    if not found:
        return dict.fromkeys((*METRICS, "AR100"), float("nan"))
    coco = COCO()
    for i, annotation in enumerate(truth):
        annotation["id"] = i + 1  # COCOeval takes 0 for "no match"
    categories = [{"id": i} for i in range(num_classes)]
    coco.dataset = {"images": images, "annotations": truth, "categories": categories}
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = {**dict(zip(METRICS, evaluation.stats)), "AR100": evaluation.stats[8]}
    return {name: value if value >= 0 else float("nan") for name, value in stats.items()}


def _coco(image_id: int, category: int, box: np.ndarray, **rest: float) -> dict:
    x0, y0, x1, y1 = (float(value) for value in box)
    area = (x1 - x0) * (y1 - y0)
    bbox = [x0, y0, x1 - x0, y1 - y0]
    return dict(image_id=int(image_id), category_id=int(category), bbox=bbox, area=area, **rest)
