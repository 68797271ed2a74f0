"""network_*.npz: dense maps and inner activations of the full network, and what it predicts."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from ..check import Case, Check, match_rows
from ..official.network import CORNERS, check_network, check_outputs
from ..ours import canvas_of, decode_on
from ..reference import Arrays, Reference
from .losses import OUTPUTS

TOLERANCES = {"heat": 1e-3, "off": 2e-4, "guiding_shift": 1e-3, "centripetal_shift": 1e-3}
DECODE = {"top_k": 100, "nms_kernel": 3, "max_detections": 1000}
# MMDetection's module -> ours; what is not here has the same name.
MODULES = (
    (r"backbone\.hourglass_modules\.", "backbone.stacks."),
    (r"backbone\.conv1x1s\.", "backbone.inter_convs."),
    (r"bbox_head\.(tl|br)_pool\.(\d+)", r"head.\2.\1.pool"),
    (r"bbox_head\.(tl|br)_guiding_shift\.(\d+)", r"head.\2.\1.guiding_shift"),
    (r"bbox_head\.(tl|br)_dcn_offset\.(\d+)", r"head.\2.\1.shift.places"),
    (r"bbox_head\.(tl|br)_feat_adaption\.(\d+)", r"head.\2.\1.shift.gather"),
)


def run(folder: Reference, file: str) -> Iterator[Check]:
    case, arrays, model, stacks = yield from check_network(folder, file, _our_module)
    yield from check_outputs(case, arrays, stacks, CORNERS, OUTPUTS, TOLERANCES)
    size = arrays["image"].shape[1:3]
    yield from _predictions(case, model, stacks[-1], size, arrays)


def _our_module(theirs: str) -> str:
    for pattern, ours in MODULES:
        theirs = re.sub(pattern, ours, theirs)
    return theirs


def _predictions(
    case: Case, model: nn.Module, maps: Any, size: tuple[int, int], arrays: Arrays
) -> Iterator[Check]:
    """The pairs above MMDetection's score_thr of 0.05, or the best 100 of them, before NMS."""
    canvas = canvas_of(size, (0, size[0], 0, size[1]), len(maps["tl"]["heatmap"]))
    pairs = decode_on(model, maps, canvas, **DECODE)
    rows = torch.cat([pairs.boxes, pairs.scores[..., None], pairs.classes[..., None]], -1)
    for image, ours in enumerate(rows.numpy()):
        theirs = arrays[f"predictions{image}"]
        ours = match_rows(ours[ours[:, 4] > -1], theirs)
        yield case.exact(f"predictions of image {image}, rows", len(ours), len(theirs))
        if len(ours) == len(theirs):
            yield case.absolute(f"predictions of image {image}", ours, np.asarray(theirs), 1e-3)
