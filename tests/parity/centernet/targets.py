"""targets.npz: cells, offsets, heat maps and radii, of centres too."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from cornernet_d2.targets import CornerTargetGenerator, CornerTargets, gaussian_radius

from ..check import Case, Check, guarded
from ..official.augment import placed_boxes
from ..official.targets import check_heat, square_placement
from ..ours import draw, small_model
from ..reference import CENTERNET, Arrays, Reference, each_case, under

POINTS = ("tl", "br", "ct")
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "iou03": {"MODEL.CORNERNET.TARGETS.MIN_OVERLAP": 0.3},
    "nobump": {"MODEL.CORNERNET.TARGETS.GAUSSIAN": False},
}


def run(folder: Reference, file: str) -> Iterator[Check]:
    yield from each_case(folder, file, _case)
    arrays = folder.load(file)
    if want := under(arrays, "radius"):
        case = Case(file, "radius")
        yield from guarded(case, _radii(case, want))
    if want := under(arrays, "gaussian"):
        case = Case(file, "gaussian")
        yield from guarded(case, _gaussians(case, want))


def _case(case: Case, want: Arrays) -> Iterator[Check]:
    for number, (variant, settings) in enumerate(VARIANTS.items()):
        if f"{variant}_tl_heat_index" not in want:
            continue
        classes = {"MODEL.CORNERNET.NUM_CLASSES": int(want[f"{variant}_tl_heat_shape"][1])}
        generator = small_model(CENTERNET, {**classes, **settings}).target_generator
        images = range(len(want["image_sizes"]))
        targets = [_targets(generator, want, image) for image in images]
        if number == 0:
            yield from _sparse(case, targets, want)
        heat = draw(targets)
        for i, point in enumerate(POINTS):
            prefix = f"{variant}_{point}_heat"
            yield case.exact(f"{variant} {point} shape", heat[:, i].shape, want[f"{prefix}_shape"])
            yield from check_heat(case, f"{variant} {point}", heat[:, i], want, prefix)


def _targets(generator: CornerTargetGenerator, want: Arrays, image: int) -> CornerTargets:
    boxes = want["boxes"][want["box_image"] == image]
    size = tuple(int(side) for side in want["input_size"])
    placement = square_placement(want["image_sizes"][image], size)
    classes = torch.from_numpy(boxes[:, 4].astype(np.int64) - 1)  # 1-based in the reference
    return generator(torch.from_numpy(placed_boxes(placement, boxes)), classes, size)


def _sparse(case: Case, targets: list[CornerTargets], want: Arrays) -> Iterator[Check]:
    counts = [len(t) for t in targets]
    yield case.exact("map size", [t.map_size for t in targets], [want["output_size"]] * len(counts))
    yield case.exact("count", counts, want["count"])
    yield case.exact("mask", counts, want["mask"].sum(axis=1))
    for i, point in enumerate(POINTS):
        for image, count in enumerate(counts):
            cells, offsets = (want[f"{point}_{name}"][image][:count] for name in ("ind", "regr"))
            yield case.exact(f"{point} indices", targets[image].cells[:, i], cells)
            yield case.absolute(f"{point} offsets", targets[image].offsets[:, i], offsets, 1e-6)


def _radii(case: Case, want: Arrays) -> Iterator[Check]:
    for overlap, table in zip(want["overlaps"], want["int_radius"]):
        sides = [np.arange(1, size + 1) for size in table.shape]
        radius = gaussian_radius(sides[0][:, None], sides[1][None], float(overlap), "eccv18")
        got = np.maximum(0, radius.astype(np.int64))
        yield case.exact(f"integer radius at IoU {overlap:g}", got, table)


def _gaussians(case: Case, want: Arrays) -> Iterator[Check]:
    peaks, maps = want["radius_x_y"], want["maps_delta5"]
    for number, wanted in enumerate(maps):
        got = _center_map(peaks[number], maps.shape[1:])
        yield case.exact(f"non-zeros of {number}", got != 0, wanted != 0)
        yield case.absolute(f"values of {number}", got, wanted, 1e-6)


def _center_map(peak: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """(h, w) heat map of a centre given as radius, x, y."""
    radius, x, y = (int(value) for value in peak)
    none = torch.zeros(0, dtype=torch.int64)
    targets = CornerTargets(
        cells=torch.full((1, 3), y * size[1] + x),
        offsets=torch.zeros(1, 3, 2),
        classes=torch.zeros(1, dtype=torch.int64),
        radii=torch.tensor([radius]),
        ignore_cells=none.view(0, 4),
        ignore_classes=none,
        generator=CornerTargetGenerator(1, stride=1, center=True),
        canvas_size=tuple(size),
    )
    return draw([targets])[0, 2, 0]
