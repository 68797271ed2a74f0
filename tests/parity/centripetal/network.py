"""network_*.npz: dense maps and inner activations of the full network, and what it predicts."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from ..check import Case, Check, check_stats, match_rows, stats
from ..official.network import check_inner, check_output, check_weights, record
from ..ours import CORNERS, canvas_of, decode_on
from ..reference import Arrays, Reference, numbered, strided, under
from .losses import OUTPUTS

KEYS = "keys.json"
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
    arrays = folder.load(file)
    seed = int(arrays["weights_seed"])
    yield from check_weights(Case(file, "weights"), folder, seed, arrays)
    size = arrays["image"].shape[1:3]
    case = Case(file, "x".join(str(side) for side in size))
    image = torch.cat([folder.recipe.normalise(image) for image in arrays["image"]])
    yield from check_stats(case, "input", stats(image), arrays["input_stats"], 1e-5)
    sample = arrays["input_sub"]
    yield case.absolute("input sample", strided(image, sample.shape), sample, 1e-5)
    model, _ = folder.model(KEYS, seed)
    model.eval()
    inner: dict[str, Any] = {}
    record(model, under(arrays, "inter"), inner, _our_module)
    with torch.no_grad():
        stacks = model.corner_maps(image)
    yield from check_inner(case, under(arrays, "inter"), inner)
    for index, want in numbered(arrays, "stack"):
        for corner in CORNERS:
            for theirs, ours in OUTPUTS.items():
                name, got = f"{corner}_{theirs}", stacks[index][corner][ours]
                yield from check_output(
                    case,
                    f"stack{index}/{name}",
                    got,
                    under(want, name),
                    TOLERANCES[theirs],
                    arrays["heat_channels"],
                )
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
