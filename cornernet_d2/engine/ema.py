"""Exponential moving average of the weights, as torch's AveragedModel keeps it."""

from itertools import chain

import torch
from detectron2.config import CfgNode
from torch import nn
from torch.optim.swa_utils import AveragedModel


class WeightAverage(AveragedModel):
    """``averaged = decay * averaged + (1 - decay) * current``; the first update copies.

    Buffers are averaged like weights; counters are copied. The update of torch's own class sends
    its count of updates to the device in every step, and waits for that.
    """

    def __init__(self, model: nn.Module, decay: float, device: str | None = None) -> None:
        super().__init__(model, device, use_buffers=True)
        self.n_averaged = self.n_averaged.cpu()
        self.decay = decay
        self.requires_grad_(False)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        weight = 1.0 - self.decay if self.n_averaged else 1.0
        ours, theirs = (list(chain(m.parameters(), m.buffers())) for m in (self.module, model))
        floats = [i for i, x in enumerate(ours) if x.is_floating_point()]
        counts = [i for i, x in enumerate(ours) if not x.is_floating_point()]
        torch._foreach_lerp_(
            [ours[i] for i in floats], [theirs[i].to(ours[i].device) for i in floats], weight
        )
        if counts:
            torch._foreach_copy_([ours[i] for i in counts], [theirs[i] for i in counts])
        self.n_averaged += 1


def build_ema(cfg: CfgNode, model: nn.Module) -> WeightAverage:
    """The average of ``model``'s weights and running statistics that MODEL_EMA describes."""
    decay = cfg.MODEL_EMA.DECAY
    if not 0 <= decay < 1:
        raise ValueError(f"MODEL_EMA.DECAY is {decay}; it must be in [0, 1)")
    return WeightAverage(model, decay, cfg.MODEL_EMA.DEVICE or None)


def averaged_weights(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A WeightAverage's state as a state dict of the model itself."""
    prefix = "module."
    return {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}


def evaluated_kinds(cfg: CfgNode) -> list[str]:
    """Which weights a training evaluates, "averaged" or "latest": the preferred come first."""
    ema = cfg.MODEL_EMA
    if not ema.ENABLED:
        return ["latest"]
    kinds = ["averaged", "latest"]
    if not ema.USE_EMA_WEIGHTS_FOR_EVAL_ONLY:
        kinds.reverse()
    return kinds if ema.EVAL_BOTH else kinds[:1]


def best_metrics(cfg: CfgNode) -> dict[str, str]:
    """Where the event storage has SOLVER.BEST_METRIC of each kind of weights."""
    metric, (first, *others) = cfg.SOLVER.BEST_METRIC, evaluated_kinds(cfg)
    return {first: metric, **{kind: f"{kind}/{metric}" for kind in others}}
