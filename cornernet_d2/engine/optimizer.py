"""Optimisers by name, with Detectron2's parameter groups and gradient clipping."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn

# Clipping by the norm over all gradients, which Detectron2 does not know; Mask2Former's name.
FULL_MODEL = "full_model"


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build SOLVER.OPTIMIZER, which clips as SOLVER.CLIP_GRADIENTS says, for any training loop.

    The backbone's rate is SOLVER.BACKBONE_MULTIPLIER times the others'; of a feature pyramid only
    the bottom-up network counts, as the path back starts from nothing.

    Weight decay spares normalisation layers and biases as SOLVER.WEIGHT_DECAY_NORM and
    SOLVER.WEIGHT_DECAY_BIAS say. Adam and AdamW run fused: one pass over all parameters.

    Raises:
        ValueError: the name is unknown.
    """
    solver = cfg.SOLVER
    kinds: dict[str, Any] = {
        "ADAM": (torch.optim.Adam, {"betas": tuple(solver.BETAS), "fused": True}),
        "ADAMW": (torch.optim.AdamW, {"betas": tuple(solver.BETAS), "fused": True}),
        "SGD": (
            torch.optim.SGD,
            {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV, "foreach": True},
        ),
    }
    if solver.OPTIMIZER not in kinds:
        raise ValueError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; choose one of {list(kinds)}")
    kind, options = kinds[solver.OPTIMIZER]
    params = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    params = _with_backbone_rate(params, model, solver.BACKBONE_MULTIPLIER)
    clip = solver.CLIP_GRADIENTS
    if clip.CLIP_TYPE != FULL_MODEL:
        kind = maybe_add_gradient_clipping(cfg, kind)
    optimizer = kind(params, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, **options)
    if clip.ENABLED and clip.CLIP_TYPE == FULL_MODEL:
        parameters = [p for p in model.parameters() if p.requires_grad]

        def clip_all(*_: Any) -> None:
            nn.utils.clip_grad_norm_(parameters, clip.CLIP_VALUE)

        optimizer.register_step_pre_hook(clip_all)
    return optimizer


def _with_backbone_rate(groups: list[dict], model: nn.Module, multiplier: float) -> list[dict]:
    """Parameter groups in which the backbone's parameters have their own rate."""
    if multiplier == 1:
        return groups
    slow = {id(p) for p in getattr(model.backbone, "bottom_up", model.backbone).parameters()}
    split = []
    for group in groups:  # Detectron2 makes one of each parameter, or of all that are alike
        for is_slow in (False, True):
            params = [p for p in group["params"] if (id(p) in slow) == is_slow]
            if params:
                lr = group["lr"] * (multiplier if is_slow else 1)
                split.append({**group, "params": params, "lr": lr})
    return split
