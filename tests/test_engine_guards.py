"""Runs that go wrong say so: NaN, spikes, unused parameters, processes that disagree."""

import copy
import itertools
import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage, get_event_storage
from tiny_run import TinyDetector, make_dataset, tiny_config, train
from torch.utils._python_dispatch import TorchDispatchMode

from cornernet_d2.engine import CornerNetTrainer, guards

NO_TEST = ("DATASETS.TEST", ())


def spoil(monkeypatch: Any, factors: Callable[[int], float]) -> None:
    """Multiply the loss of iteration k by ``factors(k)``."""
    original = TinyDetector.forward

    def forward(self: TinyDetector, batch: Any) -> dict[str, torch.Tensor]:
        factor = factors(get_event_storage().iter)
        if factor != factor:
            for x in batch:
                x["image"] = x["image"].float() * factor
        return {k: v * factor for k, v in original(self, batch).items()}

    monkeypatch.setattr(TinyDetector, "forward", forward)


def poison_at(monkeypatch: Any, steps: Iterable[int]) -> None:
    bad = set(steps)
    spoil(monkeypatch, lambda k: float("nan") if k in bad else 1.0)


class TestNonFinite:
    @pytest.mark.parametrize("optimizer", ["ADAM", "ADAMW", "SGD"])
    @pytest.mark.parametrize("step", [0, 2])
    def test_step_changes_nothing(
        self, tmp_path: Any, monkeypatch: Any, optimizer: str, step: int
    ) -> None:
        """Neither weights, running means nor moments, in the first step and in a later one."""
        make_dataset(str(tmp_path))
        kind = ("SOLVER.OPTIMIZER", optimizer, "SOLVER.WEIGHT_DECAY", 0.1)
        cfg = tiny_config(str(tmp_path), *NO_TEST, *kind, "SOLVER.MAX_ITER", step + 1)
        trainer = CornerNetTrainer(cfg)
        poison_at(monkeypatch, [step])
        original, before = trainer.run_step, {}

        def run_step() -> None:
            if trainer.iter == step:
                before.update(copy.deepcopy({**trainer.model.state_dict(), **moments()}))
            original()

        def moments() -> dict[str, torch.Tensor]:
            state = trainer.optimizer.state_dict()["state"]
            return {f"{i}.{name}": v for i, s in state.items() for name, v in s.items()}

        trainer.run_step = run_step
        trainer.train()
        assert not trainer._trainer.finite
        after = {**trainer.model.state_dict(), **moments()}
        assert before.keys() <= after.keys() and (step == 0 or moments())
        for name, value in after.items():  # a moment that was not there yet is zero
            if value is not None:
                assert torch.equal(value, before.get(name, torch.zeros_like(value))), name

    def test_skipped_and_counted(self, tmp_path: Any, monkeypatch: Any, caplog: Any) -> None:
        poison_at(monkeypatch, [2, 3, 7])
        run = (*NO_TEST, "SOLVER.NONFINITE_LIMIT", 3)
        trainer = train(str(tmp_path), *run)
        assert all(p.isfinite().all() for p in trainer.model.state_dict().values())
        lines = (tmp_path / "output" / "metrics.json").read_text().splitlines()
        assert json.loads(lines[-1])["skipped_steps"] == 3
        assert caplog.text.count("Skipped iteration") == 3
        resumed = train(str(tmp_path), *run, "SOLVER.MAX_ITER", 13, resume=True)
        (guard,) = [h for h in resumed._hooks if isinstance(h, guards.NonFiniteGuard)]
        assert guard.total == 3

    def test_stops_after_a_few_in_a_row(self, tmp_path: Any, monkeypatch: Any) -> None:
        poison_at(monkeypatch, range(5, 100))
        with pytest.raises(FloatingPointError) as error:
            train(str(tmp_path), *NO_TEST, "SOLVER.NONFINITE_LIMIT", 3)
        message = str(error.value)
        assert "3 steps in a row" in message and "loss_width nan" in message
        dump = torch.load(tmp_path / "output" / "nonfinite_rank0.pth", weights_only=True)
        assert [s["iteration"] for s in dump["steps"]] == [5, 6, 7]
        for name in dump["steps"][-1]["images"][0]:
            assert name in message
        assert "size.weight" in dump["gradients"]
        example = dump["batches"][0][0]
        assert example["image"].isnan().all() and example["gt_boxes"].shape[1] == 4

    def test_gradient_alone(self, tmp_path: Any) -> None:
        """A finite loss whose gradient overflows."""
        make_dataset(str(tmp_path))
        trainer = CornerNetTrainer(tiny_config(str(tmp_path), *NO_TEST, "SOLVER.MAX_ITER", 3))
        weight, seen = trainer.model.size.weight, []

        def overflow_in_the_second(grad: torch.Tensor) -> torch.Tensor:
            seen.append(weight.detach().clone())
            return grad * float("inf") if len(seen) == 2 else grad

        weight.register_hook(overflow_in_the_second)
        trainer.train()
        assert torch.equal(seen[2], seen[1]) and not torch.equal(seen[1], seen[0])

    @pytest.mark.parametrize(
        "clip,value", [("full_model", "nan"), ("norm", "inf"), ("value", "inf")]
    )
    def test_only_the_faulty_gradient_is_named(self, tmp_path: Any, clip: str, value: str) -> None:
        """Though clipping spreads a NaN in the norm to all gradients, and hides an infinity."""
        make_dataset(str(tmp_path))
        keys = ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", clip)
        run = (*NO_TEST, *keys, "SOLVER.NONFINITE_LIMIT", 1)
        trainer = CornerNetTrainer(tiny_config(str(tmp_path), *run))
        trainer.model.size.bias.register_hook(lambda grad: grad * float(value))
        with pytest.raises(FloatingPointError):
            trainer.train()
        dump = torch.load(tmp_path / "output" / "nonfinite_rank0.pth", weights_only=True)
        assert dump["gradients"] == ["size.bias"]

    def test_float16_scaler_finds_its_scale(self, tmp_path: Any) -> None:
        """Overflows while the scaler looks for a scale are no fault of the run."""
        amp = ("SOLVER.AMP.ENABLED", True, "SOLVER.NONFINITE_LIMIT", 1)
        make_dataset(str(tmp_path))
        trainer = CornerNetTrainer(tiny_config(str(tmp_path), *NO_TEST, *amp))
        trainer._trainer.grad_scaler.load_state_dict(
            {**trainer._trainer.grad_scaler.state_dict(), "scale": 2.0**18}
        )
        trainer.train()
        assert trainer._trainer.grad_scaler.get_scale() < 2.0**18
        assert trainer._trainer.finite


