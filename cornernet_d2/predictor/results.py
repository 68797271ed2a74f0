"""Detections as files: COCO results, a table, drawn pictures, crops."""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.structures import Instances

from ..checkpoint import whole_file

# What OpenCV may not be able to write becomes a PNG.
_WRITTEN = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def class_indices(wanted: Iterable[str], names: Sequence[str] | None) -> list[int]:
    """Indices of classes by name.

    Raises:
        ValueError: there is no class of that name, or the names are not known.
    """
    if names is None:
        raise ValueError("the model's file names no classes, so that none can be chosen")
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ValueError(f"no class is called {', '.join(unknown)}; there are {', '.join(names)}")
    return [names.index(name) for name in wanted]


def class_thresholds(path: Path, names: Sequence[str] | None, default: float) -> list[float]:
    """The score of best F1 of each class, from what `cornernet analyze --json` wrote.

    Args:
        path: of its file; of several datasets the first counts.
        names: the model's classes.
        default: for classes that the dataset has no object of.

    Raises:
        ValueError: it is no such file, or of other classes.
    """
    try:
        report = next(iter(json.loads(path.read_text()).values()))
        best = {name: float(x["best_threshold"]) for name, x in report["classes"].items()}
    except (OSError, ValueError, AttributeError, LookupError, TypeError, StopIteration) as error:
        raise ValueError(
            f"{path} is no report of `cornernet analyze MODEL --json {path}`: {error!r}"
        ) from error
    if class_indices(best, names):  # raises for a class of another model
        return [best.get(name, default) for name in names or ()]
    raise ValueError(f"{path} has no class with objects")


def select(
    instances: Instances,
    min_score: float | Sequence[float],
    classes: Sequence[int] | None = None,
) -> tuple[Instances, str]:
    """Detections of these classes with this score, and where there are none a line that says why.

    Args:
        instances: on the CPU.
        min_score: in [0, 1], or one for each class.
        classes: indices; None: all.
    """
    per_class = not isinstance(min_score, (int, float))
    if classes is not None:
        known = instances.pred_classes.tolist()
        instances = instances[np.isin(known, list(classes)).nonzero()[0].tolist()]
    least = torch.tensor(min_score)[instances.pred_classes] if per_class else min_score
    kept = instances[instances.scores >= least]
    if len(kept):
        return kept, ""
    if not len(instances):
        return kept, "nothing was found at any score"
    best = float(instances.scores.max())
    if per_class:
        return kept, f"best score {best:.2f} is below the threshold of its class"
    return kept, f"best score {best:.2f} is below the threshold {min_score:.2f}"


def coco_rows(instances: Instances, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """What COCO's result format says of each detection, and the name of its class.

    Boxes are x, y, width, height in image pixels; ``category_id`` is the class index from 0;
    ``track_id`` stands beside them where there are ``track_ids``.
    """
    corners = instances.pred_boxes.tensor.double().round(decimals=3)  # all at once: 100 take long
    sides = (corners[:, 2:] - corners[:, :2]).round(decimals=3)
    boxes = torch.cat((corners[:, :2], sides), 1).tolist()
    scores = instances.scores.double().round(decimals=6).tolist()
    rows = [
        {
            "category_id": index,
            "category_name": names[index] if names else str(index),
            "bbox": box,
            "score": score,
        }
        for box, score, index in zip(boxes, scores, instances.pred_classes.tolist())
    ]
    if instances.has("track_ids"):
        for row, number in zip(rows, instances.track_ids.tolist()):
            row["track_id"] = number
    return rows


class Results:
    """Detections of many images as rows, in COCO's result format and as a table.

    ``image_id`` counts the images, or the frames of a video, from 1 in the order that they were
    given, ``category_id`` is the class index from 0; file and class names stand beside them. Boxes
    are x, y, width, height in image pixels.

    Attributes:
        images: how many were added.
    """

    def __init__(self, names: Sequence[str] | None) -> None:
        self.names, self.images = names, 0
        self.rows: list[dict[str, Any]] = []

    def add(self, image_id: int, file_name: str, instances: Instances) -> None:
        self.images = max(self.images, image_id)
        place = {"image_id": image_id, "file_name": file_name}
        self.rows += [place | row for row in coco_rows(instances, self.names)]

    def write_json(self, path: Path) -> None:
        with whole_file(str(path)) as f:
            f.write(json.dumps(self.rows, indent=1).encode())

    def write_csv(self, path: Path) -> None:
        """One detection a line, with a head; Raises OSError as :meth:`write_json` does."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        head = ["image_id", "file_name", "category_id", "category_name"]
        tail = ["score", "track_id"] if any("track_id" in row for row in self.rows) else ["score"]
        writer.writerow([*head, "x", "y", "width", "height", *tail])
        for row in self.rows:
            writer.writerow([*(row[k] for k in head), *row["bbox"], *(row[k] for k in tail)])
        with whole_file(str(path)) as f:
            f.write(text.getvalue().encode())


def written_name(name: str) -> str:
    """The file name under which the drawn picture of an image is written."""
    path = Path(name)
    return name if path.suffix.lower() in _WRITTEN else f"{path.stem}.png"


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write (H, W, 3) uint8 BGR, whole or not at all.

    Raises:
        ValueError: the picture cannot be written in the format of this name.
        OSError: the disk is full, or the folder cannot be written to.
    """
    try:
        done, data = cv2.imencode(path.suffix, picture)
    except cv2.error:
        done = False
    if not done:
        raise ValueError(f"{path} cannot be written as {path.suffix}")
    with whole_file(str(path)) as f:
        f.write(data.tobytes())


def write_crops(
    folder: Path,
    name: str,
    picture: np.ndarray,
    instances: Instances,
    names: Sequence[str] | None,
) -> int:
    """Write what is inside each box to FOLDER/CLASS/NAME_NUMBER.png; returns how many."""
    height, width = picture.shape[:2]
    boxes = instances.pred_boxes.tensor
    low, high = boxes[:, :2].floor().int().tolist(), boxes[:, 2:].ceil().int().tolist()
    number = 0
    for (x0, y0), (x1, y1), index in zip(low, high, instances.pred_classes.tolist()):
        crop = picture[max(0, y0) : min(height, y1), max(0, x0) : min(width, x1)]
        if not crop.size:
            continue
        label = names[index] if names else str(index)
        target = folder / "".join(c if c.isalnum() or c in " _-" else "_" for c in label)
        target.mkdir(parents=True, exist_ok=True)
        number += 1
        write_picture(target / f"{name}_{number}.png", crop)
    return number
