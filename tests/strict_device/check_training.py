"""Training on the strict device: equal to the CPU, and within the budget of synchronisations."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from cornernet_d2.engine import CornerNetTrainer
from tests.strict_device.cases import Run, assert_same, config, make_dataset, train, without_targets

SYNCS, COPIES = 2, 4  # of a step, whatever the number of images
CLIPPING = {
    "SOLVER__CLIP_GRADIENTS__ENABLED": True,
    "SOLVER__CLIP_GRADIENTS__CLIP_TYPE": "full_model",
}


@pytest.fixture(scope="module")
def on_the_host(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs on the CPU, each setting once."""

    @functools.cache
    def run(crowds: bool, settings: tuple[tuple[str, Any], ...]) -> Run:
        folder = tmp_path_factory.mktemp("host")
        make_dataset(folder, crowds)
        return train(config("cpu", **dict(settings)), folder)

    return lambda crowds, settings: run(crowds, tuple(settings.items()))


@pytest.mark.parametrize("crowds", [False, True], ids=["plain", "ignore"])
@pytest.mark.parametrize("maker", ["mapper", "model"])
@pytest.mark.parametrize("convention", ["default", "official", "mmdet"])
def test_conventions_and_targets(
    convention: str, maker: str, crowds: bool, on_the_host: Any, tmp_path: Path
) -> None:
    settings = {"MODEL__CORNERNET__LOSS__CONVENTION": convention}
    make_dataset(tmp_path, crowds)
    prepare = without_targets if maker == "model" else lambda _: None
    run = train(config("cuda", **settings), tmp_path, prepare=prepare)
    assert_equal_runs(run, on_the_host(crowds, settings))
    assert_in_budget(run, settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"SOLVER__IMS_PER_BATCH": 6},
        {"SOLVER__IMS_PER_BATCH": 6, "SOLVER__GRADIENT_ACCUMULATION": 2},
        {"MODEL_EMA__ENABLED": True, **CLIPPING},
        {"MODEL__HOURGLASS__RECOMPUTE": "stack"},
        {"MODEL__HOURGLASS__RECOMPUTE": "block"},
        {"MODEL__CORNERNET__CHANNELS_LAST": True},
        {"MODEL__CORNERNET__PADDING": "center_black", "SOLVER__OPTIMIZER": "SGD"},
        {"MODEL__CORNERNET__PADDING": "center_mean", "SOLVER__OPTIMIZER": "ADAMW"},
    ],
    ids=lambda settings: "-".join(f"{k.split('__')[-1]}={v}" for k, v in settings.items()),
)
def test_options(settings: dict[str, Any], on_the_host: Any, tmp_path: Path) -> None:
    make_dataset(tmp_path, crowds=True)
    run = train(config("cuda", **settings), tmp_path)
    assert_equal_runs(run, on_the_host(True, settings))
    assert_in_budget(run, settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"MODEL__CORNERNET__CHANNELS_LAST": True, "MODEL__HOURGLASS__RECOMPUTE": "block"},
        {"SOLVER__GRADIENT_ACCUMULATION": 2},
    ],
    ids=["plain", "channels_last-block", "accumulation"],
)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision(
    precision: str, settings: dict[str, Any], on_the_host: Any, tmp_path: Path
) -> None:
    amp = {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__PRECISION": precision}
    steps = 12 if precision == "float16" else 3
    make_dataset(tmp_path, crowds=True)
    cfg = config("cuda", **settings, **amp, SOLVER__MAX_ITER=steps)
    run = train(cfg, tmp_path, prepare=raise_loss_scale)
    single = on_the_host(True, settings)
    if precision == "bfloat16":
        for name, values in single.losses.items():
            assert run.losses[name][0] == pytest.approx(values[0], rel=0.05, abs=0.01), name
        assert all(run.finite)
    else:
        # The scale is halved by steps that change nothing until it fits.
        assert run.finite.index(True) > 2 and run.finite.count(True) > 1
    assert all(value.isfinite().all() for value in run.weights.values())
    assert {value.dtype for value in run.weights.values()} <= {torch.float32, torch.int64}
    assert_in_budget(run, settings | amp)


def raise_loss_scale(trainer: CornerNetTrainer) -> None:
    """Have the gradient scaler, if there is one, start far above what float16 holds."""
    scaler = trainer._trainer.grad_scaler
    if scaler.is_enabled():
        scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0**24})


def assert_equal_runs(device: Run, host: Run) -> None:
    assert device.finite == host.finite == [True] * len(host.finite)
    for name, values in host.losses.items():
        assert device.losses[name] == pytest.approx(values, rel=1e-5, abs=1e-7), name
    assert_same(device.weights, host.weights)
    assert_same(device.average, host.average)


def assert_in_budget(run: Run, settings: dict[str, Any]) -> None:
    """At most SYNCS a step, and COPIES a batch of it."""
    batches = settings.get("SOLVER__GRADIENT_ACCUMULATION", 1)
    run.step.check(f"A step of {settings}", syncs=SYNCS, copies=batches * COPIES)
