"""Hooks that keep a run from going wrong silently."""

import logging
import os
import statistics
from collections import deque
from typing import Any, Deque, Dict, List

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from torch import nn

from .train_loop import Batch, GuardedTrainer

logger = logging.getLogger(__name__)


class NonFiniteGuard(HookBase):
    """Count the steps that were skipped for a NaN or an infinity; stop after ``limit`` in a row.

    Each process then leaves OUTPUT_DIR/nonfinite_rank{R}.pth: the loss terms and images of those
    steps, the names of the gradients that are not finite, and the last batch itself.

    Raises:
        FloatingPointError: after ``limit`` steps in a row, naming the images and the loss terms.
    """

    def __init__(self, step: GuardedTrainer, model: nn.Module, limit: int, output_dir: str) -> None:
        self.step = step
        self.model = model
        self.limit = limit
        self.output_dir = output_dir
        self.in_a_row: List[Dict[str, Any]] = []
        self.total = 0

    def after_step(self) -> None:
        if self.step.finite or self.step.scaler_overflow:
            self.in_a_row.clear()
        else:
            self._report()
        self.trainer.storage.put_scalar("skipped_steps", self.total, smoothing_hint=False)

    def _report(self) -> None:
        self.total += 1
        record = {
            "iteration": self.trainer.iter,
            "outcomes": self.step.outcomes,
            "images": gather_image_names(self.step.batches),
        }
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
        names = [
            name
            for name, p in self.model.named_parameters()
            if p.grad is not None and not p.grad.isfinite().all()
        ]
        path = os.path.join(self.output_dir, f"nonfinite_rank{comm.get_rank()}.pth")
        PathManager.mkdirs(self.output_dir)
        content = {
            "steps": self.in_a_row,
            "gradients": names,
            "batches": [[_plain(example) for example in batch] for batch in self.step.batches],
        }
        with PathManager.open(path, "wb") as f:
            torch.save(content, f)
        return path

    def state_dict(self) -> Dict[str, int]:
        return {"total": self.total}

    def load_state_dict(self, state: Dict[str, int]) -> None:
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
        self.recent: Deque[float] = deque(maxlen=self.WINDOW)

    def after_step(self) -> None:
        if not self.step.finite:
            return
        outcomes = self.step.outcomes
        loss = sum(sum(o["losses"].values()) for o in outcomes) / len(outcomes)
        enough = len(self.recent) >= self.WINDOW // 5
        if enough and loss > self.factor * statistics.median(self.recent):
            record = {"outcomes": outcomes, "images": gather_image_names(self.step.batches)}
            logger.warning(
                "Loss spike at iteration %d: %.4g, the median is %.4g. %s",
                self.trainer.iter,
                loss,
                statistics.median(self.recent),
                _describe(record),
            )
        self.recent.append(loss)


class UnusedParameters(HookBase):
    """After the first step, name the parameters that got no gradient.

    Raises:
        RuntimeError: with several processes, where they make DDP wait for gradients forever.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def after_step(self) -> None:
        if self.trainer.iter != self.trainer.start_iter:
            return
        unused = [n for n, p in self.model.named_parameters() if p.requires_grad and p.grad is None]
        if not unused:
            return
        message = (
            f"{len(unused)} parameters got no gradient: {', '.join(unused[:10])}"
            f"{' ...' if len(unused) > 10 else ''}. They do not take part in any loss; freeze them "
            "with requires_grad_(False), or use them."
        )
        if comm.get_world_size() > 1:
            raise RuntimeError(message)
        logger.warning(message)


class RankAgreement(HookBase):
    """Check bit by bit that all processes hold the same weights, at the start and periodically.

    Raises:
        RuntimeError: they do not, naming the first parameter and the processes that differ.
    """

    def __init__(self, model: nn.Module, period: int) -> None:
        self.model = model
        self.period = period

    def before_train(self) -> None:
        self.check()

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.period == 0:
            self.check()

    def check(self) -> None:
        if comm.get_world_size() == 1:
            return
        named = list(self.model.named_parameters())
        sums = torch.stack([_checksum(p) for _, p in named]).tolist()
        everywhere = comm.all_gather(sums)
        for (name, _), values in zip(named, zip(*everywhere)):
            if len(set(values)) > 1:
                raise RuntimeError(
                    f"Parameter {name} differs between processes (checksums by rank: {values}). "
                    "Did all of them start from the same weights and run the same config?"
                )


def gather_image_names(batches: List[Batch]) -> List[List[str]]:
    """Ids and files of the images of a step, a list for each process; a collective call."""
    names = [
        f"{example.get('image_id', '?')} ({example.get('file_name', 'no file name')})"
        for batch in batches
        for example in batch
    ]
    return comm.all_gather(names)


def _describe(record: Dict[str, Any]) -> str:
    parts = []
    for rank, (outcome, images) in enumerate(zip(record["outcomes"], record["images"])):
        terms = ", ".join(f"{name} {value:.4g}" for name, value in outcome["losses"].items())
        parts.append(
            f"Process {rank}: {terms}, gradient norm {outcome['grad_norm']:.4g}; "
            f"images {'; '.join(images)}."
        )
    return " ".join(parts)


def _plain(example: Dict[str, Any]) -> Dict[str, Any]:
    """Tensors and plain values of an example, which torch.load reads without running code."""
    kept = {k: v for k, v in example.items() if isinstance(v, (int, float, str, torch.Tensor))}
    if "instances" in example:
        instances = example["instances"]
        kept["gt_boxes"] = instances.gt_boxes.tensor
        kept["gt_classes"] = instances.gt_classes
    return kept


def _checksum(p: torch.Tensor) -> torch.Tensor:
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[p.element_size()]
    return p.detach().contiguous().view(whole).sum(dtype=torch.int64).cpu()
