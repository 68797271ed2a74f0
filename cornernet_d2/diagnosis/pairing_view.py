"""What the pairing says of the corners of the truth: distances, and the outputs that they are of.

Letters: M objects of an image, K objects of all, D channels of an output.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from ..canvas import Canvas
from ..modeling import CornerNet
from ..modeling.monitoring import pair_distances
from ..modeling.outputs import CORNERS, CornerMaps
from ..modeling.target_batch import at_cells


class CrowdedImage(NamedTuple):
    """The image of most objects.

    Attributes:
        name: its file.
        output: name of the pairing's output.
        values: (2, M, D) of the top-left and the bottom-right corners.
        classes: (M,).
    """

    name: str
    output: str
    values: np.ndarray
    classes: np.ndarray


class PairingView:
    """Collects what :class:`.analysis.Analysis` holds of the pairing.

    Attributes:
        limit: the distance up to which pairs are accepted; None: the rule knows no distance, and
            the others are empty.
        crowded: None without an image of two objects.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.crowded: CrowdedImage | None = None
        self._within: list[np.ndarray] = []
        self._between: list[np.ndarray] = []

    def add(self, model: CornerNet, x: Mapping, maps: CornerMaps, canvas: Canvas) -> None:
        """One image: its dict with "instances" of the truth, and the maps of it."""
        (targets,) = model.corner_targets([x], canvas)
        number = len(targets)
        distances = pair_distances(maps, targets, model.pairing) if number else None
        if distances is None:
            return
        own = np.eye(number, dtype=bool)
        self._within.append(distances[own])
        self._between.append(distances[~own])
        if number > max(1, len(self.crowded.classes) if self.crowded else 0):
            output = model.pairing.decoded[0]
            values = []
            for i, corner in enumerate(CORNERS):
                cells = targets.cells[:, i].to(maps[corner][output].device)
                values.append(at_cells(maps[corner][output], torch.zeros_like(cells), cells))
            values = torch.stack(values).float().cpu().numpy()
            classes = targets.classes.numpy()
            self.crowded = CrowdedImage(x["file_name"], output, values, classes)

    @property
    def within(self) -> np.ndarray:
        """(K,) distances of an object's two corners; without NaN."""
        return _finite(self._within)

    @property
    def between(self) -> np.ndarray:
        """Distances of corners of two objects of an image; without NaN."""
        return _finite(self._between)

    def as_dict(self) -> dict[str, float | None]:
        """For JSON: medians, and the shares of pairs that are accepted."""

        def of(values: np.ndarray, name: str) -> dict[str, float | None]:
            known = len(values) > 0 and self.limit is not None
            return {
                f"{name}_median": float(np.median(values)) if known else None,
                f"{name}_accepted": float((values <= self.limit).mean()) if known else None,
            }

        return {"limit": self.limit, **of(self.within, "within"), **of(self.between, "between")}


def _finite(parts: list[np.ndarray]) -> np.ndarray:
    values = np.concatenate([*parts, np.zeros(0)])
    return values[np.isfinite(values)]
