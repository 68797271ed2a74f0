"""losses.npz: the losses of given maps and targets, and their gradients."""

from collections.abc import Iterator

import torch

from ..check import Case, Check
from ..official.losses import PULL_WEIGHT, PUSH_WEIGHT
from ..ours import CORNERS, dense_batch, maps_of
from ..reference import Arrays, Reference, each_case, numbered
from .network import OUTPUTS
from .postprocess import small


def run(folder: Reference, file: str) -> Iterator[Check]:
    return each_case(folder, file, _case)


def _case(case: Case, want: Arrays) -> Iterator[Check]:
    model, _ = small({})
    stacks = [maps_of(maps, OUTPUTS) for _, maps in numbered(want, "stack")]
    for maps in stacks:
        for corner in CORNERS:
            for value in maps[corner].values():
                value.requires_grad_()
    losses = model.criterion(stacks, _batch(want), model.pairing)
    for prefix in ("loss", "loss64"):  # the official code in float32, and in float64
        total = want[f"{prefix}_total"]
        yield case.relative(f"{prefix} total", sum(losses.values()), total, 1e-5)
        for name, value in _expected(want, prefix, len(stacks)).items():
            yield case.relative(f"{prefix} {name}", losses[name], value, 1e-5)
    sum(losses.values()).backward()
    for index, maps in numbered(want, "stack"):
        for corner in CORNERS:
            for name, ours in OUTPUTS.items():
                x = stacks[index][corner][ours]
                gradient = torch.zeros_like(x) if x.grad is None else x.grad
                wanted = maps[f"{corner}_{name}_grad"]
                quantity = f"gradient of stack{index}/{corner}_{name}"
                yield case.largest(quantity, gradient, wanted, 1e-5)


def _batch(want: Arrays) -> object:
    """Dense targets and padded lists with a mask, as our criterion takes them."""
    mask = torch.from_numpy(want["gt_mask"]).bool()

    def both(name: str) -> torch.Tensor:
        return torch.stack([torch.from_numpy(want[f"gt_{c}_{name}"])[mask] for c in CORNERS], 1)

    heatmaps = torch.stack([torch.from_numpy(want[f"gt_{c}_heat"]) for c in CORNERS], dim=1)
    return dense_batch(heatmaps, mask.nonzero()[:, 0], both("ind"), both("off"))


def _expected(want: Arrays, prefix: str, stacks: int) -> dict[str, float]:
    """The weighted losses as we report them, from unweighted sums over the stacks."""
    part = {
        name: float(want[f"{prefix}_{name}"])
        for name in ("focal_tl", "focal_br", "pull", "push", "off_tl", "off_br")
    }
    return {
        "loss_heatmap": (part["focal_tl"] + part["focal_br"]) / stacks,
        "loss_pull": PULL_WEIGHT * part["pull"] / stacks,
        "loss_push": PUSH_WEIGHT * part["push"] / stacks,
        "loss_offset": (part["off_tl"] + part["off_br"]) / stacks,
    }
