"""AP with other settings of decoding, pairing and soft-NMS, one changed at a time."""

import copy
from collections.abc import Mapping

from ..canvas import Canvas, Size
from ..modeling.inference import CornerInference
from ..modeling.outputs import CornerMaps
from ..modeling.pairing import Pairing
from .matching import Truth, match, mean_average_precision
from .stages import found_in
from .summary import Tally

# The key in MODEL.CORNERNET.TEST -> values to try besides the one in use.
VALUES: Mapping[str, tuple[float, ...]] = {
    "EMBEDDING_THRESHOLD": (0.1, 0.25, 0.5, 1.0, 2.0),
    "TOP_K": (25, 50, 100, 200),
    "NMS_KERNEL": (1, 3, 5, 7),
    "SOFT_NMS.SIGMA": (0.1, 0.25, 0.5, 1.0),
}


class Settings:
    """Detects with every setting of :data:`VALUES` in the same maps.

    Args:
        inference: of one scale, without mirror images.
        pairing: the model's; without a ``threshold`` of its own that row is left out.
        num_classes: C.
    """

    def __init__(self, inference: CornerInference, pairing: Pairing, num_classes: int) -> None:
        self.variants: dict[tuple[str, float], tuple[CornerInference, Pairing, Tally]] = {}
        self.used = {
            "EMBEDDING_THRESHOLD": getattr(pairing, "threshold", None),
            "TOP_K": inference.decoding["top_k"],
            "NMS_KERNEL": inference.decoding["nms_kernel"],
            "SOFT_NMS.SIGMA": inference.soft_nms["sigma"],
        }
        for key, used in self.used.items():
            for value in sorted({*VALUES[key], used}) if used is not None else ():
                changed, rule = copy.copy(inference), pairing
                if key == "EMBEDDING_THRESHOLD":
                    rule = copy.copy(pairing)
                    rule.threshold = value
                elif key == "SOFT_NMS.SIGMA":
                    changed.soft_nms = {**inference.soft_nms, "sigma": value}
                else:
                    changed.decoding = {**inference.decoding, key.lower(): value}
                self.variants[key, value] = changed, rule, Tally(num_classes)

    def add(self, truth: Truth, maps: CornerMaps, canvas: Canvas, output_size: Size) -> None:
        """One image."""
        for inference, pairing, tally in self.variants.values():
            (found,) = inference.detect(maps, canvas, pairing, [output_size])
            found = found_in(found)
            tally.add(truth, found, match(found, truth))

    def results(self) -> dict[str, dict[float, float]]:
        """key -> value -> AP at an IoU of 0.5, in [0, 1]."""
        table: dict[str, dict[float, float]] = {}
        for (key, value), (_, _, tally) in self.variants.items():
            table.setdefault(key, {})[value] = mean_average_precision(tally.curves())
        return table
