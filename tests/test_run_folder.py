"""OUTPUT_DIR: one run at a time, nothing lost, and a config.yaml of a run that began."""

import argparse
import io
import logging
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.engine import default_setup
from tiny_run import make_dataset, tiny_config, train

from cornernet_d2.checkpoint import CheckpointError
from cornernet_d2.engine import CornerNetTrainer, run_folder, starting_run

NO_TEST = ("DATASETS.TEST", ())
ARGS = argparse.Namespace(config_file="", eval_only=False)


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """Take off what default_setup adds to the loggers."""
    known = {n: logging.getLogger(n) for n in ("detectron2", "fvcore")}
    before = {n: (list(x.handlers), x.propagate, x.level) for n, x in known.items()}
    yield
    for name, logger in known.items():
        logger.handlers, logger.propagate, level = before[name]
        logger.setLevel(level)


def begin(folder: Path, *overrides: Any, training: bool = True) -> CornerNetTrainer:
    """As train_net.py: set up, and build the trainer."""
    make_dataset(str(folder))
    cfg = tiny_config(str(folder), *NO_TEST, *overrides)
    with starting_run(cfg.OUTPUT_DIR, training=training):
        default_setup(cfg, ARGS)
    return CornerNetTrainer(cfg)


class TestLock:
    def test_two_runs_at_once(self, tmp_path: Path) -> None:
        make_dataset(str(tmp_path))
        output, pipes = tmp_path / "output", multiprocessing.Pipe()
        holder = multiprocessing.get_context("fork").Process(
            target=_hold, args=(str(output), pipes[1])
        )
        holder.start()
        assert pipes[0].recv() == "locked"
        trainer = CornerNetTrainer(tiny_config(str(tmp_path), *NO_TEST, "SOLVER.MAX_ITER", 1))
        with pytest.raises(ValueError, match=f"output is in use by process {holder.pid} on "):
            trainer.train()
        assert os.listdir(output) == [".lock"]
        holder.kill()  # the operating system lifts the lock
        holder.join()
        trainer = CornerNetTrainer(tiny_config(str(tmp_path), *NO_TEST, "SOLVER.MAX_ITER", 1))
        trainer.train()
        assert (output / "model_final.pth").exists() and not run_folder._locks


def _hold(output: str, pipe: Any) -> None:
    run_folder.lock(output)
    pipe.send("locked")
    pipe.recv()


class TestEarlierRun:
    def test_everything_is_set_aside(self, tmp_path: Path) -> None:
        begin(tmp_path, "SOLVER.MAX_ITER", 2, "MODEL_EMA.ENABLED", True).train()
        output = tmp_path / "output"
        (output / "mine.txt").touch()
        before = {n for n in os.listdir(output) if n not in (".lock", "mine.txt")}
        assert {"config.yaml", "log.txt", "metrics.json", "model_final_ema.pth"} <= before
        logging.getLogger("detectron2").info("last words of the first run")
        closed = io.StringIO()  # as a notebook leaves them
        logging.getLogger("fvcore").addHandler(logging.StreamHandler(closed))
        closed.close()
        begin(tmp_path, "SOLVER.MAX_ITER", 1).train()
        aside = output / "previous_run_1"
        assert set(os.listdir(aside)) == before
        old, new = (aside / "log.txt").read_text(), (output / "log.txt").read_text()
        assert "last words of the first run" in old and "last words" not in new
        assert new.count("Running with full config") == old.count("Running with full config") == 1
        assert (
            "Starting training" in new and "MAX_ITER: 1\n" in (output / "config.yaml").read_text()
        )
        assert "MAX_ITER: 2\n" in (aside / "config.yaml").read_text()
        assert '"iteration": 0' in (output / "metrics.json").read_text()
        assert (output / "mine.txt").exists() and not (output / "model_final_ema.pth").exists()

    @pytest.mark.parametrize("training", [True, False])
    def test_stays_until_the_run_begins(self, tmp_path: Path, training: bool) -> None:
        """Neither a refused run nor an evaluation touches it."""
        train(str(tmp_path), *NO_TEST, "SOLVER.MAX_ITER", 1)
        output = tmp_path / "output"
        before = {n: (output / n).read_bytes() for n in os.listdir(output)}
        wrong = ("MODEL.CORNERNET.NUM_CLASSES", 5)
        with pytest.raises(ValueError, match="NUM_CLASSES 1"):
            begin(tmp_path, *wrong, training=training)
        run_folder.unlock(str(output))
        assert all((output / n).read_bytes() == data for n, data in before.items() if n != ".lock")
        assert set(os.listdir(output)) <= {*before, "log.txt", ".lock"}

    def test_no_config_of_a_run_that_never_began(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError):
            begin(tmp_path, "MODEL.CORNERNET.NUM_CLASSES", 5)
        run_folder.unlock(str(tmp_path / "output"))
        assert set(os.listdir(tmp_path / "output")) == {"log.txt", ".lock"}


