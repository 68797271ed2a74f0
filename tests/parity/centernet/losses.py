"""losses.npz: the losses of given maps and targets, with a third heat map, and their gradients."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from ..check import Case, Check
from ..official.losses import saturated
from ..ours import dense_batch, small_model
from ..reference import CENTERNET, Arrays, Reference, each_case, numbered

OUTPUTS = {"heat": "heatmap", "tag": "embedding", "regr": "offset"}
POINTS = {"tl": "tl", "br": "br", "ct": "center"}
# Ours that add up to one of theirs, which are weighted and divided by the stacks.
NAMES = {
    "focal": ("loss_heatmap", "loss_center_heatmap"),
    "pull": ("loss_pull",),
    "push": ("loss_push",),
    "regr": ("loss_offset", "loss_center_offset"),
}


def run(folder: Reference, file: str) -> Iterator[Check]:
    return each_case(folder, file, _case)


def _case(case: Case, want: Arrays) -> Iterator[Check]:
    tolerance = 1e-4 if saturated(want) else 1e-5
    model = small_model(CENTERNET, {"MODEL.CORNERNET.NUM_CLASSES": want["stack0/tl_heat"].shape[1]})
    stacks = [point_maps(maps) for _, maps in numbered(want, "stack")]
    for maps in stacks:
        for point in maps.values():
            for value in point.values():
                value.requires_grad_()
    losses = model.criterion(stacks, _batch(want), model.pairing)
    for prefix in ("loss", "loss64"):  # their code in float32, and in float64
        total = want[f"{prefix}_total"]
        yield case.relative(f"{prefix} total", sum(losses.values()), total, tolerance)
        for name, ours in NAMES.items():
            got = sum(losses[each] for each in ours)
            yield case.relative(f"{prefix} {name}", got, want[f"{prefix}_{name}"], tolerance)
        # The focal losses of the points are undivided.
        of_centers = losses["loss_center_heatmap"] * len(stacks)
        wanted = want[f"{prefix}_focal_ct"]
        yield case.relative(f"{prefix} focal of centres", of_centers, wanted, tolerance)
    sum(losses.values()).backward()
    for index, maps in numbered(want, "stack"):
        for name, value in _named(stacks[index]):
            gradient = torch.zeros_like(value) if value.grad is None else value.grad
            quantity = f"gradient of stack{index}/{name}"
            yield case.largest(quantity, gradient, maps[f"{name}_grad"], 1e-5)


def point_maps(arrays: Arrays) -> dict[str, dict[str, torch.Tensor]]:
    """``tl_heat``, ``ct_heat``, ... as our maps."""
    return {
        ours: {
            output: torch.from_numpy(arrays[f"{theirs}_{name}"])
            for name, output in OUTPUTS.items()
            if f"{theirs}_{name}" in arrays
        }
        for theirs, ours in POINTS.items()
    }


def _named(maps: Mapping) -> Iterator[tuple[str, torch.Tensor]]:
    for theirs, ours in POINTS.items():
        for name, output in OUTPUTS.items():
            if output in maps[ours]:
                yield f"{theirs}_{name}", maps[ours][output]


def _batch(want: Mapping[str, np.ndarray]) -> object:
    """Dense targets and padded lists with a mask, as our criterion takes them."""
    mask = torch.from_numpy(want["gt_mask"]).bool()

    def every(name: str) -> torch.Tensor:
        return torch.stack([torch.from_numpy(want[f"gt_{p}_{name}"])[mask] for p in POINTS], 1)

    heatmaps = torch.stack([torch.from_numpy(want[f"gt_{p}_heat"]) for p in POINTS], dim=1)
    return dense_batch(heatmaps, mask.nonzero()[:, 0], every("ind"), every("regr"))
