"""Counts that more than one code base divides by."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..targets import CornerTargets


def distinct_cells(targets: Sequence[CornerTargets], by_class: bool) -> Tensor:
    """(Q,) float64: in how many cells points lie (corners, perhaps centres), over all images.

    Args:
        targets: of N images of one map size.
        by_class: cells of each class count apart, as in heat maps.
    """
    num_classes, (height, width) = targets[0].num_classes, targets[0].map_size
    keys = [
        (i * num_classes + (t.classes[:, None] if by_class else 0)) * (height * width) + t.cells
        for i, t in enumerate(targets)
    ]
    return torch.tensor(
        [len(key.unique()) for key in torch.cat(keys).unbind(1)], dtype=torch.float64
    )
