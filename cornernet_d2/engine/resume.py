"""Whether a checkpoint can be continued with a config, found out before anything is loaded."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..checkpoint import CheckpointError

logger = logging.getLogger(__name__)

# The checkpoint's values go on, whatever the config says.
IGNORED = (
    *(f"SOLVER.{key}" for key in ("BASE_LR", "BIAS_LR_FACTOR", "MOMENTUM", "NESTEROV", "BETAS")),
    *(f"SOLVER.WEIGHT_DECAY{suffix}" for suffix in ("", "_NORM", "_BIAS")),
    "SEED",
    "MODEL.WEIGHTS",
)
Changes = Mapping[str, tuple[Any, Any]]  # {key: (value of the run so far, value now)}


def check_resumable(
    path: str, contents: Mapping, model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> None:
    """Compare names and shapes of weights, kind of optimiser and its groups of parameters.

    Args:
        path: of the checkpoint, for the message.
        contents: what the file holds.
        model, optimizer: what it would be loaded into; no optimiser in an evaluation.

    Raises:
        CheckpointError: they differ. Loading would leave weights at random, or let the optimiser
            read and write beyond the ends of moments of another shape.
    """
    if optimizer is not None and "trainer" not in contents:
        raise CheckpointError(
            f"{path} holds weights without the state of a training, which cannot go on from there; "
            "start one from them: MODEL.WEIGHTS, without --resume, and another OUTPUT_DIR"
        )
    fault = next(_weight_faults(contents["model"], model.state_dict()), None)
    if fault is None and optimizer is not None:
        saved = contents.get("trainer", {}).get("_trainer", {})
        fault = next(_optimizer_faults(saved, optimizer), None)
    if fault:
        raise CheckpointError(
            f"{path} does not fit this config: {fault}. Restore the keys that it was trained with, "
            "or start again without --resume."
        )


def optimizer_kind(optimizer: torch.optim.Optimizer) -> str:
    """The class name, without what Detectron2 adds to it for clipping."""
    return type(optimizer).__name__.removesuffix("WithGradientClip")


def describe_changes(changes: Changes) -> str:
    return ", ".join(f"{key} {old!r} -> {new!r}" for key, (old, new) in changes.items())


def report_changes(changes: Changes) -> None:
    """Log which keys differ from those of the run that is continued, and which have no effect."""
    ignored = {key: values for key, values in changes.items() if key in IGNORED}
    others = {key: values for key, values in changes.items() if key not in IGNORED}
    if ignored:
        logger.warning(
            "No effect on a resumed run, whose checkpoint holds the values: %s",
            describe_changes(ignored),
        )
    if others:
        logger.warning("Resumed with other keys than before: %s", describe_changes(others))


def _weight_faults(saved: Mapping, ours: Mapping) -> Iterator[str]:
    for name, value in ours.items():
        if name in saved and tuple(saved[name].shape) != tuple(value.shape):
            there, here = tuple(saved[name].shape), tuple(value.shape)
            yield f"{name} is {there} in the file and {here} in the model"
    for some, others, what in ((ours, saved, "the file"), (saved, ours, "the model")):
        lacking = some.keys() - others.keys()
        if lacking:
            yield f"{what} lacks {len(lacking)} weights such as {min(lacking)}"


def _optimizer_faults(saved: Mapping, optimizer: torch.optim.Optimizer) -> Iterator[str]:
    groups = saved.get("optimizer", {}).get("param_groups", [])
    if not groups:
        return
    before, now = saved.get("optimizer_kind"), optimizer_kind(optimizer)
    if before is None:  # files from before it was noted
        before = "Adam" if "betas" in groups[0] else "SGD"
        now = "Adam" if "betas" in optimizer.param_groups[0] else "SGD"
    if before != now:
        yield f"its optimiser is {before}, SOLVER.OPTIMIZER gives {now}"
    sizes = [[len(group["params"]) for group in some] for some in (groups, optimizer.param_groups)]
    if sizes[0] != sizes[1]:
        yield (
            f"its optimiser has {len(sizes[0])} groups of {sum(sizes[0])} parameters, this "
            f"config's {len(sizes[1])} of {sum(sizes[1])} (SOLVER.WEIGHT_DECAY_*, BIAS_LR_FACTOR)"
        )
