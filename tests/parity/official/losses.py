"""losses.npz: the losses of given maps and targets, and their gradients."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..check import Case, Check
from ..ours import dense_batch, small_model
from ..reference import OFFICIAL, Arrays, Reference, each_case, numbered

OUTPUTS = {"heat": "heatmap", "tag": "embedding", "regr": "offset"}
CORNERS = ("tl", "br")
# Beyond it the official code has no gradient and its logarithms lose their last digits.
CLAMP = 1e-4
# The weights of the official total; its own JSON has no keys for them.
PULL_WEIGHT = PUSH_WEIGHT = 0.1
Losses = dict[str, torch.Tensor]
Stacks = list[dict[str, dict[str, torch.Tensor]]]


def run(folder: Reference, file: str) -> Iterator[Check]:
    return each_case(folder, file, _case)


def _case(case: Case, want: Arrays) -> Iterator[Check]:
    tolerance = 1e-4 if saturated(want) else 1e-5
    criterion = small_model(OFFICIAL).criterion
    batch, stacks = target_batch(want), _stacks(want)
    losses = criterion(stacks, batch)
    alone = [criterion([maps], batch) for maps in stacks]
    for prefix in ("loss", "loss64"):  # the official code in float32, and in float64
        if f"{prefix}_total" in want:
            yield from _losses(case, losses, alone, prefix, want, tolerance)
    sum(losses.values()).backward()
    yield from _gradients(case, stacks, want)


def target_batch(want: Arrays) -> Any:
    """Official dense targets, padded lists with a mask, as our criterion takes them."""
    mask = torch.from_numpy(want["gt_mask"]).bool()
    image_index = mask.nonzero()[:, 0]

    def both(name: str) -> torch.Tensor:
        return torch.stack([torch.from_numpy(want[f"gt_{c}_{name}"])[mask] for c in CORNERS], 1)

    heatmaps = torch.stack([torch.from_numpy(want[f"gt_{c}_heat"]) for c in CORNERS], dim=1)
    return dense_batch(heatmaps, image_index, both("ind"), both("regr"))


def expected(want: Arrays, prefix: str) -> dict[str, float]:
    """The weighted losses as we report them, from the official parts."""
    stacks = len(want[f"{prefix}_pull"])
    return {
        "loss_heatmap": (want[f"{prefix}_focal_tl"] + want[f"{prefix}_focal_br"]) / stacks,
        "loss_pull": PULL_WEIGHT * want[f"{prefix}_pull"].sum() / stacks,
        "loss_push": PUSH_WEIGHT * want[f"{prefix}_push"].sum() / stacks,
        "loss_offset": (want[f"{prefix}_regr_tl"] + want[f"{prefix}_regr_br"]).sum() / stacks,
    }


def saturated(want: Arrays) -> bool:
    """Whether a heat map goes beyond the clamp, where its last digits are lost."""
    limit = np.log1p(-CLAMP) - np.log(CLAMP)
    heats = (maps[f"{c}_heat"] for _, maps in numbered(want, "stack") for c in CORNERS)
    return any(np.abs(heat).max() > limit for heat in heats)


def _stacks(want: Arrays) -> Stacks:
    return [
        {
            corner: {
                ours: torch.from_numpy(maps[f"{corner}_{name}"]).requires_grad_()
                for name, ours in OUTPUTS.items()
            }
            for corner in CORNERS
        }
        for _, maps in numbered(want, "stack")
    ]


def _losses(
    case: Case,
    losses: Losses,
    alone: list[Losses],
    prefix: str,
    want: Arrays,
    tolerance: float,
) -> Iterator[Check]:
    """Compare the losses of all stacks together, and those of each stack alone."""
    total = sum(losses.values())
    yield case.relative(f"{prefix} total", total, want[f"{prefix}_total"], tolerance)
    for name, value in expected(want, prefix).items():
        yield case.relative(f"{prefix} {name}", losses[name], value, tolerance)
    for index, got in enumerate(alone):
        pull, push = (want[f"{prefix}_{name}"][index] for name in ("pull", "push"))
        quantity = f"of stack {index}"
        yield case.relative(
            f"{prefix} pull {quantity}", got["loss_pull"], PULL_WEIGHT * pull, tolerance
        )
        yield case.relative(
            f"{prefix} push {quantity}", got["loss_push"], PUSH_WEIGHT * push, tolerance
        )


def _gradients(case: Case, stacks: Stacks, want: Arrays) -> Iterator[Check]:
    for index, maps in numbered(want, "stack"):
        for corner in CORNERS:
            for name, ours in OUTPUTS.items():
                x = stacks[index][corner][ours]
                gradient = torch.zeros_like(x) if x.grad is None else x.grad
                wanted = maps[f"{corner}_{name}_grad"]
                quantity = f"gradient of stack{index}/{corner}_{name}"
                yield case.largest(quantity, gradient, wanted, 1e-5)
