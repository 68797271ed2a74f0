"""Pictures of a report: curves, bars and photos, as data that HTML can hold."""

import base64
import io
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from .matching import RECALLS, Curve
from .pairing_view import CrowdedImage


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


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], unit: str) -> str:
    """Named lines of (x, y); a data URI of a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.8), layout="constrained")
    axes = figure.subplots()
    for name, points in lines.items():
        marker = "." if len(points) < 30 else ""
        axes.plot(*zip(*points), marker=marker, linewidth=1, label=name)
    axes.set(xlabel="iteration", ylabel=unit)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return _figure_uri(figure)


def calibration(rows: Sequence[tuple[float, float, int]]) -> str:
    """How often detections of a score are right; a data URI of a PNG.

    Args:
        rows: (mean score, share that is right, detections), as of :meth:`.Summary.calibration`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color="#999999", linestyle="--", label="score = share")
    if rows:
        scores, shares, numbers = zip(*rows)
        axes.plot(scores, shares, marker="o", color="#4878a8", label="this model")
        for score, share, number in rows:
            axes.annotate(str(number), (score, share), (4, -10), textcoords="offset points", size=7)
    axes.set(xlabel="score", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend()
    axes.grid(alpha=0.3)
    return _figure_uri(figure)


def scatter(crowded: CrowdedImage, class_names: Sequence[str], limit: float) -> str:
    """An image's objects by the pairing's output at their two corners; a data URI of a PNG.

    Args:
        limit: how far apart the two may be; drawn of outputs with one channel.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    tl, br = crowded.values
    for index in np.unique(crowded.classes):
        mine = crowded.classes == index
        colour = f"C{int(index) % 10}"
        if tl.shape[1] == 1:
            axes.scatter(tl[mine, 0], br[mine, 0], s=24, color=colour, label=class_names[index])
        else:
            axes.scatter(*tl[mine, :2].T, s=24, color=colour, label=class_names[index])
            axes.scatter(*br[mine, :2].T, s=24, color=colour, marker="s")
            for a, b in zip(tl[mine], br[mine]):
                axes.plot(*zip(a[:2], b[:2]), color=colour, linewidth=0.6)
    if tl.shape[1] == 1:
        low, high = float(crowded.values.min()), float(crowded.values.max())
        for shift in (-limit, limit):
            ends = (low, high)
            axes.plot(ends, [x + shift for x in ends], color="#999999", linestyle="--", linewidth=1)
        axes.set(xlabel="at the top-left corner", ylabel="at the bottom-right corner")
    else:
        axes.set(xlabel="first channel", ylabel="second channel")
    axes.legend(fontsize=8)
    return _figure_uri(figure)


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