def test_loss_spike_is_reported(tmp_path: Any, monkeypatch: Any, caplog: Any) -> None:
    spoil(monkeypatch, lambda k: 100.0 if k == 25 else 1.0)
    train(str(tmp_path), *NO_TEST, "SOLVER.MAX_ITER", 30, "SOLVER.BASE_LR", 0.0001)
    (report,) = [r.getMessage() for r in caplog.records if "Loss spike" in r.getMessage()]
    assert "iteration 25" in report and ".png" in report and "loss_width" in report


def test_unused_parameters_are_frozen_and_named(
    tmp_path: Any, caplog: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(CornerNetTrainer, "resume_or_load", lambda self, resume: None)
    run = (*NO_TEST, "SOLVER.MAX_ITER", 2)
    trainer = train(str(tmp_path), *run, "MODEL.WEIGHTS", "unused")
    (report,) = [r.getMessage() for r in caplog.records if "in no loss" in r.getMessage()]
    assert "2 parameters" in report and "unused.weight, unused.bias" in report
    frozen = [name for name, p in trainer.model.named_parameters() if not p.requires_grad]
    assert frozen == ["unused.weight", "unused.bias"]


def test_looking_for_unused_parameters_leaves_no_trace(tmp_path: Any) -> None:
    make_dataset(str(tmp_path))
    torch.manual_seed(0)
    trainer = CornerNetTrainer(tiny_config(str(tmp_path)))
    torch.manual_seed(0)
    untouched = TinyDetector(trainer.cfg).state_dict()
    assert all(torch.equal(v, untouched[k]) for k, v in trainer.model.state_dict().items())


class Reads(TorchDispatchMode):
    """Counts operations that make the host wait for values of the device."""

    WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith(self.WAITING):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("amp", [False, True])
def test_a_step_is_read_back_once(tmp_path: Any, monkeypatch: Any, amp: bool) -> None:
    """What the trainer adds to the model: one list of numbers, asked for at the end."""
    make_dataset(str(tmp_path))
    clip = ("SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model")
    precision = ("SOLVER.AMP.ENABLED", amp, "SOLVER.AMP.PRECISION", "bfloat16")
    trainer = CornerNetTrainer(tiny_config(str(tmp_path), *clip, *precision))
    step = trainer._trainer
    step._data_loader_iter = itertools.repeat(next(iter(trainer.data_loader)))
    lists, original = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: lists.append(x) or original(x))
    with EventStorage(), Reads() as reads:
        step.run_step()
        step.run_step()
    assert reads.found == [] and len(lists) == 2
