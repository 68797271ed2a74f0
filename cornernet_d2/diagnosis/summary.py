"""What the diagnoses of all images come to: counts, curves, and the AP that each cause costs.

Letters: C classes, K detections, M objects of all images. AP is COCO's at an IoU of 0.5, in [0, 1].
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .causes import FALSE, MISSED, ImageDiagnosis
from .matching import (
    Curve,
    Found,
    Matches,
    Truth,
    class_curves,
    curve,
    match,
    mean_average_precision,
)

# Upper bounds of the box's area in pixels^2 (COCO's), and of the objects of an image.
SIZES = {"small": 32**2, "medium": 96**2, "large": np.inf}
CROWDING = {"1": 1, "2 to 4": 4, "5 to 9": 9, "10 to 19": 19, "20 and more": np.inf}


class Tally:
    """Detections and objects of many images, as far as curves need them.

    Args:
        num_classes: C.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._parts: list[tuple[np.ndarray, ...]] = []

    def add(self, truth: Truth, found: Found, matches: Matches) -> None:
        """One image."""
        counts = ~matches.ignored
        right = matches.detections[counts] >= 0
        wanted = truth.classes[~truth.ignored]
        self._parts.append((found.scores[counts], found.classes[counts], right, wanted))

    def curves(self) -> list[Curve | None]:
        """Of each class; None of one without objects."""
        fields = list(zip(*self._parts)) or [()] * 4
        kinds = (np.float64, np.int64, bool, np.int64)
        return class_curves(*map(_joined, fields, kinds), self.num_classes)

    def counts(self) -> tuple[int, int]:
        """Objects, and those that were found."""
        return sum(len(x[3]) for x in self._parts), sum(int(x[2].sum()) for x in self._parts)


