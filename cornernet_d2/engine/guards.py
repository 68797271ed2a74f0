"""What keeps a run from going wrong silently."""

import logging
import os
import statistics
from collections import deque
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from detectron2.utils.file_io import PathManager
from torch import nn

from .train_loop import Batch, GuardedTrainer, RunningStatistics

logger = logging.getLogger(__name__)


class NonFiniteGuard(HookBase):
    """Count the steps that were skipped for a NaN or an infinity; stop after ``limit`` in a row.

    Each process then leaves OUTPUT_DIR/nonfinite_rank{R}.pth: the loss terms and images of those
    steps, the names of the gradients that are not finite, and the last batch itself.

    Raises:
        FloatingPointError: after ``limit`` steps in a row, naming the images and the loss terms.
    """

    def __init__(self, step: GuardedTrainer, limit: int, output_dir: str) -> None:
        self.step = step
        self.limit = limit
        self.output_dir = output_dir
        self.in_a_row: list[dict[str, Any]] = []
        self.total = 0

    def after_step(self) -> None:
        if self.step.finite or self.step.scaler_overflow:
            self.in_a_row.clear()
        else:
            self._report()
        self.trainer.storage.put_scalar("skipped_steps", self.total, smoothing_hint=False)

    def _report(self) -> None:
        self.total += 1
        record = _record(self.step, self.trainer.iter)
        self.in_a_row.append(record)
        logger.warning(
            "Skipped iteration %d (%d in all): loss or gradient is not finite. %s",
            record["iteration"],
            self.total,
            _describe(record),
        )
        if len(self.in_a_row) >= self.limit:
            path = self._dump()
            raise FloatingPointError(
                f"{self.limit} steps in a row with a loss or gradient that is not finite "
                f"(SOLVER.NONFINITE_LIMIT). The last one: {_describe(record)} All of them, and the "
                f"last batch, are in {path}. Lower SOLVER.BASE_LR, lengthen SOLVER.WARMUP_ITERS, "
                "clip gradients, or look at these images."
            )

    def _dump(self) -> str:
        path = os.path.join(self.output_dir, f"nonfinite_rank{comm.get_rank()}.pth")
        PathManager.mkdirs(self.output_dir)
        content = {
            "steps": self.in_a_row,
            "gradients": self.step.nonfinite_gradients(),
            "batches": [[_plain(example) for example in batch] for batch in self.step.batches],
        }
        with PathManager.open(path, "wb") as f:
            torch.save(content, f)
        return path

    def state_dict(self) -> dict[str, int]:
        return {"total": self.total}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.total = state["total"]


class LossSpikeReporter(HookBase):
    """Report the images and loss terms of a step whose loss is far above the recent ones.

    Args:
        step: where the losses are read.
        factor: times the median of the last WINDOW steps.
    """

    WINDOW = 100  # iterations

    def __init__(self, step: GuardedTrainer, factor: float) -> None:
        self.step = step
        self.factor = factor
        self.recent: deque[float] = deque(maxlen=self.WINDOW)

    def after_step(self) -> None:
        if not self.step.finite:
            return
        outcomes = self.step.outcomes
        loss = sum(sum(o["losses"].values()) for o in outcomes) / len(outcomes)
        enough = len(self.recent) >= self.WINDOW // 5
        if enough and loss > self.factor * statistics.median(self.recent):
            logger.warning(
                "Loss spike at iteration %d: %.4g, the median is %.4g. %s",
                self.trainer.iter,
                loss,
                statistics.median(self.recent),
                _describe(_record(self.step, self.trainer.iter)),
            )
        self.recent.append(loss)


def freeze_unreached(model: nn.Module, batch: Batch, precision: torch.dtype | None = None) -> None:
    """Freeze, and name in the log, the parameters that no loss depends on.

    DDP would wait for their gradients forever; levels of a feature pyramid that have no head are
    such. A forward and backward pass tells, which leaves no trace. It is collective.
    """
    statistics = RunningStatistics(model)
    statistics.keep()
    device = next(model.parameters()).device.type
    enabled = precision is not None
    # Not at iteration 0, in which periodic things happen.
    with EventStorage(1), torch.autocast(device, dtype=precision, enabled=enabled):
        losses = model.train()(batch)
    sum(losses.values()).backward()
    statistics.restore()
    frozen = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    model.zero_grad()
    if frozen:
        message = "%d parameters take part in no loss and stay as they are, the first ones being %s"
        logger.warning(message, len(frozen), ", ".join(frozen[:10]))


def _record(step: GuardedTrainer, iteration: int) -> dict[str, Any]:
    """Losses and images of a step on all processes; a collective call."""
    names = [
        f"{example.get('image_id', '?')} ({example.get('file_name', 'no file name')})"
        for batch in step.batches
        for example in batch
    ]
    images = comm.all_gather(names)
    return {"iteration": iteration, "outcomes": step.outcomes, "images": images}


def _describe(record: dict[str, Any]) -> str:
    parts = []
    for rank, (outcome, images) in enumerate(zip(record["outcomes"], record["images"])):
        terms = ", ".join(f"{name} {value:.4g}" for name, value in outcome["losses"].items())
        parts.append(
            f"Process {rank}: {terms}, gradient norm {outcome['grad_norm']:.4g}; "
            f"images {'; '.join(images)}."
        )
    return " ".join(parts)


def _plain(example: dict[str, Any]) -> dict[str, Any]:
    """Tensors and plain values of an example, which torch.load reads without running code."""
    kept = {k: v for k, v in example.items() if isinstance(v, (int, float, str, torch.Tensor))}
    if "instances" in example:
        instances = example["instances"]
        kept["gt_boxes"] = instances.gt_boxes.tensor
        kept["gt_classes"] = instances.gt_classes
    return kept
