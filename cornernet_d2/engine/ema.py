"""Exponential moving average of the weights: torch's AveragedModel as a Detectron2 hook."""

from typing import Any, Dict, List

import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn
from torch.optim.swa_utils import AveragedModel

from .checkpointer import TrainingCheckpointer
from .train_loop import GuardedTrainer, unwrap


def build_ema(cfg: CfgNode, model: nn.Module) -> AveragedModel:
    """The average of ``model``'s weights and running statistics that MODEL_EMA describes."""
    decay = cfg.MODEL_EMA.DECAY
    if not 0 <= decay < 1:
        raise ValueError(f"MODEL_EMA.DECAY is {decay}; it must be in [0, 1)")

    def average(averaged: List[torch.Tensor], current: List[torch.Tensor], _: Any) -> None:
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - decay)
        else:  # counters, such as num_batches_tracked
            torch._foreach_copy_(averaged, current)

    ema = AveragedModel(
        unwrap(model), device=cfg.MODEL_EMA.DEVICE or None, multi_avg_fn=average, use_buffers=True
    )
    return ema.requires_grad_(False)


class EMAHook(HookBase):
    """Update the average after every step that was taken.

    Args:
        ema: the average to update.
        step: has the model, and tells whether its weights changed.
        checkpointer: writes the final average as model_final_ema.pth: weights alone.
    """

    def __init__(
        self, ema: AveragedModel, step: GuardedTrainer, checkpointer: TrainingCheckpointer
    ) -> None:
        self.ema = ema
        self.step = step
        self.checkpointer = checkpointer

    def after_step(self) -> None:
        if self.step.finite:
            self.ema.update_parameters(unwrap(self.step.model))

    def after_train(self) -> None:
        if comm.is_main_process() and self.trainer.iter >= self.trainer.max_iter:
            self.checkpointer.write("model_final_ema", {"model": self.ema.module.state_dict()})


def averaged_weights(state_dict: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    """An AveragedModel's state as a state dict of the model itself."""
    prefix = "module."
    return {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