class Summary:
    """The diagnoses of a dataset's images, added up.

    Args:
        images: their diagnoses.
        class_names: C names.
    """

    def __init__(self, images: Sequence[ImageDiagnosis], class_names: Sequence[str]) -> None:
        self.images, self.class_names = list(images), list(class_names)
        self._scores = _joined([x.found.scores for x in images], np.float64)
        self._classes = _joined([x.found.classes for x in images], np.int64)
        self._right = _joined([(x.matches.detections >= 0) & ~x.matches.ignored for x in images])
        self._counts = _joined([~x.matches.ignored for x in images])
        self._false = np.array([cause for x in images for cause in x.false], dtype=object)
        self._wanted = _joined([x.truth.classes[~x.truth.ignored] for x in images], np.int64)
        missed = [np.array(x.missed, dtype=object)[~x.truth.ignored] for x in images]
        self._missed = np.concatenate([*missed, np.zeros(0, dtype=object)])
        self.curves = self._curves()
        self.ap = mean_average_precision(self.curves)
        # Per class: the score from which on F1 is best, and that F1.
        self.best_f1 = [each.best_f1() if each else (1.0, 0.0) for each in self.curves]

    @property
    def missed(self) -> dict[str, int]:
        """Objects by why they were missed; the sum is all that were."""
        return {cause: int((self._missed == cause).sum()) for cause in MISSED}

    @property
    def false(self) -> dict[str, int]:
        """False detections by cause; the sum is all that are."""
        return {cause: int((self._false == cause).sum()) for cause in FALSE}

    @property
    def confident_false(self) -> dict[str, int]:
        """The same of the detections that reach their class's threshold of best F1."""
        thresholds = np.array([threshold for threshold, _ in self.best_f1])
        high = self._scores >= thresholds[self._classes]
        return {cause: int((high & (self._false == cause)).sum()) for cause in FALSE}

    @property
    def totals(self) -> dict[str, int]:
        right, counted = int(self._right.sum()), int(self._counts.sum())
        return {
            "images": len(self.images),
            "objects": len(self._wanted),
            "found": right,
            "missed": len(self._wanted) - right,
            "false": counted - right,
            "ignored": len(self._counts) - counted,
        }

    def mended(self) -> dict[str, float]:
        """AP gained if a cause were no more.

        Missed objects are then found, with the median score of their class's right detections (1
        where there is none); false detections are not there.
        """
        gains = {}
        for cause in MISSED:
            gains[cause] = self._ap_with(self._wanted[self._missed == cause]) - self.ap
        for cause in FALSE:
            without = mean_average_precision(self._curves(self._false != cause))
            gains[cause] = without - self.ap
        return gains

    def _ap_with(self, extra: np.ndarray) -> float:
        if not len(extra):
            return self.ap
        curves = list(self.curves)
        for index in np.unique(extra):
            mine = self._counts & (self._classes == index)
            right = self._right[mine]
            score = np.median(self._scores[mine][right]) if right.any() else 1.0
            count = int((extra == index).sum())
            scores = np.append(self._scores[mine], np.full(count, score))
            wanted = int((self._wanted == index).sum())
            curves[index] = curve(scores, np.append(right, np.ones(count, bool)), wanted)
        return mean_average_precision(curves)

    def _curves(self, chosen: np.ndarray | bool = True) -> list[Curve | None]:
        counts = self._counts & chosen
        parts = (self._scores[counts], self._classes[counts], self._right[counts])
        return class_curves(*parts, self._wanted, len(self.class_names))

    def by_size(self) -> dict[str, dict[str, float]]:
        """Objects, found and AP by the area of the box; unmatched boxes of other areas are out."""
        result, low = {}, 0.0
        for name, high in SIZES.items():
            result[name] = self._part(lambda boxes, low=low, high=high: _outside(boxes, low, high))
            low = high
        return result

    def by_crowding(self) -> dict[str, dict[str, float]]:
        """Objects, found and AP of the images with so many objects."""
        result, low = {}, 0
        for name, high in CROWDING.items():
            counts = [int((~x.truth.ignored).sum()) for x in self.images]
            chosen = [x for x, count in zip(self.images, counts) if low < count <= high]
            low = high
            if chosen:
                part = Summary(chosen, self.class_names)
                objects, found = part.totals["objects"], part.totals["found"]
                result[name] = {"objects": objects, "found": found, "AP50": part.ap}
        return result

    def _part(self, outside: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
        tally = Tally(len(self.class_names))
        for x in self.images:
            truth = x.truth._replace(ignored=x.truth.ignored | outside(x.truth.boxes))
            matches = match(x.found, truth)
            beside = (matches.detections < 0) & outside(x.found.boxes)
            tally.add(truth, x.found, matches._replace(ignored=matches.ignored | beside))
        objects, found = tally.counts()
        ap = mean_average_precision(tally.curves())
        return {"objects": objects, "found": found, "AP50": ap}

    def calibration(self, bins: int = 10) -> list[tuple[float, float, int]]:
        """(mean score, share that is right, detections) of each tenth of the scores that occurs."""
        scores, right = self._scores[self._counts], self._right[self._counts]
        place = np.minimum((scores * bins).astype(int), bins - 1)
        groups = ((place == index) for index in np.unique(place))
        return [(float(scores[g].mean()), float(right[g].mean()), int(g.sum())) for g in groups]

    def confusions(self) -> list[tuple[str, str, int]]:
        """(class of the object, class said, detections), most frequent first."""
        pairs = Counter(
            (int(true), int(said))
            for x in self.images
            for true, said in zip(x.confused, x.found.classes)
            if true >= 0
        )
        names = self.class_names
        return [(names[true], names[said], count) for (true, said), count in pairs.most_common()]

    def worst_images(self, number: int) -> list[ImageDiagnosis]:
        """The images of most errors: objects missed, and false detections of high score."""
        errors = [
            int((self.visible_false(x)).sum()) + sum(map(bool, x.missed)) for x in self.images
        ]
        order = sorted(range(len(errors)), key=lambda i: -errors[i])
        return [self.images[i] for i in order[:number] if errors[i]]

    def visible_false(self, image: ImageDiagnosis) -> np.ndarray:
        """D bool: false, with a score that reaches the class's threshold of best F1."""
        thresholds = np.array([threshold for threshold, _ in self.best_f1])
        is_false = np.array([bool(cause) for cause in image.false], dtype=bool)
        return is_false & (image.found.scores >= thresholds[image.found.classes])

    def as_dict(self) -> dict[str, Any]:
        """Everything as numbers for JSON; AP in percent, None where there is no object."""
        classes = {}
        for index, (name, each) in enumerate(zip(self.class_names, self.curves)):
            if each is not None:
                threshold, f1 = self.best_f1[index]
                classes[name] = {
                    "objects": int((self._wanted == index).sum()),
                    "AP50": 100 * each.average_precision(),
                    "best_threshold": threshold,
                    "best_F1": f1,
                }
        return {
            "totals": self.totals,
            "AP50": _percent(self.ap),
            "missed": self.missed,
            "false": self.false,
            "confident_false": self.confident_false,
            "AP50_if_mended": {cause: _percent(gain) for cause, gain in self.mended().items()},
            "classes": classes,
            "by_size": {k: {**v, "AP50": _percent(v["AP50"])} for k, v in self.by_size().items()},
            "by_crowding": {
                k: {**v, "AP50": _percent(v["AP50"])} for k, v in self.by_crowding().items()
            },
            "confusions": self.confusions(),
            "calibration": self.calibration(),
        }


def _outside(boxes: np.ndarray, low: float, high: float) -> np.ndarray:
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return (area < low) | (area >= high)


def _joined(parts: Sequence[np.ndarray], dtype: type = bool) -> np.ndarray:
    return np.concatenate([*parts, np.zeros(0, dtype)]).astype(dtype)


def _percent(value: float) -> float | None:
    return None if np.isnan(value) else 100 * value
