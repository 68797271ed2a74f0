"""Everything that a report on a dataset says, as numbers.

Letters: N images, M objects, C classes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from detectron2.config import CfgNode

from ...data.recipe import measure, recipe, this_machine
from ...data.validation import Problem, by_kind
from ...heatmaps import gaussian_radius
from .advice import Advice, advise
from .ceiling import Ceiling, Rules, ceiling
from .contents import Contents

ZOOMS = (0.5, 1.0, 1.5, 2.0)  # times the size of the test, at which the ceiling is looked for
CEILING_IMAGES = 300  # for each of these

Progress = Callable[[Iterable, str], Iterable]


class DatasetReport(NamedTuple):
    """A dataset whose faults do not keep it from being trained on, and what is known of it.

    Attributes:
        name: of the dataset.
        files: N image files.
        contents: of the dataset.
        zoom: (N,) what the network's test enlarges images by.
        stride: pixels of what the network sees, per cell.
        radii: (M,) of the objects' Gaussians, cells, at the size of the test.
        shared: (M,) bool: an object's corner shares its cell at that size.
        top_k: corners kept of an image.
        ceilings: times the size of the test -> what is possible there.
        advice: for the config.
        recipe: what `cornernet train --data` would set: keys and values.
    """

    name: str
    files: list[str]
    contents: Contents
    zoom: np.ndarray
    stride: int
    radii: np.ndarray
    shared: np.ndarray
    top_k: int
    ceilings: dict[float, Ceiling]
    advice: list[Advice]
    recipe: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        contents, objects = self.contents, self.contents.objects
        number = len(contents.class_names)
        counts = np.bincount(objects.classes, minlength=number)
        shared = np.bincount(objects.classes[self.shared], minlength=number)
        return {
            "images": len(contents.sizes),
            "objects": len(objects.boxes),
            "ignored": int(contents.ignored.sum()),
            "images_without_objects": int((objects.counts == 0).sum()),
            "classes": {
                name: {"objects": int(counts[i]), "share_a_corner_cell": int(shared[i])}
                for i, name in enumerate(contents.class_names)
            },
            "object_side": percentiles(objects.sides),
            "object_side_seen": percentiles(objects.sides * self.zoom[objects.images]),
            "objects_per_image": percentiles(objects.counts),
            "radius_cells": percentiles(self.radii),
            "ceilings": {
                f"{zoom:g}": {"images": each.images, **_finite(each.stats)}
                for zoom, each in self.ceilings.items()
            },
            "advice": [{"text": each.text, "keys": each.keys} for each in self.advice],
            "recipe": self.recipe,
        }


def describe(
    name: str,
    dicts: Sequence[Mapping],
    contents: Contents,
    cfg: CfgNode,
    rules: Rules,
    progress: Progress = lambda items, what: items,
) -> DatasetReport:
    """All about a dataset without fatal faults; reads no image.

    Args:
        name, dicts, contents: of the dataset.
        cfg: what it would be trained with; rules: its own.
        progress: wraps an iterable that takes long, given what is done.
    """
    objects, stride = contents.objects, rules.generator.stride
    zoom = contents.zoom(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    cells = np.ceil(objects.extents * (zoom[objects.images] / stride)[:, None]).clip(min=1)
    overlap, formula = rules.generator.min_overlap, rules.generator.formula
    radii = np.floor(gaussian_radius(cells[:, 1], cells[:, 0], overlap, formula)).clip(min=0)
    chosen = spread(len(contents.sizes), CEILING_IMAGES)
    ceilings = {
        factor: ceiling(
            contents, rules, progress(chosen, f"{name}: ceiling x{factor:g}"), zoom * factor
        )
        for factor in ZOOMS
    }
    statistics = measure(dicts)
    return DatasetReport(
        name,
        [d.get("file_name", "") for d in dicts],
        contents,
        zoom,
        stride,
        radii,
        objects.sharing(zoom, stride),
        rules.top_k,
        ceilings,
        advise(contents, cfg, stride, statistics),
        recipe(statistics, this_machine(), rules.divisibility),
    )


def spread(number: int, most: int) -> np.ndarray:
    """At most so many of the numbers below ``number``, evenly from the first to the last."""
    return np.unique(np.linspace(0, number - 1, min(number, most)).round().astype(int))


def percentiles(values: np.ndarray) -> dict[str, float] | None:
    """Least, tenths and largest; None of nothing."""
    if not len(values):
        return None
    keys = ("least", "p10", "median", "p90", "most")
    return dict(zip(keys, map(float, np.percentile(values, [0, 10, 50, 90, 100]))))


def problems_dict(problems: Sequence[Problem]) -> dict[str, list[str]]:
    """For JSON: those that stop a training, and the others."""
    return {
        kind.replace(",", "").replace(" ", "_"): found for kind, found in by_kind(problems).items()
    }


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """JSON knows no NaN."""
    return {k: None if v != v else float(v) for k, v in values.items()}
