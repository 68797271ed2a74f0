"""The report on datasets as one page of HTML, faults first."""

from collections.abc import Mapping, Sequence

import numpy as np

from ...data.reading import read_file
from ...data.validation import Problem, by_kind
from ...visualize import draw_boxes, grid, side_by_side, titled
from .. import pictures
from ..html import code, decimal, document, figure, heading, listing, paragraph, table
from .contents import Contents
from .look_alikes import LookAlikes
from .report import DatasetReport, spread

LISTED = 50  # faults of a kind, and classes
SHEET, COLUMNS, LONGEST = 12, 4, 320  # images of the contact sheet, in a row, their pixels at most
TWINS = 8  # pairs of look-alikes shown


def dataset_page(
    problems: Mapping[str, Sequence[Problem]],
    reports: Sequence[DatasetReport],
    look_alikes: LookAlikes | str,
    title: str = "Check of a dataset",
) -> str:
    """The report as HTML.

    Args:
        problems: of every dataset by its name.
        reports: on those that can be trained on.
        look_alikes: of their images, or why it was not looked for them.
        title: heading, as text.
    """
    parts = _faults(problems)
    by_name = {each.name: each for each in reports}
    for place, each in enumerate(reports):
        parts += [heading(each.name, 2)]
        parts += _advice(each) if place == 0 else []  # the others are to evaluate on
        parts += [*_classes(each), *_sizes(each)]
        parts += [*_crowding(each), *_ceilings(each), *_sheet(each)]
    parts += _twins(look_alikes, by_name)
    return document(title, parts)


def _faults(problems: Mapping[str, Sequence[Problem]]) -> list[str]:
    parts = [heading("Faults", 2)]
    for name, every in problems.items():
        for what, found in by_kind(every).items():
            if found:
                parts.append(heading(f"{name} {what}: {len(found)}"))
                parts.append(listing(found[:LISTED], "fault"))
                if len(found) > LISTED:
                    parts.append(paragraph(f"and {len(found) - LISTED} more"))
    return parts if len(parts) > 1 else [*parts, paragraph("None was found.")]


def _advice(report: DatasetReport) -> list[str]:
    parts = [heading("Advice")]
    for each in report.advice:
        parts.append(paragraph(each.text))
        if each.keys:
            parts.append(code(each.lines))
    if not report.advice:
        parts.append(paragraph("Nothing about this set asks for another setting."))
    lines = " ".join(f'{key} "{value}"' for key, value in report.recipe.items())
    parts.append(paragraph("What `cornernet train --data` would set for it on this machine:"))
    return [*parts, code(lines)]


def _classes(report: DatasetReport) -> list[str]:
    contents, objects = report.contents, report.contents.objects
    numbers = report.as_dict()
    rows = sorted(numbers["classes"].items(), key=lambda item: -item[1]["objects"])
    lines = [
        (name, x["objects"], x["share_a_corner_cell"], decimal(_percent(x))) for name, x in rows
    ]
    text = (
        f"{len(contents.sizes)} images, {len(objects.boxes)} objects of {len(rows)} classes; "
        f"{int(contents.ignored.sum())} of {len(contents.boxes)} boxes are crowds or ignored; "
        f"{numbers['images_without_objects']} images have no object."
    )
    parts = [heading("Classes"), paragraph(text)]
    heads = ("class", "objects", "share a corner's cell", "percent")
    parts.append(table(heads, lines[:LISTED]))
    if len(lines) > LISTED:
        parts.append(paragraph(f"and {len(lines) - LISTED} classes with fewer objects"))
    return parts


def _percent(counts: Mapping[str, int]) -> float:
    if not counts["objects"]:
        return float("nan")
    return 100 * counts["share_a_corner_cell"] / counts["objects"]


