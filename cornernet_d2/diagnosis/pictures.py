"""Pictures of a report: curves, bars and images with their errors, as data that HTML can hold."""

import base64
import io
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from detectron2.structures import Boxes, Instances

from ..data.reading import read_file
from ..visualize import CornerNetVisualizer
from .causes import ImageDiagnosis
from .matching import RECALLS, Curve

LONGEST = 640  # images of a gallery are made at most so long, pixels
FOUND, MISSED, FALSE = (0.2, 0.8, 0.3), (0.95, 0.2, 0.2), (1.0, 0.65, 0.1)


def bars(values: Mapping[str, float], unit: str) -> str:
    """Horizontal bars with names and numbers; a data URI of a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.5 + 0.3 * len(values)), layout="constrained")
    axes = figure.subplots()
    places = axes.barh(range(len(values)), list(values.values()), color="#4878a8")
    axes.bar_label(places, fmt="%.3g", padding=3)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.margins(x=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    return _figure_uri(figure)


def precision_recall(curves: Sequence[Curve | None], class_names: Sequence[str]) -> str:
    """Precision over recall, a line a class and their mean in black; a data URI of a PNG.

    More than ten classes are thin lines without names.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    named = sum(each is not None for each in curves) <= 10
    lines = []
    for each, name in zip(curves, class_names):
        if each is not None:
            best = np.maximum.accumulate(each.precision[::-1])[::-1]
            place = np.searchsorted(each.recall, RECALLS, side="left")
            lines.append(np.append(best, 0.0)[place])
            style = {"label": name} if named else {"color": "#999999", "linewidth": 0.5}
            axes.plot(RECALLS, lines[-1], **style)
    if lines:
        axes.plot(RECALLS, np.mean(lines, axis=0), color="black", linewidth=2, label="mean")
        axes.legend()
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    return _figure_uri(figure)


def settings(table: Mapping[str, Mapping[float, float]], used: Mapping[str, float]) -> str:
    """AP50 over each setting, the value in use as a disc; a data URI of a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.4 * len(table) + 0.6, 2.8), layout="constrained")
    every = figure.subplots(1, len(table), sharey=True, squeeze=False)[0]
    for axes, (key, values) in zip(every, table.items()):
        heights = [100 * value for value in values.values()]
        axes.plot(range(len(values)), heights, marker=".", color="#4878a8")
        place = list(values).index(used[key])
        axes.plot(place, heights[place], marker="o", markersize=9, color="#c04040")
        axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        axes.set_xlabel(key)
        axes.grid(alpha=0.3)
    every[0].set_ylabel("AP50")
    return _figure_uri(figure)


def errors(image: ImageDiagnosis, false: np.ndarray, class_names: Sequence[str]) -> str:
    """An image with its objects and errors, as a data URI of a JPEG.

    Objects that were found are green, missed ones red with their cause; false detections orange
    with theirs. Dashed lines join the corners of detections.

    Args:
        false: D bool, the false detections to be drawn.

    Raises:
        ValueError: the file cannot be read.
    """
    picture = np.ascontiguousarray(read_file(image.name, "RGB"))
    shrink = min(1.0, LONGEST / max(picture.shape[:2]))
    if shrink < 1:
        picture = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    visualizer = CornerNetVisualizer(picture)
    truth, found = image.truth, image.found
    was_found = (image.matches.objects >= 0) & ~truth.ignored
    visualizer.draw_boxes(truth.boxes[was_found] * shrink, colours=[FOUND] * int(was_found.sum()))
    shown = false | ((image.matches.detections >= 0) & ~image.matches.ignored)
    pairs = Instances(picture.shape[:2])
    pairs.pred_boxes = Boxes(found.boxes[shown] * shrink)
    pairs.pred_classes = found.classes[shown]
    visualizer.draw_pairs(pairs)
    names = [class_names[index] for index in truth.classes]
    missed = [i for i, cause in enumerate(image.missed) if cause]
    visualizer.draw_boxes(
        truth.boxes[missed] * shrink,
        [f"{names[i]}: {image.missed[i]}" for i in missed],
        [MISSED] * len(missed),
    )
    wrong = np.flatnonzero(false)
    visualizer.draw_boxes(
        found.boxes[wrong] * shrink,
        [f"{class_names[found.classes[i]]} {found.scores[i]:.2f}: {image.false[i]}" for i in wrong],
        [FALSE] * len(wrong),
    )
    return photo(visualizer.get_output().get_image())


def histogram(
    values: np.ndarray, unit: str, lines: Mapping[str, float] = {}, *, log: bool = False
) -> str:
    """How often values occur, with named vertical lines; a data URI of a PNG.

    Args:
        values: finite; with ``log`` above 0.
        unit: label of the axis.
        lines: name -> where.
        log: bars of equal ratios rather than differences.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), layout="constrained")
    axes = figure.subplots()
    low, high = (float(f(values)) if len(values) else 1.0 for f in (np.min, np.max))
    if log:
        axes.set_xscale("log")
        edges = np.geomspace(low, max(high, low * 1.01), 41)
    elif len(values) and high - low < 40 and np.array_equal(values, np.round(values)):
        edges = np.arange(low - 0.5, high + 1)  # a bar a whole number
    else:
        edges = np.linspace(low, max(high, low + 1e-6), 41)
    axes.hist(values, bins=edges, color="#4878a8")
    for (name, place), colour in zip(lines.items(), ("#c04040", "#2a9d4a", "#8e44ad", "#e08000")):
        axes.axvline(place, color=colour, linestyle="--", linewidth=1.5, label=f"{name} {place:g}")
    if lines:
        axes.legend(fontsize=8)
    axes.set(xlabel=unit, ylabel="number")
    axes.spines[["top", "right"]].set_visible(False)
    return _figure_uri(figure)


def photo(picture: np.ndarray) -> str:
    """An (H, W, 3) uint8 RGB picture as a data URI of a JPEG."""
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return _uri(data.tobytes(), "jpeg")


def _figure_uri(figure: "matplotlib.figure.Figure") -> str:  # noqa: F821
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=100)
    return _uri(data.getvalue(), "png")


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
