"""targets.npz: cells, offsets, heat maps, radii and Gaussians of the training targets."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from cornernet_d2.data.augmentation import ScaleCropTransform
from cornernet_d2.targets import CornerTargetGenerator, CornerTargets, gaussian_radius

from ..check import Case, Check, guarded, stats
from ..ours import dense_targets, draw
from ..reference import Arrays, Reference, case_names, strided, under
from .augment import crops, placed_boxes


def run(folder: Reference, file: str) -> Iterator[Check]:
    arrays = folder.load(file)
    for name in case_names(arrays):
        case, want = Case(file, name), under(arrays, name)
        yield from guarded(case, _case(case, want))
        yield from guarded(case, _images(case, folder, want))
    if under(arrays, "radius"):
        yield from _radii(Case(file, "radius"), under(arrays, "radius"))
    yield from crops(folder, file, arrays)
    if under(arrays, "gaussian"):
        yield from _gaussians(Case(file, "gaussian"), under(arrays, "gaussian"))


def square_placement(image_size: Sequence[int], input_size: Sequence[int]) -> ScaleCropTransform:
    """What brings an image to the official training input where it is not cropped.

    Its centre (h // 2, w // 2) comes to the centre of a square of the longer side.
    """
    height, width = image_size
    side = max(height, width)
    return ScaleCropTransform((width // 2, height // 2), (side, side), input_size)


def _settings(variant: str, case: Arrays) -> dict[str, Any]:
    """The generator's settings for a variant: "iou03", "nobump" or "radius"."""
    if variant == "nobump":
        return {"gaussian": False}
    if variant == "radius":
        return {"fixed_radius": int(case["gaussian_radius"])}
    if variant.startswith("iou"):
        return {"min_overlap": float(f"{variant[3]}.{variant[4:]}")}
    raise ValueError(f"unknown variant {variant!r}")


def _case(case: Case, want: Arrays) -> Iterator[Check]:
    variants = [key[: -len("_tl_heat_index")] for key in want if key.endswith("_tl_heat_index")]
    for number, variant in enumerate(variants):
        targets = [_targets(want, image, variant) for image in range(len(want["image_sizes"]))]
        if number == 0:
            yield from _sparse(case, targets, want)
        yield from _heatmaps(case, variant, targets, want)


def _targets(want: Arrays, image: int, variant: str) -> CornerTargets:
    boxes = want["boxes"][want["box_image"] == image]
    input_size = tuple(int(side) for side in want["input_size"])
    placement = square_placement(want["image_sizes"][image], input_size)
    num_classes = int(want[f"{variant}_tl_heat_shape"][1])
    generator = CornerTargetGenerator(num_classes, clip="last_pixel", **_settings(variant, want))
    return generator(
        torch.from_numpy(placed_boxes(placement, boxes)),
        torch.from_numpy(boxes[:, 4].astype(np.int64) - 1),  # 1-based in the reference
        input_size,
    )


def _images(case: Case, folder: Reference, want: Arrays) -> Iterator[Check]:
    """The resized input, compared with OpenCV's own rounding: at most a grey level apart."""
    images = []
    for size, seed in zip(want["image_sizes"], want["image_seeds"]):
        image = folder.recipe.make_image(int(size[0]), int(size[1]), int(seed))
        placement = square_placement(size, tuple(int(side) for side in want["input_size"]))
        images.append(placement.apply_image(image).transpose(2, 0, 1))
    got = np.stack([stats(image) for image in images])
    yield case.relative("image stats", got, want["image_stats"], 1e-5)
    sample = want["image_sub"]
    yield case.exact("image sample", strided(np.stack(images), sample.shape), sample)


def _sparse(case: Case, targets: list[CornerTargets], want: Arrays) -> Iterator[Check]:
    counts = [len(t) for t in targets]
    yield case.exact("map size", [t.map_size for t in targets], [want["output_size"]] * len(counts))
    yield case.exact("count", counts, want["count"])
    if counts != list(want["count"]):
        return
    yield case.exact("mask", counts, want["mask"].sum(axis=1))
    for corner, name in enumerate(("tl", "br")):
        cells = [want[f"{name}_ind"][i][:count] for i, count in enumerate(counts)]
        offsets = [want[f"{name}_regr"][i][:count] for i, count in enumerate(counts)]
        got = torch.cat([t.cells[:, corner] for t in targets])
        yield case.exact(f"{name} indices", got, np.concatenate(cells))
        got = torch.cat([t.offsets[:, corner] for t in targets])
        yield case.absolute(f"{name} offsets", got, np.concatenate(offsets), 1e-6)


def _heatmaps(
    case: Case, variant: str, targets: list[CornerTargets], want: Arrays
) -> Iterator[Check]:
    heat = draw(targets)
    for corner, name in enumerate(("tl", "br")):
        got, prefix = heat[:, corner], f"{variant}_{name}_heat"
        yield case.exact(f"{variant} {name} shape", got.shape, want[f"{prefix}_shape"])
        yield from check_heat(case, f"{variant} {name}", got, want, prefix)


def check_heat(
    case: Case, name: str, got: torch.Tensor, want: Arrays, prefix: str
) -> Iterator[Check]:
    """Heat maps against the cells that are not 0, and what they hold."""
    flat, index, values = got.flatten(), want[f"{prefix}_index"], want[f"{prefix}_value"]
    yield case.exact(f"{name} non-zeros", flat.nonzero()[:, 0], index)
    flat = flat[torch.from_numpy(index.astype(np.int64))]
    yield case.exact(f"{name} ones", flat == 1, values == 1)
    yield case.absolute(f"{name} values", flat, values, 1e-6)


def _radii(case: Case, want: Arrays) -> Iterator[Check]:
    for number, overlap in enumerate(want["overlaps"]):
        if "int_radius" in want:
            table = want["int_radius"][number]
            sides = [np.arange(1, size + 1) for size in table.shape]
            radius = gaussian_radius(sides[0][:, None], sides[1][None], float(overlap))
            got = np.maximum(0, radius.astype(np.int64))
            yield case.exact(f"integer radius at IoU {overlap:g}", got, table)
        if "float_radius" in want:
            sizes = want["sub_sizes"]
            got = gaussian_radius(sizes[:, None], sizes[None], float(overlap))
            wanted = want["float_radius"][number]
            yield case.absolute(f"radius at IoU {overlap:g}", got, wanted, 1e-6)


def _gaussians(case: Case, want: Arrays) -> Iterator[Check]:
    peaks = want["radius_x_y"]
    size = want["maps"].shape[1:]
    for number, wanted in enumerate(want["maps"]):
        got = _drawn(peaks[number : number + 1], size)
        yield case.exact(f"non-zeros of {number}", got != 0, wanted != 0)
        yield case.absolute(f"values of {number}", got, wanted, 1e-6)
    yield case.absolute("all in one", _drawn(peaks, size), want["all_in_one"], 1e-6)


def _drawn(peaks: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """(h, w) heat map of one class with peaks given as radius, x, y."""
    radii, x, y = torch.from_numpy(peaks.astype(np.int64)).T
    cells = (y * size[1] + x)[:, None].expand(-1, 2)
    none = torch.zeros(0, dtype=torch.int64)
    targets = CornerTargets(
        cells=cells,
        offsets=torch.zeros(len(cells), 2, 2),
        classes=torch.zeros(len(cells), dtype=torch.int64),
        radii=radii,
        ignore_cells=none.view(0, 4),
        ignore_classes=none,
        generator=CornerTargetGenerator(1, stride=1),
        canvas_size=tuple(size),
    )
    return dense_targets(targets)[0, 0]
