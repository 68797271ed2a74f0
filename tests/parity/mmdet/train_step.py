"""train_step.npz: steps of a small network with clipping and Adam."""

from collections.abc import Iterator
from itertools import repeat
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from cornernet_d2.checkpoint import rename
from cornernet_d2.engine.train_loop import GuardedTrainer
from cornernet_d2.engine.trainer import CornerNetTrainer

from ..check import Case, Check, guarded
from ..reference import Arrays, Reference, case_names, under
from .losses import NAMES
from .test_pipeline import rgb

KEYS = "keys_tiny.json"
SIDE = 127  # of the images, pixels
# By step, the last for all later ones: an update of Adam's is about as large as its rate, whatever
# the gradient, so that rounding grows from step to step.
LOSS_TOLERANCES = (1e-5, 1e-4, 1e-2)
NORM_TOLERANCES = (1e-4, 5e-3, 0.1)
STATE_TOLERANCE = 1e-2


def run(folder: Reference, file: str) -> Iterator[Check]:
    case = Case(file, "steps")
    yield from guarded(case, _steps(case, folder, folder.load(file)))


def _batch(folder: Reference, want: Arrays) -> list[dict[str, Any]]:
    stops = want["counts"].cumsum()[:-1]
    boxes, labels = (np.split(want[name], stops) for name in ("boxes", "labels"))
    batch = []
    for seed, b, c in zip(want["image_seeds"], boxes, labels):
        instances = Instances((SIDE, SIDE))
        instances.gt_boxes = Boxes(torch.from_numpy(b))
        instances.gt_classes = torch.from_numpy(c)
        batch.append({"image": rgb(folder, (SIDE, SIDE), seed), "instances": instances})
    return batch


def _steps(case: Case, folder: Reference, want: Arrays) -> Iterator[Check]:
    model, cfg = folder.model(KEYS, int(want["weights_seed"]))
    clip = cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE
    optimizer = CornerNetTrainer.build_optimizer(cfg, model)
    batch = repeat(_batch(folder, want))
    trainer = GuardedTrainer(model.train(), batch, optimizer)
    names = case_names(want, "loss_names")
    for step, (losses, norm) in enumerate(zip(want["losses"], want["grad_norm"])):
        trainer.iter = step
        with EventStorage(step):
            trainer.run_step()
        got = trainer.outcomes[0]
        tolerance = LOSS_TOLERANCES[min(step, len(LOSS_TOLERANCES) - 1)]
        for ours, theirs in NAMES.items():
            wanted = losses[names.index(theirs)].sum()  # over both levels
            quantity = f"{theirs} of step {step + 1}"
            yield case.relative(quantity, got["losses"][ours], wanted, tolerance)
        tolerance = NORM_TOLERANCES[min(step, len(NORM_TOLERANCES) - 1)]
        quantity = f"gradient norm of step {step + 1}"
        yield case.relative(quantity, got["grad_norm"], norm, tolerance)
        if step == 0:
            unclipped = max(1.0, (got["grad_norm"] + 1e-6) / clip)
            yield from _gradients(case, model, unclipped, want)
    state = model.state_dict()
    values = [state[rename(entry["key"], "mmdet", "d2")].double() for entry in folder.keys(KEYS)]
    sums = [[float(value.sum()), float(value.abs().sum())] for value in values]
    scale = np.maximum(want["state_sums"][:, 1:], 1.0)
    quantity = "state after the last step"
    yield case.relative(quantity, sums, want["state_sums"], STATE_TOLERANCE, scale)


def _gradients(case: Case, model: Any, unclipped: float, want: Arrays) -> Iterator[Check]:
    gradients = {name: p.grad * unclipped for name, p in model.named_parameters()}
    parameters = [rename(key, "mmdet", "d2") for key in case_names(want, "parameter_names")]
    norms = [float(gradients[name].double().norm()) for name in parameters]
    yield case.relative("gradient norms of tensors", norms, want["grad_l2"], 1e-4)
    for key, value in under(want, "grad_step1").items():
        got = gradients[rename(key, "mmdet", "d2")]
        yield case.largest(f"first gradient of {key}", got, value, 1e-4)