class TestResume:
    RUN = (*NO_TEST, "SOLVER.MAX_ITER", 2, "MODEL_EMA.ENABLED", True)

    def resume(self, tmp_path: Path, *overrides: Any) -> CornerNetTrainer:
        trainer = CornerNetTrainer(tiny_config(str(tmp_path), *self.RUN, *overrides))
        trainer.resume_or_load(resume=True)
        return trainer

    @pytest.fixture
    def run(self, tmp_path: Path) -> Path:
        train(str(tmp_path), *self.RUN)
        return tmp_path

    def test_other_shapes_are_refused(self, run: Path, monkeypatch: Any) -> None:
        build = CornerNetTrainer.build_model

        def wider(cfg: Any) -> torch.nn.Module:
            model = build(cfg)
            model.size = torch.nn.Conv2d(4, 3, 1)
            return model

        monkeypatch.setattr(CornerNetTrainer, "build_model", staticmethod(wider))
        monkeypatch.setattr("cornernet_d2.engine.trainer.freeze_unreached", lambda *a: None)
        trainer = CornerNetTrainer(tiny_config(str(run), *NO_TEST, "SOLVER.GAMMA", 0.5))
        before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        with pytest.raises(CheckpointError) as error:
            trainer.resume_or_load(resume=True)
        message = str(error.value)
        assert "size.weight is (2, 4, 1, 1) in the file and (3, 4, 1, 1) in the model" in message
        assert "Changed: " in message and "SOLVER.GAMMA 0.1 -> 0.5" in message
        assert "\n" not in message
        assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())

    def test_missing_and_left_over_weights_are_refused(self, run: Path, monkeypatch: Any) -> None:
        with pytest.raises(CheckpointError, match="file lacks 2 weights such as unused.bias"):
            self.resume(run, "MODEL.WEIGHTS", "unused")

    def test_weights_alone_are_no_run(self, run: Path) -> None:
        """A converted file in the place of the last checkpoint began the run anew, silently."""
        path = run / "output" / "model_final.pth"
        contents = torch.load(path, weights_only=True)
        torch.save({"model": contents["model"]}, path)
        with pytest.raises(CheckpointError, match="weights without the state of a training"):
            self.resume(run)

    @pytest.mark.parametrize("kind", ["ADAMW", "SGD"])
    def test_another_optimiser_is_refused(self, run: Path, kind: str) -> None:
        with pytest.raises(CheckpointError, match="its optimiser is Adam, SOLVER.OPTIMIZER gives"):
            self.resume(run, "SOLVER.OPTIMIZER", kind)
        # Clipping makes another class of the same kind.
        self.resume(run, "SOLVER.CLIP_GRADIENTS.ENABLED", True)

    def test_other_groups_are_refused(self, run: Path) -> None:
        with pytest.raises(CheckpointError, match="groups of 6 parameters, this config's"):
            self.resume(run, "SOLVER.WEIGHT_DECAY_NORM", 0.5, "SOLVER.BIAS_LR_FACTOR", 3.0)

    def test_changed_keys_are_named(self, run: Path, caplog: Any) -> None:
        self.resume(run)
        assert "->" not in caplog.text
        trainer = self.resume(run, "SOLVER.BASE_LR", 0.5, "SOLVER.MAX_ITER", 7)
        ignored, others = [r.getMessage() for r in caplog.records if "->" in r.getMessage()]
        assert "No effect" in ignored and "SOLVER.BASE_LR 0.01 -> 0.5" in ignored
        assert "MAX_ITER" not in ignored and "SOLVER.MAX_ITER 2 -> 7" in others
        assert trainer.optimizer.param_groups[0]["initial_lr"] == 0.01

    def test_no_stale_average(self, run: Path) -> None:
        assert (run / "output" / "model_final_ema.pth").exists()
        trainer = self.resume(run, "MODEL_EMA.ENABLED", False, "SOLVER.MAX_ITER", 3)
        trainer.train()
        assert not (run / "output" / "model_final_ema.pth").exists()
        assert (run / "output" / "previous_run_1" / "model_final_ema.pth").exists()


def test_full_disk_is_noticed_before_the_first_step(tmp_path: Path, monkeypatch: Any) -> None:
    make_dataset(str(tmp_path))
    trainer = CornerNetTrainer(tiny_config(str(tmp_path), *NO_TEST))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match="0.00 GB left.*SOLVER.CHECKPOINT_KEEP"):
        trainer.train()
    assert os.listdir(tmp_path / "output") == [".lock"]
