"""The objects of an image, from a dataset's annotations."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..data.annotations import boxes_xyxy, is_ignored
from .matching import Truth


def truth_of(annotations: Sequence[Mapping]) -> Truth:
    """Of Detectron2's annotations of an image."""
    return Truth(
        boxes_xyxy(annotations),
        np.array([obj["category_id"] for obj in annotations], dtype=np.int64),
        np.array([is_ignored(obj) for obj in annotations], dtype=bool),
        np.array([bool(obj.get("iscrowd")) for obj in annotations], dtype=bool),
    )
