"""losses.npz: the losses of given maps and boxes, and their gradients."""

from collections.abc import Iterator

import numpy as np
import torch

from ..check import Case, Check
from ..ours import CORNERS, maps_of, small_model
from ..reference import (
    CENTRIPETAL_MMDET,
    CENTRIPETAL_OFFICIAL,
    Arrays,
    Reference,
    each_case,
    numbered,
)
from .targets import make_batch

OUTPUTS = {
    "heat": "heatmap",
    "off": "offset",
    "guiding_shift": "guiding_shift",
    "centripetal_shift": "shift",
}
# Our losses -> theirs. MMDetection's are of each stack, the authors' summed over the stacks.
NAMES = {
    "mmdet": {
        "loss_heatmap": "det_loss",
        "loss_offset": "off_loss",
        "loss_guiding": "guiding_loss",
        "loss_centripetal": "centripetal_loss",
    },
    "authors": {
        "loss_heatmap": "det_loss",
        "loss_offset": "off_loss",
        "loss_guiding": "off_c_loss",
        "loss_centripetal": "off_c2_loss",
    },
}
PRESETS = {"mmdet": CENTRIPETAL_MMDET, "authors": CENTRIPETAL_OFFICIAL}


def run(folder: Reference, file: str) -> Iterator[Check]:
    return each_case(folder, file, _case)


def _case(case: Case, want: Arrays) -> Iterator[Check]:
    for code, preset in PRESETS.items():
        stacks = [maps_of(maps, OUTPUTS) for _, maps in numbered(want, "stack")]
        for maps in stacks:
            for corner in CORNERS:
                for value in maps[corner].values():
                    value.requires_grad_()
        images, classes = want["stack0/tl_heat"].shape[:2]
        model = small_model(preset, {"MODEL.CORNERNET.NUM_CLASSES": classes})
        batch = make_batch(want, images, classes, model.criterion)
        losses = model.criterion(stacks, batch, model.pairing)
        alone = [model.criterion([maps], batch, model.pairing) for maps in stacks]
        for ours, theirs in NAMES[code].items():
            wanted = want[f"{code}_{theirs}"]
            got = torch.stack([part[ours] for part in alone]) if wanted.ndim else losses[ours]
            yield _loss(case, f"{code} {theirs}", got, wanted)
        yield _loss(case, f"{code} total", sum(losses.values()), want[f"{code}_total"])
        sum(losses.values()).backward()
        yield from _gradients(case, code, stacks, want)


def _loss(case: Case, name: str, got: torch.Tensor, want: np.ndarray) -> Check:
    """The authors divide by 0 where there are no objects; then ours has to be a number."""
    if np.isnan(want).any():
        return case.exact(f"{name} is a number", torch.isfinite(got), True)
    return case.relative(name, got, want, 1e-5)


def _gradients(case: Case, code: str, stacks: list, want: Arrays) -> Iterator[Check]:
    for index, maps in numbered(want, "stack"):
        for corner in CORNERS:
            for theirs, ours in OUTPUTS.items():
                wanted = maps.get(f"{corner}_{theirs}_{code}_grad")
                if wanted is None or np.isnan(wanted).any():
                    continue
                name = f"{code} gradient of stack{index}/{corner}_{theirs}"
                yield case.largest(name, stacks[index][corner][ours].grad, wanted, 1e-5)
