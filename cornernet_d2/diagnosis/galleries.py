"""Pictures of errors: whole images, and examples of each cause with the heat maps around it."""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from detectron2.structures import Boxes, Instances

from ..data.reading import read_file
from ..visualize import CornerNetVisualizer, draw_heatmap, side_by_side, titled
from .causes import FALSE, MISSED, ImageDiagnosis
from .heat import GAMMA, at_pixels
from .summary import Summary

LONGEST = 640  # images are made at most so long, pixels
EXAMPLES = 3  # of a cause
AROUND = 1.0  # times the box, what is shown on each side of it
LEAST = 64  # pixels on each side, at least
WIDTH = 320  # of each panel of an example, pixels
GOOD, LOST, WRONG = (0.2, 0.8, 0.3), (0.95, 0.2, 0.2), (1.0, 0.65, 0.1)
Window = tuple[int, int, int, int]  # x0, y0, x1, y1, pixels


def draw_errors(
    picture: np.ndarray,
    image: ImageDiagnosis,
    false: np.ndarray,
    class_names: Sequence[str],
    window: Window | None = None,
) -> np.ndarray:
    """An image, or a window of it, with its objects and errors; (H, W, 3) uint8 RGB.

    Objects that were found are green, missed ones red with their cause; false detections orange
    with theirs. Dashed lines join the corners of detections.

    Args:
        picture: the image's, (., ., 3) uint8 RGB.
        false: D bool, the false detections to be drawn.
    """
    picture, origin, zoom = _shown(picture, window)
    visualizer = CornerNetVisualizer(picture, scale=1.0 if window else None)
    truth, found = image.truth, image.found
    objects, boxes = ((x - np.tile(origin, 2)) * zoom for x in (truth.boxes, found.boxes))
    size = picture.shape[1::-1]
    inside, near = (_touches(x, size) for x in (objects, boxes))
    was_found = (image.matches.objects >= 0) & ~truth.ignored & inside
    visualizer.draw_boxes(objects[was_found], colours=[GOOD] * int(was_found.sum()))
    right = (image.matches.detections >= 0) & ~image.matches.ignored
    pairs = Instances(picture.shape[:2])
    pairs.pred_boxes = Boxes(boxes[(false | right) & near])
    pairs.pred_classes = found.classes[(false | right) & near]
    visualizer.draw_pairs(pairs)
    missed = [i for i, cause in enumerate(image.missed) if cause and inside[i]]
    labels = [f"{class_names[truth.classes[i]]}: {image.missed[i]}" for i in missed]
    visualizer.draw_boxes(objects[missed], labels, [LOST] * len(missed))
    wrong = np.flatnonzero(false & near)
    labels = [
        f"{class_names[found.classes[i]]} {found.scores[i]:.2f}: {image.false[i]}" for i in wrong
    ]
    visualizer.draw_boxes(boxes[wrong], labels, [WRONG] * len(wrong))
    return visualizer.get_output().get_image()


def examples(summary: Summary) -> Iterator[tuple[str, np.ndarray, str]]:
    """For each cause up to :data:`EXAMPLES` times cause, picture and caption.

    Missed objects are taken evenly from all, false detections by their score. A picture shows the
    surroundings, and both heat maps there, if the diagnosis holds them.

    Raises:
        ValueError: an image cannot be read.
    """
    places: dict[str, list[tuple[float, int, int]]] = {}
    for number, image in enumerate(summary.images):
        for index, cause in enumerate(image.missed):
            if cause in MISSED:
                places.setdefault(cause, []).append((0.0, number, index))
        for index, cause in enumerate(image.false):
            if cause:
                places.setdefault(cause, []).append((-image.found.scores[index], number, index))
    for cause in (*MISSED, *FALSE):
        every = sorted(places.get(cause, ()))
        step = max(1, len(every) // EXAMPLES) if cause in MISSED else 1
        for _, number, index in every[::step][:EXAMPLES]:
            yield cause, *_example(summary, number, index, cause)


def _example(summary: Summary, number: int, index: int, cause: str) -> tuple[np.ndarray, str]:
    image = summary.images[number]
    boxes = image.truth if cause in MISSED else image.found
    box, name = boxes.boxes[index], summary.class_names[boxes.classes[index]]
    picture = read_file(image.name, "RGB")
    window = _window(picture.shape[:2], box)
    false = np.zeros(len(image.false), dtype=bool)
    if cause in FALSE:
        false[index] = True
    panels = [titled(draw_errors(picture, image, false, summary.class_names, window), name)]
    if image.heat is not None:
        for title, heat in zip(("top-left corners", "bottom-right corners"), image.heat):
            at = at_pixels(heat, picture.shape[:2])
            drawn = draw_heatmap(picture, at, stride=1, gamma=GAMMA)
            panels.append(titled(_shown(drawn, window)[0], title))
    score = f", score {image.found.scores[index]:.2f}" if cause in FALSE else ""
    return side_by_side(panels), f"{image.name}: {name}{score}"


def _window(size: tuple[int, int], box: np.ndarray) -> Window:
    """Around a box, within an image of (height, width)."""
    height, width = size
    margin = np.maximum(AROUND * (box[2:] - box[:2]), LEAST)
    x0, y0 = np.floor((box[:2] - margin).clip(0, [width - 2, height - 2])).astype(int)
    x1, y1 = np.ceil(np.minimum(box[2:] + margin, [width, height])).astype(int)
    return int(x0), int(y0), max(int(x1), int(x0) + 2), max(int(y1), int(y0) + 2)


def _shown(picture: np.ndarray, window: Window | None) -> tuple[np.ndarray, np.ndarray, float]:
    """A window of a picture, WIDTH wide, or all of it, small; its x0, y0, and the zoom."""
    origin = np.zeros(2)
    if window is None:
        zoom = min(1.0, LONGEST / max(picture.shape[:2]))
    else:
        x0, y0, x1, y1 = window
        picture, origin, zoom = picture[y0:y1, x0:x1], np.array([x0, y0]), WIDTH / (x1 - x0)
    method = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    picture = np.ascontiguousarray(picture)
    return cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=method), origin, zoom


def _touches(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Whether boxes (M, 4) reach into a picture of (width, height)."""
    return ((boxes[:, :2] < size) & (boxes[:, 2:] > 0)).all(axis=1)
