"""Hooks that CornerNetTrainer adds to Detectron2's; the guards are in guards.py."""

import logging
import math
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from .checkpointer import TrainingCheckpointer
from .ema import WeightAverage
from .train_loader import TrainLoader, entropy_words
from .train_loop import GuardedTrainer, unwrap

logger = logging.getLogger(__name__)


class StepSeed(HookBase):
    """Seed torch before each step by the run's seed, the iteration and the rank.

    Dropout and the like then repeat exactly after a resume, without their state in a checkpoint.
    """

    def __init__(self, loader: TrainLoader) -> None:
        self.loader = loader  # its seed changes when a checkpoint is loaded

    def before_step(self) -> None:
        words = entropy_words(self.loader.seed, self.trainer.iter, comm.get_rank())
        torch.manual_seed(words[0])


class Averaging(HookBase):
    """Update the averaged weights after every step that was taken.

    Args:
        ema: the average to update.
        step: has the model, and tells whether its weights changed.
        checkpointer: writes the final average as model_final_ema.pth: weights alone.
    """

    def __init__(
        self, ema: WeightAverage, step: GuardedTrainer, checkpointer: TrainingCheckpointer
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


class BestWeights(HookBase):
    """Keep the weights that evaluated best as model_best.pth: weights alone, ready for use.

    Detectron2's BestCheckpointer would make it the checkpoint to resume from, and forgets after a
    resume how good it was. Must come after the EvalHook.

    Args:
        checkpointer: writes the file.
        metric: a key of the event storage; more is better.
        evaluated_model: gives the model that is evaluated.
    """

    def __init__(
        self,
        checkpointer: TrainingCheckpointer,
        metric: str,
        evaluated_model: Callable[[], nn.Module],
    ) -> None:
        self.checkpointer = checkpointer
        self.metric = metric
        self.evaluated_model = evaluated_model
        self.best = -math.inf

    def before_train(self) -> None:
        path = os.path.join(self.checkpointer.save_dir, "model_best.pth")
        if os.path.exists(path):
            saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            self.best = saved["metric"]

    def after_step(self) -> None:
        # Without a new evaluation this is the old value, which is not better.
        value, iteration = self.trainer.storage.latest().get(self.metric, (-math.inf, 0))
        if math.isfinite(value) and value > self.best:
            self.best = value
            weights = self.evaluated_model().state_dict()
            notes = {"metric": value, "iteration": iteration}
            self.checkpointer.write("model_best", {"model": weights, **notes})

    def after_train(self) -> None:
        self.after_step()
        done = self.trainer.iter + 1 >= self.trainer.max_iter
        if done and self.metric not in self.trainer.storage.latest():
            logger.warning("SOLVER.BEST_METRIC %s was not evaluated", self.metric)


class Preemption(HookBase):
    """On SIGTERM, save after the current step and exit, so that --resume continues the run.

    The exit status is 143, as of a process that the signal ended, for schedulers that tell a
    finished job from a preempted one by it. A signal during evaluation does not wait for its end.
    In a thread other than the main one, where Python lets nobody handle signals, it does nothing.

    Args:
        step: learns about the signal and tells the other processes.
        checkpointer: saves.
    """

    EXIT_STATUS = 128 + signal.SIGTERM

    def __init__(self, step: GuardedTrainer, checkpointer: TrainingCheckpointer) -> None:
        self.step = step
        self.checkpointer = checkpointer
        self.in_step = True
        self.previous: Any = None

    def before_train(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.previous = signal.signal(signal.SIGTERM, self._on_signal)

    def before_step(self) -> None:
        self.in_step = True

    def after_step(self) -> None:
        if self.step.stop_agreed:
            self._save_and_exit()
        self.in_step = False  # evaluation comes next

    def after_train(self) -> None:
        if self.previous is not None:
            signal.signal(signal.SIGTERM, self.previous)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.step.stop_requested = True
        if not self.in_step:
            self._save_and_exit()

    def _save_and_exit(self) -> None:
        iteration = self.trainer.iter
        logger.warning("SIGTERM: saving after iteration %d; continue with --resume", iteration)
        self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        raise SystemExit(self.EXIT_STATUS)
