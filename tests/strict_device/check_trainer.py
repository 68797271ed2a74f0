"""Whole runs of the trainer on the strict device: checkpoints, evaluation, averages, resuming."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.strict_device.cases import Run, config, make_dataset, train

SETTINGS = {
    "SOLVER__MAX_ITER": 4,
    "SOLVER__STEPS": (3,),
    "SOLVER__CHECKPOINT_PERIOD": 2,
    "DATASETS__TEST": ("strict",),
    "TEST__EVAL_PERIOD": 4,
    "VIS_PERIOD": 2,
    "MODEL_EMA__ENABLED": True,
}
HALF = {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__PRECISION": "float16"}


def go(device: str, folder: Path, extra: dict[str, Any], **arguments: Any) -> Run:
    return train(config(device, **SETTINGS, **extra), folder, **arguments)


def assert_bit_equal(a: Run, b: Run) -> None:
    for ours, theirs in ((a.weights, b.weights), (a.average, b.average)):
        assert ours.keys() == theirs.keys() and len(ours) > 10
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("extra", [{"MODEL_EMA__DEVICE": "cpu"}, HALF], ids=["EMA", "float16"])
def test_resume_is_exact(extra: dict[str, Any], tmp_path: Path) -> None:
    make_dataset(tmp_path, crowds=True)
    whole = go("cuda", tmp_path / "whole", extra)
    go("cuda", tmp_path / "parts", extra, stop=2)
    resumed = go("cuda", tmp_path / "parts", extra, resume=True)
    assert len(whole.finite) == 4 and len(resumed.finite) == 2
    assert_bit_equal(resumed, whole)
    saved = torch.load(tmp_path / "whole" / "model_final.pth", weights_only=True)
    assert {str(x.device) for x in saved["model"].values()} == {"cpu"}
    assert all(torch.equal(x, whole.weights[name]) for name, x in saved["model"].items())


def test_a_run_moves_between_cpu_and_gpu(tmp_path: Path) -> None:
    make_dataset(tmp_path, crowds=True)
    whole = go("cpu", tmp_path / "whole", {})
    go("cpu", tmp_path / "parts", {}, stop=2)
    resumed = go("cuda", tmp_path / "parts", {}, resume=True)
    for name, value in whole.weights.items():
        torch.testing.assert_close(resumed.weights[name], value, rtol=1e-5, atol=1e-6)
