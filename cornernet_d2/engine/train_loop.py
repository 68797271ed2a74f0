"""One optimisation step: mixed precision, gradient accumulation, and a guard against NaN."""

import time
from contextlib import nullcontext
from typing import Any, ContextManager, Dict, Iterable, List, Optional

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

Batch = List[Dict[str, Any]]


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


class GuardedTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer with autocast, accumulation, clipping and a finite check.

    A step whose loss or gradient is not finite on any process changes nothing on any of them:
    neither weights nor running statistics; see :class:`.guards.NonFiniteGuard` for
    what is made of it.

    Args:
        model, data_loader, optimizer: as in SimpleTrainer.
        precision: dtype to autocast to, on the model's device; None for none. float16 comes with
            a gradient scaler.
        accumulation: batches of the loader per step.
        clip_norm: largest norm of all gradients together; infinity for no clipping.

    Attributes:
        outcomes (list): of the last step, one dict per process: "losses" {name: value},
            "grad_norm", "data_time" (s), "images", "stop" (a process asks to stop).
        batches (list): the batches of the last step on this process.
        finite (bool): whether losses and gradients were finite and the last step was taken.
        scaler_overflow (bool): it was not, but only because the gradient scaler tries too large
            a scale, which it now lowers.
        stop_requested (bool): set to have ``stop_agreed`` turn True on all processes.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        optimizer: torch.optim.Optimizer,
        *,
        precision: Optional[torch.dtype] = None,
        accumulation: int = 1,
        clip_norm: float = float("inf"),
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.precision = precision
        self.accumulation = accumulation
        self.clip_norm = clip_norm
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.grad_scaler = torch.amp.GradScaler(
            self.device.type, enabled=precision == torch.float16
        )
        self.outcomes: List[Dict[str, Any]] = []
        self.batches: List[Batch] = []
        self.finite = True
        self.scaler_overflow = False
        self.stop_requested = False

    @property
    def stop_agreed(self) -> bool:
        return any(outcome["stop"] for outcome in self.outcomes)

    def run_step(self) -> None:
        start = time.perf_counter()
        self.batches = [next(self._data_loader_iter) for _ in range(self.accumulation)]
        data_time = time.perf_counter() - start

        statistics = _RunningStatistics(self.model)
        self.optimizer.zero_grad()
        losses = self._forward_backward()
        self.grad_scaler.unscale_(self.optimizer)
        grad_norm = nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        self.outcomes = comm.all_gather(
            {
                "losses": {name: value.item() for name, value in losses.items()},
                "grad_norm": grad_norm.item(),
                "data_time": data_time,
                "images": sum(len(batch) for batch in self.batches),
                "stop": self.stop_requested,
            }
        )
        self.finite = all(
            _is_finite([o["grad_norm"], *o["losses"].values()]) for o in self.outcomes
        )
        if self.finite:
            self.grad_scaler.step(self.optimizer)
        else:
            statistics.restore()
        self.scaler_overflow = (
            not self.finite
            and self.grad_scaler.is_enabled()
            and self.grad_scaler.get_scale() > 1
            and all(_is_finite(o["losses"].values()) for o in self.outcomes)
        )
        self.grad_scaler.update()
        self._write_outcomes()

    def _forward_backward(self) -> Dict[str, torch.Tensor]:
        total: Dict[str, torch.Tensor] = {}
        weight = self._share_counts()
        for k, batch in enumerate(self.batches):
            with self._gradient_sync(last=k == len(self.batches) - 1):
                with torch.autocast(
                    self.device.type, dtype=self.precision, enabled=self.precision is not None
                ):
                    losses = self.model(batch)
                losses = {name: weight * value for name, value in losses.items()}
                self.grad_scaler.scale(sum(losses.values())).backward()
            for name, value in losses.items():
                total[name] = total.get(name, 0) + value.detach()
        return total

    def _share_counts(self) -> float:
        """Have the losses divided by the counts of all batches; return what to multiply them by.

        The losses of a model that has no ``count_targets`` are averaged instead.
        """
        model = unwrap(self.model)
        if self.accumulation == 1:
            return 1.0
        if not hasattr(model, "count_targets"):
            return 1 / self.accumulation
        model.loss_counts = sum(model.count_targets(batch) for batch in self.batches)
        return 1.0

    def _gradient_sync(self, last: bool) -> ContextManager:
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def _write_outcomes(self) -> None:
        if not comm.is_main_process():
            return
        storage = get_event_storage()
        storage.put_scalar("data_time", max(o["data_time"] for o in self.outcomes))
        if not self.finite:
            return
        # Each process reports its share, scaled so that the mean is the loss of the whole batch.
        mean = {
            name: sum(o["losses"][name] for o in self.outcomes) / len(self.outcomes)
            for name in self.outcomes[0]["losses"]
        }
        storage.put_scalar("total_loss", sum(mean.values()))
        storage.put_scalars(**mean)
        storage.put_scalar("grad_norm", self.outcomes[0]["grad_norm"])

    def state_dict(self) -> Dict[str, Any]:
        state = super().state_dict()
        state["grad_scaler"] = self.grad_scaler.state_dict()
        if hasattr(self.data_loader, "state_dict"):
            state["data_loader"] = self.data_loader.state_dict()
        return state

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        if "data_loader" in state_dict:
            self.data_loader.load_state_dict(state_dict["data_loader"])


class _RunningStatistics:
    """A copy of the model's buffers: one forward with a NaN would spoil running means for good."""

    def __init__(self, model: nn.Module) -> None:
        self.buffers = list(model.buffers())
        self.copies = [buffer.clone() for buffer in self.buffers]

    def restore(self) -> None:
        for buffer, copy in zip(self.buffers, self.copies):
            buffer.copy_(copy)


def _is_finite(values: Iterable[float]) -> bool:
    return all(abs(value) < float("inf") for value in values)  # False for NaN, too
