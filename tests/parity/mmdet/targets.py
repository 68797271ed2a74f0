"""targets.npz: cells, offsets, heat maps and radii of the training targets."""

from collections.abc import Iterator

import numpy as np
import torch

from cornernet_d2.targets import CornerTargets, gaussian_radius

from ..check import Case, Check, guarded
from ..ours import draw, small_model
from ..reference import MMDET, Arrays, Reference, case_names, under

RADIUS_OVERLAP = 0.3  # fixed in MMDetection's code


def run(folder: Reference, file: str) -> Iterator[Check]:
    arrays = folder.load(file)
    if "radius" in arrays:
        sides = [np.arange(1, size + 1) for size in arrays["radius"].shape]
        radius = gaussian_radius(sides[0][:, None], sides[1][None], RADIUS_OVERLAP)
        got = np.maximum(0, radius.astype(np.int64))
        yield Case(file, "radius").exact("integer radius", got, arrays["radius"])
    for name in case_names(arrays):
        case, want = Case(file, name), under(arrays, name)
        yield from guarded(case, _case(case, want))


def _case(case: Case, want: Arrays) -> Iterator[Check]:
    images = [want["box_image"] == index for index in range(int(want["images"]))]
    boxes = [want["boxes"][mine] for mine in images]
    labels = [want["labels"][mine] for mine in images]
    targets = make_targets(boxes, labels, want["canvas"], int(want["classes"]))
    yield case.exact("map size", targets[0].map_size, want["map"])
    got = torch.cat([t.cells for t in targets])
    yield case.exact("cells", got, want["cells"])
    yield from check_heatmaps(case, targets, want)
    for corner, name in enumerate(("tl", "br")):
        cell, offset = _offset_map(targets, corner)
        yield case.exact(f"{name} cells with an offset", cell, want[f"{name}_off_cell"])
        yield case.absolute(f"{name} offsets", offset, want[f"{name}_off"], 1e-4)


def make_targets(
    boxes: list[np.ndarray], labels: list[np.ndarray], canvas: np.ndarray, num_classes: int
) -> list[CornerTargets]:
    """Targets of each image, as a model of the preset makes them."""
    model = small_model(MMDET, {"MODEL.CORNERNET.NUM_CLASSES": num_classes})
    size = tuple(int(side) for side in canvas)
    return [
        model.target_generator(torch.from_numpy(b), torch.from_numpy(c), size)
        for b, c in zip(boxes, labels)
    ]


def check_heatmaps(case: Case, targets: list[CornerTargets], want: Arrays) -> Iterator[Check]:
    """Compare the heat maps of all images with their entries above 0."""
    heat = draw(targets)
    for corner, name in enumerate(("tl", "br")):
        got, prefix = heat[:, corner].flatten(), f"{name}_heat"
        yield case.exact(f"{name} shape", heat[:, corner].shape, want[f"{prefix}_shape"])
        index, values = got.nonzero()[:, 0], want[f"{prefix}_value"]
        yield case.exact(f"{name} non-zeros", index, want[f"{prefix}_index"])
        if len(index) == len(values):
            yield case.exact(f"{name} ones", got[index] == 1, values == 1)
            yield case.absolute(f"{name} values", got[index], values, 1e-6)


def _offset_map(targets: list[CornerTargets], corner: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells (flat over n, h, w, ascending) that have an offset, and that of the last object."""
    found = {}
    for image, t in enumerate(targets):
        size = t.map_size[0] * t.map_size[1]
        for cell, offset in zip(t.cells[:, corner].tolist(), t.offsets[:, corner].tolist()):
            found[image * size + cell] = offset
    cells = np.array(sorted(found), dtype=np.int64)
    return cells, np.array([found[cell] for cell in cells], dtype=np.float32).reshape(-1, 2)
