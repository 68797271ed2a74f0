"""What pycocotools itself counts and measures at an IoU of 0.5: the oracle of the diagnosis."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cornernet_d2.diagnosis.matching import Found


class Evaluation(NamedTuple):
    counts: dict[str, int]
    ap: float


def evaluate(annotations: Sequence[Mapping], found: Sequence[Found]) -> Evaluation:
    """Evaluate detections of images 0, 1, ..., whose classes 0, 1, ... are categories 1, 2, ..."""
    categories = sorted({row["category_id"] for row in annotations})
    truth, rows = COCO(), []
    truth.dataset = {
        "images": [{"id": i} for i in range(len(found))],
        "annotations": [dict(row) for row in annotations],
        "categories": [{"id": i, "name": str(i)} for i in categories],
    }
    for image, each in enumerate(found):
        for (x0, y0, x1, y1), score, index in zip(*(field.tolist() for field in each)):
            box = [x0, y0, x1 - x0, y1 - y0]
            row = {"image_id": image, "category_id": index + 1, "bbox": box, "score": score}
            rows.append(row)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        coco = COCOeval(truth, truth.loadRes(rows), "bbox")
        coco.params.maxDets = [1000]
        coco.params.iouThrs = np.array([0.5])
        coco.evaluate()
        coco.accumulate()
    every = [each for each in coco.evalImgs if each and each["aRng"] == coco.params.areaRng[0]]
    objects = sum(int((1 - each["gtIgnore"]).sum()) for each in every)
    right = sum(int(((e["dtMatches"] > 0) & ~e["dtIgnore"]).sum()) for e in every)
    false = sum(int(((e["dtMatches"] == 0) & ~e["dtIgnore"]).sum()) for e in every)
    ignored = sum(int(each["dtIgnore"].sum()) for each in every)
    counts = {"objects": objects, "found": right, "missed": objects - right}
    counts |= {"false": false, "ignored": ignored}
    precision = coco.eval["precision"][..., 0, 0]
    return Evaluation(counts, float(precision[precision > -1].mean()))
