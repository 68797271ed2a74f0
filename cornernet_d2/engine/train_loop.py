"""One optimisation step: mixed precision, gradient accumulation, and a guard against NaN."""

import math
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .resume import optimizer_kind

Batch = list[dict[str, Any]]


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside a DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


class GuardedTrainer(SimpleTrainer):
    """Detectron2's SimpleTrainer with autocast, accumulation and a finite check.

    A step whose loss or gradient is not finite on any process changes nothing on any of them:
    neither weights, moments nor running statistics; see :class:`.guards.NonFiniteGuard` for
    what is made of it. The host waits for the device once in a step, when all of it is queued.

    Args:
        model, data_loader, optimizer: as in SimpleTrainer.
        precision: dtype to autocast to, on the model's device; None for none. float16 comes with
            a gradient scaler.
        accumulation: batches of the loader per step.

    Attributes:
        outcomes (list): of the last step, one dict per process: "losses" {name: value},
            and as numbers "grad_norm", "data_time" (s), "images" and "stop" (0 or 1).
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
        precision: torch.dtype | None = None,
        accumulation: int = 1,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.precision = precision
        self.accumulation = accumulation
        named = unwrap(model).named_parameters()
        self.parameters = {name: p for name, p in named if p.requires_grad}
        self.device = next(iter(self.parameters.values())).device
        self.grad_scaler = torch.amp.GradScaler(
            self.device.type, enabled=precision == torch.float16
        )
        # Fused Adam reads on the device whether it is to do nothing; for others the host decides.
        # (Fused SGD reads it too, but leaves its momentum uninitialised if that is its first step.)
        adam = isinstance(optimizer, torch.optim.Adam)
        self.decides_on_device = adam and bool(optimizer.defaults["fused"])
        self.statistics = RunningStatistics(model)
        self.grad_norms: dict[str, torch.Tensor] = {}
        self.outcomes: list[dict[str, Any]] = []
        self.batches: list[Batch] = []
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

        self.statistics.keep()
        self.optimizer.zero_grad()
        losses = self._forward_backward()
        self.grad_scaler.unscale_(self.optimizer)
        # Before anything clips: a norm that is not finite would spread to all gradients.
        grads = {n: p.grad for n, p in self.parameters.items() if p.grad is not None}
        self.grad_norms = dict(zip(grads, torch._foreach_norm(list(grads.values()))))
        record = self._gather(losses, data_time)
        self._update_if_finite(record[:, : len(losses) + 1].isfinite().all())
        self._read(record, list(losses))
        if not self.finite:
            self.statistics.restore()
        self.scaler_overflow = (
            not self.finite
            and self.grad_scaler.is_enabled()
            and self.grad_scaler.get_scale() > 1
            and all(_is_finite(*o["losses"].values()) for o in self.outcomes)
        )
        self.grad_scaler.update()
        self._write_outcomes(time.perf_counter() - start)

    def nonfinite_gradients(self) -> list[str]:
        """Names of the parameters whose gradients were not finite in the last step."""
        finite = torch.stack(list(self.grad_norms.values())).isfinite().tolist()
        return [name for name, ok in zip(self.grad_norms, finite) if not ok]

    def _forward_backward(self) -> dict[str, torch.Tensor]:
        total: dict[str, torch.Tensor] = {}
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

    def _gradient_sync(self, last: bool) -> AbstractContextManager:
        if last or not isinstance(self.model, DistributedDataParallel):
            return nullcontext()
        return self.model.no_sync()

    def _gather(self, losses: dict[str, torch.Tensor], data_time: float) -> torch.Tensor:
        """What all processes know of the step: (processes, losses + 4) float64, on the device.

        Columns: the losses; gradient norm, data time, images, and whether to stop.
        """
        norm = torch.linalg.vector_norm(torch.stack(list(self.grad_norms.values())))
        images = sum(len(batch) for batch in self.batches)
        # Filled in by kernels: a tensor of host values would have to be copied, and waited for.
        known = (data_time, images, float(self.stop_requested))
        known = (norm.new_full((), x, dtype=torch.float64) for x in known)
        mine = torch.stack([x.double() for x in (*losses.values(), norm, *known)])[None]
        if comm.get_world_size() == 1:
            return mine
        record = mine.new_empty(comm.get_world_size(), mine.shape[1])
        dist.all_gather_into_tensor(record, mine)
        return record

    def _update_if_finite(self, finite: torch.Tensor) -> None:
        if self.decides_on_device:
            self.optimizer.found_inf = 1 - finite.float()
            self.optimizer.step()
            del self.optimizer.found_inf
        elif finite:
            self.optimizer.step()

    def _read(self, record: torch.Tensor, names: list[str]) -> None:
        others, n = ("grad_norm", "data_time", "images", "stop"), len(names)
        self.outcomes = [
            {"losses": dict(zip(names, row)), **dict(zip(others, row[n:]))}
            for row in record.tolist()
        ]
        self.finite = all(_is_finite(o["grad_norm"], *o["losses"].values()) for o in self.outcomes)

    def _write_outcomes(self, seconds: float) -> None:
        if not comm.is_main_process():
            return
        storage = get_event_storage()
        storage.put_scalar("data_time", max(o["data_time"] for o in self.outcomes))
        images = sum(o["images"] for o in self.outcomes)
        storage.put_scalar("images_per_second", images / seconds)
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

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["grad_scaler"] = self.grad_scaler.state_dict()
        state["optimizer_kind"] = optimizer_kind(self.optimizer)
        if hasattr(self.data_loader, "state_dict"):
            state["data_loader"] = self.data_loader.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        if "data_loader" in state_dict:
            self.data_loader.load_state_dict(state_dict["data_loader"])


class RunningStatistics:
    """A copy of the model's buffers: one forward with a NaN would spoil running means for good."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.copies = [torch.empty_like(buffer) for buffer in model.buffers()]

    def keep(self) -> None:
        _copy(self.copies, list(self.model.buffers()))

    def restore(self) -> None:
        _copy(list(self.model.buffers()), self.copies)


def _copy(to: list[torch.Tensor], of: list[torch.Tensor]) -> None:
    for dtype in {x.dtype for x in to}:  # of one dtype, a list is copied by one kernel
        pairs = [(x, y) for x, y in zip(to, of) if x.dtype == dtype]
        torch._foreach_copy_([x for x, _ in pairs], [y for _, y in pairs])


def _is_finite(*values: float) -> bool:
    return all(math.isfinite(value) for value in values)
