"""Averaged weights: formula, checkpoint, evaluation."""

import json
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from tiny_run import tiny_config, train

from cornernet_d2.engine import CornerNetTrainer
from cornernet_d2.engine.ema import build_ema

ON = ("MODEL_EMA.ENABLED", True, "MODEL_EMA.DECAY", 0.9)


def test_is_the_recurrence(tmp_path: Any) -> None:
    cfg = tiny_config(str(tmp_path), *ON)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).double()
    ema = build_ema(cfg, model)
    expected = None
    for step in range(6):
        model(torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(step)))
        with torch.no_grad():
            model[0].weight.add_(step)
        ema.update_parameters(model)
        now = {k: v.clone() for k, v in model.state_dict().items()}
        if expected is None:
            expected = now
        for key, value in now.items():
            if value.is_floating_point():
                expected[key] = 0.9 * expected[key] + 0.1 * value
            else:
                expected[key] = value  # num_batches_tracked is a count
    for key, value in ema.module.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-12, atol=1e-12)


def test_decay_must_be_a_fraction(tmp_path: Any) -> None:
    cfg = tiny_config(str(tmp_path), "MODEL_EMA.ENABLED", True, "MODEL_EMA.DECAY", 1.5)
    with pytest.raises(ValueError, match="MODEL_EMA.DECAY"):
        build_ema(cfg, torch.nn.Linear(1, 1))


def evaluated(cfg: CfgNode) -> torch.Tensor:
    """The weight that --eval-only would use."""
    model = CornerNetTrainer.build_model(cfg)
    CornerNetTrainer.load_weights(cfg, model, resume=True)
    return model.size.weight


def test_evaluated_and_checkpointed(tmp_path: Any) -> None:
    trainer = train(str(tmp_path), *ON)
    averaged, latest = trainer.ema.module.size.weight, trainer.model.size.weight
    assert not torch.equal(averaged, latest)
    assert trainer.evaluated_model() is trainer.ema.module
    assert torch.equal(evaluated(trainer.cfg), averaged)
    for name in ("model_best", "model_final_ema"):
        saved = torch.load(tmp_path / "output" / f"{name}.pth", weights_only=True)["model"]
        assert torch.equal(saved["size.weight"], averaged)
    off = "MODEL_EMA.USE_EMA_WEIGHTS_FOR_EVAL_ONLY", False
    assert torch.equal(evaluated(tiny_config(str(tmp_path), *ON, *off)), latest)


@pytest.mark.parametrize("preferred", [True, False])
def test_the_better_of_both_is_kept(tmp_path: Any, monkeypatch: Any, preferred: bool) -> None:
    """model_best.pth and early stopping go by the higher score of each evaluation."""
    kinds = ["latest", "averaged"] if preferred else ["averaged", "latest"]  # the preferred is last
    scores = [(10, 20), (30, 15), (10, 29), (30, 11), (40, 40)]
    left, tested = [s for pair in scores for s in pair], []

    def test(self: CornerNetTrainer, cfg: CfgNode, model: torch.nn.Module) -> dict:
        tested.append(model)
        return {"bbox": {"AP": float(left.pop(0))}}

    monkeypatch.setattr(CornerNetTrainer, "test", test)
    run = ("TEST.EVAL_PERIOD", 2, "SOLVER.PATIENCE", 2, "MODEL_EMA.EVAL_BOTH", True)
    trainer = train(str(tmp_path), *ON, *run, "MODEL_EMA.USE_EMA_WEIGHTS_FOR_EVAL_ONLY", preferred)
    assert trainer.iter == 7 and left == [40, 40]
    assert [m is trainer.ema.module for m in tested[:2]] == [k == "averaged" for k in kinds]
    best = torch.load(tmp_path / "output" / "model_best.pth", weights_only=True)
    assert (best["metric"], best["iteration"]) == (30, 3)
    assert best["averaged"] is (kinds[0] == "averaged")
    lines = [json.loads(x) for x in open(tmp_path / "output" / "metrics.json")]
    assert [x["bbox/AP"] for x in lines if "bbox/AP" in x][-1] == 11
    assert [x[key] for x in lines if (key := f"{kinds[0]}/bbox/AP") in x][-1] == 30


def test_one_evaluation_by_default(tmp_path: Any, monkeypatch: Any) -> None:
    calls = []
    monkeypatch.setattr(CornerNetTrainer, "test", lambda *a: calls.append(a) or {})
    train(str(tmp_path), *ON, "TEST.EVAL_PERIOD", 6)
    assert len(calls) == 2


def test_does_not_change_training(tmp_path: Any) -> None:
    (tmp_path / "on").mkdir(), (tmp_path / "off").mkdir()
    with_ema = train(str(tmp_path / "on"), *ON).model.state_dict()
    without = train(str(tmp_path / "off")).model.state_dict()
    assert all(torch.equal(with_ema[k], without[k]) for k in without)
