"""Hooks that CornerNetTrainer adds to Detectron2's."""

import logging
import math
import os
import signal
import time
from types import FrameType
from typing import Any, Callable, Optional

import torch
from detectron2.engine import HookBase, hooks
from detectron2.utils import comm
from torch import nn

from .checkpointer import TrainingCheckpointer
from .train_loader import TrainLoader, entropy_words
from .train_loop import GuardedTrainer

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


class Throughput(HookBase):
    """Report images per second over all processes, data loading included."""

    def __init__(self, step: GuardedTrainer) -> None:
        self.step = step

    def before_step(self) -> None:
        self.start = time.perf_counter()

    def after_step(self) -> None:
        images = sum(outcome["images"] for outcome in self.step.outcomes)
        seconds = time.perf_counter() - self.start
        self.trainer.storage.put_scalar("images_per_second", images / seconds)


class BestWeights(hooks.BestCheckpointer):
    """Keep the weights that evaluated best as model_best.pth: weights alone, ready for use.

    Detectron2's hook would make it the checkpoint to resume from, and forgets after a resume how
    good it was.

    Args:
        eval_period: of the EvalHook, which must come before this one.
        checkpointer: writes the file.
        metric: a key of the event storage; more is better.
        evaluated_model: gives the model that is evaluated.
    """

    def __init__(
        self,
        eval_period: int,
        checkpointer: TrainingCheckpointer,
        metric: str,
        evaluated_model: Callable[[], nn.Module],
    ) -> None:
        super().__init__(eval_period, self, metric)
        self._files = checkpointer
        self._metric = metric
        self._model = evaluated_model

    def before_train(self) -> None:
        path = os.path.join(self._files.save_dir, "model_best.pth")
        if os.path.exists(path):
            saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            self.best_metric, self.best_iter = saved["metric"], saved["iteration"]

    def save(self, name: str, iteration: int) -> None:
        """What the base class calls as its checkpointer's ``save``."""
        value = self.trainer.storage.latest()[self._metric][0]
        if math.isfinite(value):
            weights = self._model().state_dict()
            self._files.write(name, {"model": weights, "metric": value, "iteration": iteration})


class Preemption(HookBase):
    """On SIGTERM, save after the current step and exit, so that --resume continues the run.

    The exit status is 143, as of a process that the signal ended, for schedulers that tell a
    finished job from a preempted one by it. A signal during evaluation does not wait for its end.

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
        self.previous = signal.signal(signal.SIGTERM, self._on_signal)

    def before_step(self) -> None:
        self.in_step = True

    def after_step(self) -> None:
        if self.step.stop_agreed:
            self._save_and_exit()
        self.in_step = False  # evaluation comes next

    def after_train(self) -> None:
        signal.signal(signal.SIGTERM, self.previous)

    def _on_signal(self, number: int, frame: Optional[FrameType]) -> None:
        self.step.stop_requested = True
        if not self.in_step:
            self._save_and_exit()

    def _save_and_exit(self) -> None:
        iteration = self.trainer.iter
        logger.warning("SIGTERM: saving after iteration %d; continue with --resume", iteration)
        self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        raise SystemExit(self.EXIT_STATUS)
