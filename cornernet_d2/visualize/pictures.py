"""Pictures of boxes, heat maps and corner pairs, drawn with Detectron2's Visualizer.

Letters: M objects, C classes, H, W image (pixels), h, w map (cells). Pictures are (H, W, 3) uint8
RGB; boxes are ``x0 y0 x1 y1`` in image pixels.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.structures import Boxes, Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer
from torch import Tensor

MIN_SIDE = 320  # smaller pictures are enlarged to this before drawing: labels need the room
LONGEST = 4096  # but not beyond this
_COLOURS = colormap(rgb=True, maximum=1)


def draw_boxes(
    picture: np.ndarray,
    boxes: Boxes | Tensor | np.ndarray,
    classes: Sequence[int] | Tensor,
    scores: Sequence[float] | Tensor | None = None,
    class_names: Sequence[str] | None = None,
) -> np.ndarray:
    """Draws labelled boxes, each class in a colour of its own.

    Args:
        picture: (H, W, 3).
        boxes, classes, scores: (M, 4), (M,), (M,); without scores the label is the class alone.
        class_names: names by class index; without them, the index is the label.

    Returns:
        A new picture, enlarged so that its shorter side is at least MIN_SIDE pixels.
    """
    visualizer = _visualizer(picture)
    indices = [int(index) for index in classes]
    labels = [_name(index, class_names) for index in indices]
    if scores is not None:
        labels = [f"{label} {float(score):.0%}" for label, score in zip(labels, scores)]
    colours = [_COLOURS[index % len(_COLOURS)] for index in indices]
    boxes = _array(boxes)
    # overlay_instances draws its own way when there is nothing to draw: skip it then
    if len(boxes):
        visualizer.overlay_instances(boxes=boxes, labels=labels, assigned_colors=colours)
    return visualizer.output.get_image()


def draw_instances(
    picture: np.ndarray,
    instances: Instances,
    class_names: Sequence[str] | None = None,
    min_score: float = 0.0,
) -> np.ndarray:
    """Draws predictions (``pred_boxes``, ``scores``, ``pred_classes``) or ground truth
    (``gt_boxes``, ``gt_classes``); see :func:`draw_boxes`."""
    if instances.has("gt_boxes"):
        return draw_boxes(picture, instances.gt_boxes, instances.gt_classes, None, class_names)
    kept = instances[instances.scores >= min_score]
    return draw_boxes(picture, kept.pred_boxes, kept.pred_classes, kept.scores, class_names)


def draw_heatmap(
    picture: np.ndarray,
    heatmap: Tensor | np.ndarray,
    stride: float = 4,
    origin: tuple[int, int] = (0, 0),
    opacity: float = 0.6,
    gamma: float = 1.0,
) -> np.ndarray:
    """Lays a heat map over a picture: the highest class of each cell, blue (0) to red (1).

    Args:
        picture: (H, W, 3).
        heatmap: (C, h, w) or (h, w) probabilities in [0, 1] of the canvas the network saw.
        stride: canvas pixels per cell.
        origin: (top, left) of the picture on that canvas, pixels.
        opacity: share of the colour where the heat map is 1; it falls with the heat, so that the
            picture stays visible elsewhere.
        gamma: exponent of the values; below 1 it lifts low ones, such as an untrained network's.

    Returns:
        A picture of the same size.
    """
    heat = _array(heatmap).astype(np.float32)
    heat = heat.max(0) if heat.ndim == 3 else heat
    heat = heat.clip(0, 1) ** gamma
    canvas = (round(heat.shape[1] * stride), round(heat.shape[0] * stride))
    heat = cv2.resize(heat, canvas, interpolation=cv2.INTER_LINEAR)
    (height, width), (top, left) = picture.shape[:2], origin
    heat = heat[top : top + height, left : left + width].clip(0, 1)
    missing = (height - heat.shape[0], width - heat.shape[1])  # 511 pixels on 128 cells: none
    heat = np.pad(heat, [(0, max(side, 0)) for side in missing], mode="edge")
    colours = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    weight = opacity * (0.3 + 0.7 * heat[..., None])
    return (picture * (1 - weight) + colours * weight).astype(np.uint8)


def draw_corners(
    picture: np.ndarray,
    boxes: Boxes | Tensor | np.ndarray,
    classes: Sequence[int] | Tensor,
) -> np.ndarray:
    """Draws each box as its pair of corners and the line that joins them.

    Args:
        picture: (H, W, 3).
        boxes, classes: (M, 4), (M,).

    Returns:
        A new picture, enlarged as by :func:`draw_boxes`. Top-left corners are filled circles,
        bottom-right ones filled squares.
    """
    visualizer = _visualizer(picture)
    radius = max(min(picture.shape[:2]) / 80, 1.5)
    for (x0, y0, x1, y1), index in zip(_array(boxes).tolist(), classes):
        colour = tuple(_COLOURS[int(index) % len(_COLOURS)])
        visualizer.draw_line([x0, x1], [y0, y1], colour, linestyle="--", linewidth=1)
        visualizer.draw_circle((x0, y0), colour, radius=radius)
        square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * radius + (x1, y1)
        visualizer.draw_polygon(square, colour, edge_color=colour, alpha=1)
    return visualizer.output.get_image()


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Joins pictures of any size in one row, top-aligned on white."""
    return _join(pictures, axis=1)


def grid(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Joins pictures of any size row by row."""
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    return _join([side_by_side(row) for row in rows], axis=0)


def titled(picture: np.ndarray, title: str) -> np.ndarray:
    """The picture under a strip of white with a title, which is made smaller to fit."""
    strip = np.full((22, picture.shape[1], 3), 255, np.uint8)
    (width, _), _ = cv2.getTextSize(title, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
    size = 0.5 * min(1.0, (picture.shape[1] - 6) / max(width, 1))
    cv2.putText(strip, title, (3, 16), cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate((strip, picture[..., :3]))


def _visualizer(picture: np.ndarray) -> Visualizer:
    return Visualizer(np.ascontiguousarray(picture), scale=enlargement(picture))


def enlargement(picture: np.ndarray) -> float:
    """Drawn pixels per pixel: 1, or what makes the shorter side MIN_SIDE, but the longer one no
    more than LONGEST: a strip of one row would become gigabytes."""
    short, long = sorted(picture.shape[:2])
    return max(1.0, min(MIN_SIDE / short, LONGEST / long))


def _name(index: int, class_names: Sequence[str] | None) -> str:
    return class_names[index] if class_names and index < len(class_names) else str(index)


def _array(values: Boxes | Tensor | np.ndarray) -> np.ndarray:
    values = values.tensor if isinstance(values, Boxes) else values
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _join(pictures: Sequence[np.ndarray], axis: int, gap: int = 4) -> np.ndarray:
    across = max(picture.shape[1 - axis] for picture in pictures)
    padded = []
    for picture in pictures:
        margin = [(0, 0), (0, 0), (0, 0)]
        margin[axis] = (0, gap)
        margin[1 - axis] = (0, across - picture.shape[1 - axis])
        padded.append(np.pad(picture, margin, constant_values=255))
    joined = np.concatenate(padded, axis)
    return joined[:, :-gap] if axis else joined[:-gap]
