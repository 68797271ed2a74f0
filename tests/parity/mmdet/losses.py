"""losses.npz: the losses of given maps and boxes, and their gradients."""

from collections.abc import Iterator

import numpy as np
import torch

from ..check import Case, Check
from ..ours import CORNERS, join, maps_of, small_model
from ..reference import MMDET, Arrays, Reference, each_case, numbered
from .targets import make_targets

OUTPUTS = {"heat": "heatmap", "emb": "embedding", "off": "offset"}
# MMDetection's names of the losses, by ours.
NAMES = {
    "loss_heatmap": "det_loss",
    "loss_offset": "off_loss",
    "loss_pull": "pull_loss",
    "loss_push": "push_loss",
}
# A float32 sigmoid rounds to 0 or 1 from about here on: a wrong negative then costs 27.63 there
# and has no gradient, where ours costs its logit. Such a case's heat maps are not compared.
SATURATED = 16.6


def run(folder: Reference, file: str) -> Iterator[Check]:
    return each_case(folder, file, _case)


def _is_saturated(want: Arrays) -> bool:
    heats = (maps[f"{corner}_heat"] for _, maps in numbered(want, "stack") for corner in CORNERS)
    return any(np.abs(heat).max() > SATURATED for heat in heats)


def _case(case: Case, want: Arrays) -> Iterator[Check]:
    classes = int(want["classes"])
    criterion = small_model(MMDET, {"MODEL.CORNERNET.NUM_CLASSES": classes}).criterion
    stops = want["counts"].cumsum()[:-1]
    boxes, labels = (np.split(want[name], stops) for name in ("boxes", "labels"))
    batch = join(criterion, make_targets(boxes, labels, want["canvas"], classes))
    stacks = [maps_of(maps, OUTPUTS) for _, maps in numbered(want, "stack")]
    for maps in stacks:
        for corner in CORNERS:
            for value in maps[corner].values():
                value.requires_grad_()
    saturated = _is_saturated(want)
    losses = criterion(stacks, batch)
    alone = [criterion([maps], batch) for maps in stacks]
    for prefix in ("", "float64_"):  # MMDetection's code in float32, and in float64
        if f"{prefix}total" in want:
            if not saturated:
                total = sum(losses.values())
                yield case.relative(f"{prefix}total", total, want[f"{prefix}total"], 1e-5)
            for ours, theirs in NAMES.items():
                if saturated and theirs == "det_loss":
                    continue
                got = [losses_of[ours] for losses_of in alone]
                got = torch.stack([torch.as_tensor(value) for value in got])
                yield case.relative(f"{prefix}{theirs}", got, want[f"{prefix}{theirs}"], 1e-5)
    sum(losses.values()).backward()
    for index, maps in numbered(want, "stack"):
        for corner in CORNERS:
            for theirs, ours in OUTPUTS.items():
                if saturated and theirs == "heat":
                    continue
                x = stacks[index][corner][ours]
                gradient = torch.zeros_like(x) if x.grad is None else x.grad
                quantity = f"gradient of stack{index}/{corner}_{theirs}"
                yield case.largest(quantity, gradient, maps[f"{corner}_{theirs}_grad"], 1e-5)
