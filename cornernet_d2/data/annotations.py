"""What Detectron2's annotations of an image say, whatever form they have."""

from collections.abc import Mapping, Sequence

import numpy as np
from detectron2.structures import BoxMode


def boxes_xyxy(annotations: Sequence[Mapping]) -> np.ndarray:
    """(M, 4) float64 ``x0 y0 x1 y1`` in pixels of the boxes of Detectron2 annotations."""
    boxes = np.array([obj["bbox"] for obj in annotations], dtype=np.float64).reshape(-1, 4)
    modes = [obj["bbox_mode"] for obj in annotations]
    for mode in set(modes) - {BoxMode.XYXY_ABS}:
        chosen = np.array([m == mode for m in modes])
        boxes[chosen] = BoxMode.convert(boxes[chosen], BoxMode(mode), BoxMode.XYXY_ABS)
    return boxes


def is_ignored(annotation: Mapping) -> bool:
    """Whether a Detectron2 annotation is marked "iscrowd" or "ignore"."""
    return bool(annotation.get("iscrowd") or annotation.get("ignore"))