def _sizes(report: DatasetReport) -> list[str]:
    objects = report.contents.objects
    seen = objects.extents * report.zoom[objects.images][:, None]
    valid = (objects.extents > 0).all(axis=1)
    if not valid.any():
        return []
    sides = np.sqrt(seen[valid].prod(axis=1))
    aspects = seen[valid, 0] / seen[valid, 1]
    marks = {"stride": report.stride, "two cells": 2 * report.stride}
    return [
        heading("Sizes, as the network sees them in a test"),
        figure(
            pictures.histogram(sides, "root of an object's area, pixels", marks, log=True),
            f"Images are enlarged by {np.median(report.zoom):.3g} (median); a cell is "
            f"{report.stride} pixels wide.",
        ),
        figure(
            pictures.histogram(aspects, "width / height", {"square": 1}, log=True),
            "Shapes of the objects.",
        ),
        figure(
            pictures.histogram(report.radii, "radius of the Gaussian, cells"),
            "How far a corner may be off its cell. At a radius of 0 only the cell itself is "
            "rewarded: such objects are hard to learn.",
        ),
    ]


def _crowding(report: DatasetReport) -> list[str]:
    counts = report.contents.objects.counts
    crowded = int((counts > report.top_k).sum())
    return [
        heading("Objects in an image"),
        figure(
            pictures.histogram(counts, "objects", {"TOP_K": report.top_k}),
            f"{crowded} images have more objects than corners of a kind are kept.",
        ),
    ]


def _ceilings(report: DatasetReport) -> list[str]:
    height, width = np.median(report.contents.sizes * report.zoom[:, None], axis=0)
    rows = [
        (
            f"{zoom:g}",
            f"{height * zoom:.0f} x {width * zoom:.0f}",
            each.shared,
            each.below,
            each.crowded,
            *(decimal(100 * each.stats[m]) for m in ("AP", "AP50", "APs", "AR100")),
        )
        for zoom, each in report.ceilings.items()
    ]
    heads = ("times the size of the test", "height x width", "share a cell", "below a cell")
    heads += ("images beyond TOP_K", "AP", "AP50", "APs", "AR100")
    number = next(iter(report.ceilings.values())).images
    return [
        heading("What no training can beat"),
        paragraph(
            f"The truth of {number} images, through targets and decoding, and evaluated: what a "
            "map of cells can represent, at several sizes of the network's input."
        ),
        table(heads, rows),
    ]


def _sheet(report: DatasetReport) -> list[str]:
    drawn = []
    for number in spread(len(report.files), SHEET):
        picture = _drawn(report.files[number], report.contents, number)
        if picture is not None:
            drawn.append(picture)
    if not drawn:
        return []
    return [
        heading("Some of its images"),
        figure(pictures.photo(grid(drawn, COLUMNS)), "Spread evenly over the set, with its boxes."),
    ]


def _drawn(file: str, contents: Contents | None = None, number: int = 0) -> np.ndarray | None:
    """An image with its boxes, made small; None if it cannot be read."""
    import cv2

    try:
        picture = np.ascontiguousarray(read_file(file, "RGB"))
    except ValueError:
        return None
    shrink = min(1.0, LONGEST / max(picture.shape[:2]))
    picture = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    if contents is not None:
        start, end = np.searchsorted(contents.images, [number, number + 1])
        rows = slice(start, end)
        names = contents.class_names
        picture = draw_boxes(
            picture, contents.boxes[rows] * shrink, contents.classes[rows], None, names
        )
        smaller = min(1.0, LONGEST / max(picture.shape[:2]))
        picture = cv2.resize(picture, None, fx=smaller, fy=smaller, interpolation=cv2.INTER_AREA)
    return titled(picture, file.rpartition("/")[2])


def _twins(found: LookAlikes | str, reports: Mapping[str, DatasetReport]) -> list[str]:
    parts = [heading("Images that look alike", 2)]
    if isinstance(found, str):
        return [*parts, paragraph(found)]
    parts.append(paragraph(f"{found.looked_at} images were compared."))
    groups = [
        ("in two sets: what is learnt by heart from one counts as found in the other",
         [(reports[a].files[i], reports[b].files[j]) for a, i, b, j in found.between]),
        ("in one set",
         [(reports[name].files[i], reports[name].files[j]) for name, i, j in found.within]),
    ]  # fmt: skip
    for what, pairs in groups:
        parts.append(heading(f"{len(pairs)} pairs {what}"))
        if not pairs:
            continue
        rows = [side_by_side([x for x in map(_drawn, pair) if x is not None])
                for pair in pairs[:TWINS]]  # fmt: skip
        caption = "; ".join(f"{a} and {b}" for a, b in pairs[:TWINS])
        parts.append(figure(pictures.photo(grid(rows, 2)), caption))
    return parts
