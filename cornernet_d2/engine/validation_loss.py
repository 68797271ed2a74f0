"""Losses on the test sets, as a run goes on: whether it learns or learns by heart."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from ..data import CornerNetDatasetMapper
from .precision import precision
from .train_loop import Batch

logger = logging.getLogger(__name__)


class ValidationLoss(HookBase):
    """Put validation/loss_* and validation/total_loss in the storage every TEST.LOSS_PERIOD.

    Images are prepared as in a test, normalisation layers use their running statistics, and
    batches have SOLVER.IMS_PER_BATCH images, each normalised as a training batch is; the value is
    the mean over them. The last batch is filled up from the beginning of the set. Sets without
    annotations are left out.

    Args:
        cfg: of the run.
        model_to_evaluate: gives the model, on its device; called in all processes.
    """

    def __init__(self, cfg: CfgNode, model_to_evaluate: Callable[[], nn.Module]) -> None:
        self.period = cfg.TEST.LOSS_PERIOD
        self.batch_size = cfg.SOLVER.IMS_PER_BATCH // cfg.SOLVER.GRADIENT_ACCUMULATION
        self.precision = precision(cfg)
        self.model_to_evaluate = model_to_evaluate
        self.mapper = validation_mapper(cfg)
        sets = [get_detection_dataset_dicts(n, filter_empty=False) for n in cfg.DATASETS.TEST]
        self.dicts = [d for dicts in sets if any(x["annotations"] for x in dicts) for d in dicts]
        if not self.dicts:
            logger.warning("TEST.LOSS_PERIOD has no effect: DATASETS.TEST has no annotations")

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.dicts and (done % self.period == 0 or done == self.trainer.max_iter):
            losses = self.compute()
            if comm.is_main_process():
                scalars = {f"validation/{name}": value for name, value in losses.items()}
                self.trainer.storage.put_scalars(**scalars, smoothing_hint=False)

    def compute(self) -> dict[str, float]:
        """Mean losses and their sum; a collective call."""
        model = self.model_to_evaluate()
        was_training, device = model.training, next(model.parameters()).device.type
        model.eval()
        model.training = True  # of the model alone: its layers stay as in a test
        sums: dict[str, float] = {}
        batches = list(self._batches())
        enabled = self.precision is not None
        try:
            # What the model puts in the storage belongs to training.
            with EventStorage(1), torch.no_grad():
                for batch in batches:
                    with torch.autocast(device, dtype=self.precision, enabled=enabled):
                        losses = model([self.mapper(d) for d in batch])
                    for name, value in losses.items():
                        sums[name] = sums.get(name, 0.0) + value.item() / len(batches)
        finally:
            model.train(was_training)
        everywhere = comm.all_gather(sums)
        means = {name: sum(s[name] for s in everywhere) / len(everywhere) for name in sums}
        return {**means, "total_loss": sum(means.values())}

    def _batches(self) -> Iterator[Batch]:
        """Dataset dicts of this process's part of each batch; as many batches in all processes."""
        rank, world_size = comm.get_rank(), comm.get_world_size()
        for start in range(0, len(self.dicts), self.batch_size):
            part = range(start + rank, start + self.batch_size, world_size)
            yield [self.dicts[i % len(self.dicts)] for i in part]


def validation_mapper(cfg: CfgNode) -> CornerNetDatasetMapper:
    """The truth as in training, the image as in a test."""
    arguments: dict[str, Any] = CornerNetDatasetMapper.from_config(cfg, is_train=True)
    test = CornerNetDatasetMapper.from_config(cfg, is_train=False)
    return CornerNetDatasetMapper(**{**arguments, "augmentations": test["augmentations"]})
