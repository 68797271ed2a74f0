"""Hooks that CornerNetTrainer adds to Detectron2's; the guards are in guards.py."""

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
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
        if self.trainer.iter >= self.trainer.max_iter:
            self.write_final()

    def write_final(self) -> None:
        if comm.is_main_process():
            weights = {"model": self.ema.module.state_dict(), "averaged": True}
            self.checkpointer.write("model_final_ema", weights)


class BestWeights(HookBase):
    """Keep the weights that evaluated best as model_best.pth: weights alone, ready for use.

    Detectron2's BestCheckpointer would make it the checkpoint to resume from, and forgets after a
    resume how good it was. Must come after the EvalHook.

    Args:
        checkpointer: writes the file.
        metrics: a key of the event storage for each kind of weights that is evaluated, "averaged"
            or "latest"; more is better.
        weights: gives the model with weights of that kind.
    """

    def __init__(
        self,
        checkpointer: TrainingCheckpointer,
        metrics: dict[str, str],
        weights: Callable[[str], nn.Module],
    ) -> None:
        self.checkpointer = checkpointer
        self.metrics = metrics
        self.weights = weights
        self.best = -math.inf

    def before_train(self) -> None:
        path = os.path.join(self.checkpointer.save_dir, "model_best.pth")
        if os.path.exists(path):
            saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            self.best = saved["metric"]

    def after_step(self) -> None:
        # Without a new evaluation these are the old values, which are not better.
        latest = self.trainer.storage.latest()
        found = {kind: latest.get(key, (-math.inf, 0)) for kind, key in self.metrics.items()}
        found = {kind: pair for kind, pair in found.items() if math.isfinite(pair[0])}
        kind = max(found, key=lambda kind: found[kind][0], default=None)
        if kind is None or found[kind][0] <= self.best:
            return
        self.best, iteration = found[kind]
        notes = {"metric": self.best, "iteration": iteration, "averaged": kind == "averaged"}
        if len(self.metrics) > 1:
            values = ", ".join(f"{k} {value:.2f}" for k, (value, _) in found.items())
            logger.info("model_best.pth gets the %s weights (%s)", kind, values)
        self.checkpointer.write("model_best", {"model": self.weights(kind).state_dict(), **notes})

    def after_train(self) -> None:
        self.after_step()
        done = self.trainer.iter + 1 >= self.trainer.max_iter
        for metric in self.metrics.values():
            if done and metric not in self.trainer.storage.latest():
                logger.warning("SOLVER.BEST_METRIC %s was not evaluated", metric)


class StopTraining(BaseException):
    """Ends the loop of a run that is complete; no Exception, which Detectron2 would log as one."""


class EarlyStopping(HookBase):
    """End the run once no metric has risen for so many evaluations. After BestWeights.

    Args:
        metrics: keys of the event storage, of which the highest counts.
        period: iterations between evaluations.
        patience: evaluations in a row without a rise after which the run ends.
        min_delta: a rise by less than this counts as none.
        finish: called in every process before the end; writes the final files.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        period: int,
        patience: int,
        min_delta: float,
        finish: Callable[[], None],
    ) -> None:
        self.metrics = list(metrics)
        self.period, self.patience, self.min_delta = period, patience, min_delta
        self.finish = finish
        self.best, self.best_iteration, self.stale = -math.inf, -1, 0

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period or done >= self.trainer.max_iter:
            return
        self._count()
        # Results are the main process's alone.
        if not comm.all_gather(self.stale >= self.patience)[0]:
            return
        logger.warning(
            "Stopped early: in %d evaluations %s has not risen above %.4g of iteration %d by more "
            "than SOLVER.MIN_DELTA %g; to go on, --resume with a higher SOLVER.PATIENCE",
            self.stale,
            self.metrics[0],
            self.best,
            self.best_iteration,
            self.min_delta,
        )
        self.finish()
        raise StopTraining

    def _count(self) -> None:
        latest, now = self.trainer.storage.latest(), self.trainer.iter
        pairs = [latest.get(metric, (math.nan, -1)) for metric in self.metrics]
        value = max((v for v, iteration in pairs if iteration == now and v == v), default=math.nan)
        if value > self.best + self.min_delta:
            self.best, self.best_iteration, self.stale = value, now, 0
        else:
            self.stale += 1

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "iteration": self.best_iteration, "stale": self.stale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_iteration = state["best"], state["iteration"]
        self.stale = state["stale"]


class Forecast(HookBase):
    """Say after a few steps how long all of them will take."""

    SKIPPED, MEASURED = 5, 20  # iterations

    def after_step(self) -> None:
        steps = self.trainer.iter + 1 - self.trainer.start_iter
        if steps == self.SKIPPED:
            self.start = time.perf_counter()
        elif steps == self.SKIPPED + self.MEASURED:
            pace = (time.perf_counter() - self.start) / self.MEASURED
            left = self.trainer.max_iter - self.trainer.iter - 1
            logger.info(
                "At %.3g s an iteration the %d iterations left take about %s, evaluations not "
                "counted",
                pace,
                left,
                _duration(left * pace),
            )


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


class Preemption(HookBase):
    """On SIGTERM or Ctrl-C, save after the current step and exit, so that --resume continues.

    The exit status is 143 or 130, as of a process that the signal ended, for schedulers that tell a
    finished job from a preempted one by it. A signal during evaluation does not wait for its end. A
    second Ctrl-C ends the process at once.
    In a thread other than the main one, where Python lets nobody handle signals, it does nothing.

    Args:
        step: learns about the signal and tells the other processes.
        checkpointer: saves.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, step: GuardedTrainer, checkpointer: TrainingCheckpointer) -> None:
        self.step = step
        self.checkpointer = checkpointer
        self.in_step = True
        self.received = signal.SIGTERM  # unless another process was told
        self.previous: dict[signal.Signals, Any] = {}

    def before_train(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self.previous = {s: signal.signal(s, self._on_signal) for s in self.SIGNALS}

    def before_step(self) -> None:
        self.in_step = True

    def after_step(self) -> None:
        if self.step.stop_agreed:
            self._save_and_exit()
        self.in_step = False  # evaluation comes next

    def after_train(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            logger.warning("Ctrl-C: saving after this step; again to stop at once")
        self.step.stop_requested = True
        if not self.in_step:
            self._save_and_exit()

    def _save_and_exit(self) -> None:
        iteration = self.trainer.iter
        message = "%s: saving after iteration %d; continue with --resume"
        logger.warning(message, self.received.name, iteration)
        self.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        raise SystemExit(128 + self.received)
