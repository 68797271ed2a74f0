"""One picture of what a training or a validation image looks like to the model.

Letters: M objects, C classes, H, W image (pixels), h, w map (cells). Corner 0 is top-left.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from detectron2.structures import Instances
from torch import Tensor

from .pictures import draw_heatmap, draw_instances, enlargement, grid, titled
from .visualizer import CornerNetVisualizer

GAMMA = 0.5  # of heat maps: a score of 0.04 looks like 0.2
WRONG = (0.85, 0.1, 0.85)  # the colour of pairs of two objects
MOST_WRONG = 20  # of them drawn, those of the least distance
POINTS = ("top-left corners", "bottom-right corners", "centres")


class TrainingView(NamedTuple):
    """What :func:`training_picture` shows.

    Attributes:
        picture: (H, W, 3) uint8 RGB.
        truth: gt_boxes, gt_classes, in image pixels.
        detections: pred_boxes, scores, pred_classes, best first.
        heatmaps: (Q, C, h, w) predicted probabilities of corners and, where Q is 3, centres.
        targets: (Q, C, h, w) what they are to be.
        boxes, classes: (M, 4), (M,): the objects that there are targets of.
        distances: (M, M), how far the pairing holds the top-left corner of one object (row) from
            the bottom-right one of another (column); None: it does not say.
        limit: the distance up to which the pairing accepts.
        stride, origin: see :func:`.pictures.draw_heatmap`.
    """

    picture: np.ndarray
    truth: Instances
    detections: Instances
    heatmaps: Tensor
    targets: Tensor
    boxes: np.ndarray
    classes: np.ndarray
    distances: np.ndarray | None = None
    limit: float | None = None
    stride: float = 4
    origin: tuple[int, int] = (0, 0)


def training_picture(
    view: TrainingView, class_names: Sequence[str] | None = None, max_boxes: int = 20
) -> np.ndarray:
    """Titled panels: truth, detections, pairs; heat maps beside their targets.

    Args:
        class_names: names by class index.
        max_boxes: detections drawn.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    best = view.detections[:max_boxes]
    panels = [
        ("ground truth", draw_instances(view.picture, view.truth, class_names)),
        (f"detections, best {len(best)}", draw_instances(view.picture, best, class_names)),
        _pairs(view, best),
    ]
    rows = [panels]
    for name, predicted, wanted in zip(POINTS, view.heatmaps, view.targets):
        both = ((f"{name}, predicted", predicted), (f"{name}, target", wanted))
        rows.append(
            [(f"{title}: {_peak(heat, class_names)}", _heat(view, heat)) for title, heat in both]
        )
    height, width = panels[0][1].shape[:2]
    if view.distances is not None:
        own = np.eye(len(view.distances), dtype=bool)
        values = (view.distances[chosen] for chosen in (own, ~own))
        histogram = distance_histogram(*values, view.limit, (width, height))
        rows[1].append(("distance of corners", histogram))
    pictures = [[titled(picture, title) for title, picture in row] for row in rows]
    return grid([_padded(row, 3, pictures[0][0].shape) for row in pictures], columns=1)


def pair_kinds(view: TrainingView) -> dict[str, np.ndarray]:
    """Pairs of objects' true corners, (., 2) numbers of the objects that the corners are of.

    "matched": both of one object, and accepted; "missed": rejected; "mismatched": of two objects
    of a class, where they make a box and are accepted, closest first.
    """
    assert view.distances is not None
    accepted = view.distances <= view.limit  # False where NaN
    own = np.eye(len(view.boxes), dtype=bool)
    corners = view.boxes.reshape(-1, 2, 2)
    is_box = (corners[None, :, 1] > corners[:, None, 0]).all(-1)
    alike = view.classes[:, None] == view.classes
    wrong = np.argwhere(accepted & ~own & alike & is_box)
    order = np.argsort(view.distances[wrong[:, 0], wrong[:, 1]], kind="stable")
    return {
        "matched": np.argwhere(accepted & own),
        "missed": np.argwhere(~accepted & own),
        "mismatched": wrong[order],
    }


def distance_histogram(
    within: np.ndarray,
    between: np.ndarray,
    limit: float | None,
    size: tuple[int, int] = (480, 320),
) -> np.ndarray:
    """Distances within objects and between them, as shares of all, with a line at the limit.

    Args:
        within, between: of any number; NaN is left out.
        size: (width, height) of the picture, pixels.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    highest = np.nanmax(np.concatenate((within, between)), initial=0)
    end = 4 * limit if limit else max(1.0, float(highest))
    width, height = (max(side, 160) for side in size)
    axes, canvas = _axes(width, height)
    for name, values, colour in (
        ("within objects", within, "#2a9d4a"),
        ("between objects", between, "#c0392b"),
    ):
        values = values[np.isfinite(values)].clip(0, end)
        if len(values):
            share = np.full(len(values), 1 / len(values))
            label = f"{name} ({len(values)})"
            bars = {"bins": 32, "range": (0, end), "weights": share, "alpha": 0.6}
            axes.hist(values, **bars, color=colour, label=label)
    if limit:
        axes.axvline(limit, color="black", linestyle="--", linewidth=1, label="accepted up to")
    axes.set_xlabel(f"distance ({end:.2g} and more in the last bar)")
    axes.legend(fontsize=8)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _axes(width: int, height: int) -> tuple["Axes", "FigureCanvasAgg"]:  # noqa: F821
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 100, height / 100), dpi=100, layout="constrained")
    return figure.subplots(), FigureCanvasAgg(figure)


def _pairs(view: TrainingView, best: Instances) -> tuple[str, np.ndarray]:
    """Title and picture of which true corners the pairing puts together."""
    visualizer = CornerNetVisualizer(view.picture)
    if view.distances is None:
        return "pairs of the detections", visualizer.draw_pairs(best).get_image()
    kinds = pair_kinds(view)
    start, end = view.boxes[:, :2], view.boxes[:, 2:]
    for i, j in kinds["mismatched"][:MOST_WRONG]:
        visualizer.draw_line(*zip(start[i], end[j]), WRONG, linestyle="--", linewidth=1)
    for kind, style in (("missed", ":"), ("matched", "-")):
        for i, j in kinds[kind]:
            share = float(np.nan_to_num(view.distances[i, j] / view.limit, nan=1.0).clip(0, 1))
            colour = (share, 0.8 * (1 - share), 0.1)
            visualizer.draw_line(*zip(start[i], end[j]), colour, linestyle=style, linewidth=1.2)
    counts = ", ".join(f"{len(rows)} {kind}" for kind, rows in kinds.items())
    return f"true corners: {counts}", visualizer.get_output().get_image()


def _heat(view: TrainingView, heat: Tensor) -> np.ndarray:
    drawn = draw_heatmap(view.picture, heat, view.stride, view.origin, gamma=GAMMA)
    scale = enlargement(drawn)
    return cv2.resize(drawn, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)


def _peak(heat: Tensor, class_names: Sequence[str] | None) -> str:
    """The highest value, and of which class."""
    per_class = heat.flatten(1).amax(1)
    index = int(per_class.argmax())
    name = class_names[index] if class_names and index < len(class_names) else f"class {index}"
    return f"{name} up to {float(per_class[index]):.2f}"


def _padded(row: Sequence[np.ndarray], number: int, shape: tuple[int, ...]) -> np.ndarray:
    blank = np.full(shape, 255, np.uint8)
    return grid([*row, *[blank] * (number - len(row))], columns=number)
