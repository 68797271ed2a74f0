"""training.npz: optimiser steps of a small network in training mode."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from cornernet_d2.checkpoint import rename
from cornernet_d2.engine.train_loop import GuardedTrainer
from cornernet_d2.engine.trainer import CornerNetTrainer
from cornernet_d2.targets import CornerTargetGenerator

from ..check import Case, Check, check_stats, guarded, stats
from ..ours import dense, join, targets_of
from ..reference import Arrays, Reference, case_names, numbered, strided, under
from .losses import OUTPUTS, target_batch

KEYS = "keys_tiny.json"
GRADIENT_NORM_TOLERANCES = (1e-3, 5e-2, 0.2)  # of steps 1, 2 and 3 on
# How the official components, by the beginning of their names, add up to our losses.
COMPONENTS = {
    "focal": ("loss_heatmap", 1.0),
    "pull": ("loss_pull", 0.1),
    "push": ("loss_push", 0.1),
    "regr": ("loss_offset", 1.0),
}


def run(folder: Reference, file: str) -> Iterator[Check]:
    arrays = folder.load(file)
    for name in case_names(arrays):
        case, want = Case(file, name), under(arrays, name)
        names = case_names(arrays, "component_names")
        yield from guarded(case, _case(case, folder, want, names))


def _case(case: Case, folder: Reference, want: Arrays, components: list[str]) -> Iterator[Check]:
    model, cfg = folder.model(KEYS, int(want["weights_seed"]))
    cfg.SOLVER.BASE_LR = float(want["lr"])
    optimizer = CornerNetTrainer.build_optimizer(cfg, model)
    batch = _batch(want, model.target_generator)
    model.train()
    yield from _input(case, model, batch, want)

    keys = folder.keys(KEYS)
    parameters = [rename(e["key"], "princeton", "d2") for e in keys if e["kind"] == "parameter"]
    state_keys = [rename(entry["key"], "princeton", "d2") for entry in keys]
    trainer = GuardedTrainer(model, _Repeat(batch), optimizer)
    trainer.iter = 0
    for step, loss in enumerate(want["loss"]):
        with EventStorage(step):
            trainer.run_step()
        losses = trainer.outcomes[0]["losses"]
        yield case.relative(f"loss of step {step + 1}", sum(losses.values()), loss, 1e-4)
        yield from _components(case, step, losses, want["components"][step], components)
        gradients = {name: p.grad for name, p in model.named_parameters()}
        norms = [float(gradients[name].double().norm()) for name in parameters]
        tolerance = GRADIENT_NORM_TOLERANCES[min(step, 2)]
        quantity = f"gradient norms of step {step + 1}"
        yield case.relative(quantity, norms, want["grad_l2"][step], tolerance)
        if step == 0:
            for key, value in under(want, "grad_step1").items():
                got = gradients[rename(key, "princeton", "d2")]
                yield case.largest(f"first gradient of {key}", got, value, 1e-3)
        state = model.state_dict()
        sums = [_sums(state[key]) for key in state_keys]
        yield case.absolute(f"state after step {step + 1}", sums, want["state_sums"][step], 5e-2)
    yield from _after(case, model, batch, want)


def _batch(want: Arrays, generator: CornerTargetGenerator) -> list[dict[str, Any]]:
    """Dicts as our mapper makes them, without augmentation."""
    batch = []
    for index, image in enumerate(want["images"]):
        boxes = torch.from_numpy(want["boxes"][want["box_image"] == index])
        classes = boxes[:, 4].long() - 1  # 1-based in the reference
        targets = generator(boxes[:, :4], classes, image.shape[:2])
        image = torch.from_numpy(image.transpose(2, 0, 1).copy())
        batch.append({"image": image, "corner_targets": targets})
    return batch


class _Repeat:
    """A data loader that gives the same batch for ever."""

    def __init__(self, batch: list[dict[str, Any]]):
        self.batch = batch

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        while True:
            yield self.batch


def _input(
    case: Case, model: nn.Module, batch: list[dict[str, Any]], want: Arrays
) -> Iterator[Check]:
    images, _ = model.preprocess_image(batch)
    yield from check_stats(case, "input", stats(images), want["input_stats"], 1e-5)
    sample = want["input_sub"]
    yield case.absolute("input sample", strided(images, sample.shape), sample, 1e-5)
    got = join(model.criterion, targets_of(model, batch))
    wanted = target_batch(want)
    yield case.exact("target cells", got.cells, wanted.cells)
    yield case.absolute("target offsets", got.offsets, wanted.offsets, 1e-6)
    yield case.absolute("target heat maps", dense(got), dense(wanted), 1e-6)


def _components(
    case: Case, step: int, losses: dict[str, float], values: np.ndarray, names: list[str]
) -> Iterator[Check]:
    stacks = sum(name.startswith("pull") for name in names)
    for prefix, (ours, weight) in COMPONENTS.items():
        chosen = [value for name, value in zip(names, values) if name.startswith(prefix)]
        wanted = weight * sum(chosen) / stacks
        yield case.relative(f"{ours} of step {step + 1}", losses[ours], wanted, 1e-2)


def _sums(value: torch.Tensor) -> list[float]:
    value = value.double()
    return [float(value.sum()), float(value.abs().sum()), float((value**2).sum())]


def _after(
    case: Case, model: nn.Module, batch: list[dict[str, Any]], want: Arrays
) -> Iterator[Check]:
    state = model.state_dict()
    for key, value in under(want, "after").items():
        got = state[rename(key, "princeton", "d2")]
        yield case.absolute(f"{key} after the last step", got, value, 5e-3)
    images, _ = model.preprocess_image(batch)
    model.eval()
    with torch.no_grad():
        stacks = model.corner_maps(images)
    for index, wanted in numbered(want, "after_eval/stack"):
        for corner in ("tl", "br"):
            cells = torch.from_numpy(want[f"gt_{corner}_ind"])
            for name, ours in OUTPUTS.items():
                got = stacks[index][corner][ours]
                if name != "heat":
                    where = cells[:, None].expand(-1, got.shape[1], -1)
                    got = got.flatten(2).gather(2, where).transpose(1, 2)
                quantity = f"eval stack{index}/{corner}_{name}"
                yield case.absolute(quantity, got, wanted[f"{corner}_{name}"], 0.1)
    model.train()
    with torch.no_grad(), EventStorage(0):
        total = sum(model(batch).values())
    yield case.relative("loss after the last step", total, want["train_mode_loss_after"], 2e-3)
