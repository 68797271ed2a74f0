"""Runs that go wrong say so: NaN, spikes, unused parameters, processes that disagree."""

import json
from typing import Any, Callable, Dict, Iterable

import pytest
import torch
from tiny_run import TinyDetector, make_dataset, tiny_config, train

from cornernet_d2.engine import CornerNetTrainer, guards

NO_TEST = ("DATASETS.TEST", ())


def spoil(monkeypatch: Any, factors: Callable[[int], float]) -> None:
    """Multiply the loss of the k-th forward by ``factors(k)``."""
    original, calls = TinyDetector.forward, iter(range(10**6))

    def forward(self: TinyDetector, batch: Any) -> Dict[str, torch.Tensor]:
        factor = factors(next(calls))
        if factor != factor:
            for x in batch:
                x["image"] = x["image"].float() * factor
        return {k: v * factor for k, v in original(self, batch).items()}

    monkeypatch.setattr(TinyDetector, "forward", forward)


def poison_at(monkeypatch: Any, steps: Iterable[int]) -> None:
    bad = set(steps)
    spoil(monkeypatch, lambda k: float("nan") if k in bad else 1.0)


class TestNonFinite:
    def test_step_changes_nothing(self, tmp_path: Any, monkeypatch: Any) -> None:
        make_dataset(str(tmp_path))
        trainer = CornerNetTrainer(tiny_config(str(tmp_path), *NO_TEST, "SOLVER.MAX_ITER", 1))
        before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        poison_at(monkeypatch, [0])
        trainer.train()
        after = trainer.model.state_dict()
        assert all(torch.equal(after[k], before[k]) for k in before)  # running means, too
        assert not trainer.optimizer.state_dict()["state"]

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


def test_unused_parameters_are_named(tmp_path: Any, caplog: Any, monkeypatch: Any) -> None:
    make_dataset(str(tmp_path))
    monkeypatch.setattr(CornerNetTrainer, "resume_or_load", lambda self, resume: None)
    train(str(tmp_path), *NO_TEST, "MODEL.WEIGHTS", "unused", "SOLVER.MAX_ITER", 2)
    (report,) = [r.getMessage() for r in caplog.records if "no gradient" in r.getMessage()]
    assert "unused.weight, unused.bias" in report
