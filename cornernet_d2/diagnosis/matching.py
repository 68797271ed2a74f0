"""Which detection found which object, average precision and the best threshold: as COCO does it.

Letters: G objects of an image, D detections of it, K detections of all images. Boxes are
``x0 y0 x1 y1`` in pixels of the image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask

RECALLS = np.linspace(0, 1, 101)  # where COCO reads off the precision


class Truth(NamedTuple):
    """The objects of one image.

    Attributes:
        boxes: (G, 4) float64.
        classes: (G,) int64.
        ignored: (G,) bool: need not be found, and what finds them does not count.
        crowd: (G,) bool: ignored, and any number of detections lies on it if they are inside.
    """

    boxes: np.ndarray
    classes: np.ndarray
    ignored: np.ndarray
    crowd: np.ndarray


class Found(NamedTuple):
    """Boxes that are said to be objects of one image, best first.

    Attributes:
        boxes: (D, 4) float64.
        scores: (D,) float64.
        classes: (D,) int64.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def take(self, index: np.ndarray) -> "Found":
        return Found(*(field[index] for field in self))


class Matches(NamedTuple):
    """Who found whom.

    Attributes:
        objects: (G,) int64, the detection that found each object, or -1.
        detections: (D,) int64, the object that each detection found, or -1.
        ignored: (D,) bool: found an ignored object, or is left out otherwise.
    """

    objects: np.ndarray
    detections: np.ndarray
    ignored: np.ndarray


def overlaps(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray | None = None) -> np.ndarray:
    """(D, G) IoU of D and G boxes; with a crowd, the part of the box that is inside it."""
    if not len(boxes) or not len(others):
        return np.zeros((len(boxes), len(others)))
    flags = np.zeros(len(others)) if crowd is None else crowd
    return mask.iou(_xywh(boxes), _xywh(others), flags.astype(np.uint8).tolist())


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1).astype(np.float64)


def match(found: Found, truth: Truth, threshold: float = 0.5) -> Matches:
    """Every detection takes, best first, the object of its class that it overlaps most.

    An object is taken once, a crowd any number of times; ignored objects come last. What
    ``pycocotools`` does for areas of all sizes.

    Args:
        threshold: the least IoU.
    """
    objects, detections = np.full(len(truth.boxes), -1), np.full(len(found.boxes), -1)
    ignored = np.zeros(len(found.boxes), bool)
    iou = overlaps(found.boxes, truth.boxes, truth.crowd)
    for number in np.argsort(-found.scores, kind="mergesort"):
        free = (objects < 0) | truth.crowd
        fits = free & (truth.classes == found.classes[number])
        fits &= iou[number] >= min(threshold, 1 - 1e-10)
        wanted = fits & ~truth.ignored
        fits = wanted if wanted.any() else fits
        if fits.any():
            best = np.flatnonzero(fits & (iou[number] == iou[number][fits].max()))[-1]
            objects[best], detections[number] = number, best
            ignored[number] = truth.ignored[best]
    return Matches(objects, detections, ignored)


class Curve(NamedTuple):
    """Precision over recall of one class, each (K,), from the best score down."""

    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    def average_precision(self) -> float:
        """COCO's: the mean over 101 recalls of the best precision at that recall or above."""
        best = np.maximum.accumulate(self.precision[::-1])[::-1]
        place = np.searchsorted(self.recall, RECALLS, side="left")
        return float(np.append(best, 0.0)[place].mean())

    def best_f1(self) -> tuple[float, float]:
        """(threshold, F1): detections from this score on have the highest F1; (1, 0) of none."""
        if not len(self.scores):
            return 1.0, 0.0
        total = self.precision + self.recall
        f1 = 2 * self.precision * self.recall / np.where(total > 0, total, 1)
        last = np.append(self.scores[1:] < self.scores[:-1], True)  # equal scores come together
        best = int(np.argmax(np.where(last, f1, -1)))
        return float(self.scores[best]), float(f1[best])


def curve(scores: np.ndarray, is_right: np.ndarray, objects: int) -> Curve:
    """The curve of K detections of a class.

    Args:
        scores, is_right: (K,); those that found an ignored object are not among them.
        objects: number to be found, at least 1.
    """
    order = np.argsort(-scores, kind="mergesort")
    right = np.cumsum(is_right[order], dtype=np.float64)
    precision = right / (np.arange(len(order)) + 1 + np.spacing(1))
    return Curve(scores[order], precision, right / objects)


def class_curves(
    scores: np.ndarray, classes: np.ndarray, right: np.ndarray, wanted: np.ndarray, number: int
) -> list[Curve | None]:
    """The curves of ``number`` classes; None of a class without objects.

    Args:
        scores, classes, right: (K,).
        wanted: the class of each object that is to be found.
    """
    counts = np.bincount(wanted, minlength=number)
    groups = (classes == index for index in range(number))
    return [
        curve(scores[mine], right[mine], int(count)) if count else None
        for mine, count in zip(groups, counts)
    ]


def mean_average_precision(curves: Sequence[Curve | None]) -> float:
    """Mean AP over the classes that have objects (others: None); NaN if none has."""
    values = [each.average_precision() for each in curves if each is not None]
    return float(np.mean(values)) if values else float("nan")
