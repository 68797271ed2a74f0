"""Nothing is lost: kills, preemption, damaged files and full disks."""

import multiprocessing
import os
import random
import resource
import signal
import time
from typing import Any

import pytest
import torch
from tiny_processes import warm_context
from tiny_run import make_dataset, tiny_config, train, train_or_die

from cornernet_d2.engine import CornerNetTrainer
from cornernet_d2.engine.checkpointer import TrainingCheckpointer

# Everything that has a state: averaged weights, step schedule, warm-up, augmentation, dropout.
# Without a test set, a child process spends no time on evaluation.
RUN = ("MODEL_EMA.ENABLED", True, "SOLVER.CHECKPOINT_PERIOD", 3, "DATASETS.TEST", ())
STEPS = 90


def start(folder: Any, *args: Any) -> multiprocessing.Process:
    """Start train_or_die in a process of its own and wait for its first step."""
    started = warm_context().Event()
    process = warm_context().Process(target=train_or_die, args=(str(folder), started, *args))
    process.start()
    assert started.wait(60)
    return process


def final_state(folder: Any) -> Any:
    return torch.load(f"{folder}/output/model_final.pth", weights_only=True)


def assert_same(a: Any, b: Any, path: str = "") -> None:
    """Bit by bit equal, through dicts and lists."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{path}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def damage(path: str, how: str) -> None:
    data = bytearray(open(path, "rb").read())
    if how == "truncated":
        data = data[: len(data) // 2]
    elif how == "flipped":
        data[len(data) // 2] ^= 1
    else:
        data = bytearray()
    with open(path, "wb") as f:
        f.write(data)


class TestKills:
    # A file of the checkpoint, the tag, and their folder entries: two files and four fsyncs each.
    DEATHS = [("half", 1), ("half", 3), ("remove", 1), ("remove", 2)]
    DEATHS += [("fsync", n) for n in (1, 2, 3, 4, 6)] + [("replace", n) for n in (1, 2, 3)]

    def test_bit_identical_after_kills(self, tmp_path: Any) -> None:
        """24 SIGKILLs, half of them at chosen points of checkpoint writing, half at random."""
        run = (*RUN, "SOLVER.MAX_ITER", STEPS, "SOLVER.STEPS", (60,))
        once, killed = tmp_path / "once", tmp_path / "killed"
        for folder in (once, killed):
            folder.mkdir()
            make_dataset(str(folder))
        train(str(once), *run)

        rng = random.Random(0)
        schedule: list[tuple[Any, int]] = [*self.DEATHS, *[(None, 0)] * len(self.DEATHS)]
        rng.shuffle(schedule)
        kills = 0
        for k, (death, call) in enumerate(schedule):
            workers = ("DATALOADER.NUM_WORKERS", k % 2)  # must not matter
            child = start(killed, death, call, *run, *workers)
            if death is None:
                time.sleep(rng.uniform(0, 0.06))
                os.killpg(child.pid, signal.SIGKILL)
            child.join(60)
            assert child.exitcode == -signal.SIGKILL, f"kill {k} {death}: {child.exitcode}"
            assert not (killed / "output" / "model_final.pth").exists(), f"done after {kills} kills"
            kills += 1
        assert kills >= 20
        train(str(killed), *run, resume=True)
        assert_same(final_state(killed), final_state(once))

    def test_sigterm_saves_and_exits(self, tmp_path: Any) -> None:
        run = (*RUN, "SOLVER.MAX_ITER", 400, "SOLVER.CHECKPOINT_PERIOD", 100000)
        make_dataset(str(tmp_path))
        child = start(tmp_path, None, 0, *run)
        time.sleep(0.2)
        child.terminate()
        child.join(60)
        assert child.exitcode == 128 + signal.SIGTERM
        (saved,) = [n for n in os.listdir(tmp_path / "output") if n.startswith("model_")]
        trainer = CornerNetTrainer(tiny_config(str(tmp_path), *run))
        trainer.resume_or_load(resume=True)
        assert saved == f"model_{trainer.start_iter - 1:07d}.pth" and trainer.start_iter > 0

    def test_sigterm_during_evaluation(self, tmp_path: Any, monkeypatch: Any) -> None:
        """It does not wait for the end, and what was evaluated is saved."""
        make_dataset(str(tmp_path))
        run = ("TEST.EVAL_PERIOD", 5, "SOLVER.CHECKPOINT_PERIOD", 100000)

        def slow_test(*args: Any) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("evaluation went on")

        handler = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(CornerNetTrainer, "test", slow_test)
        with pytest.raises(SystemExit) as status:
            train(str(tmp_path), *run)
        assert status.value.code == 143 and signal.getsignal(signal.SIGTERM) == handler
        trainer = CornerNetTrainer(tiny_config(str(tmp_path), *run))
        trainer.resume_or_load(resume=True)
        assert trainer.start_iter == 5


class TestResume:
    @pytest.mark.parametrize("how", ["truncated", "flipped", "empty"])
    def test_falls_back_to_the_one_before(self, tmp_path: Any, caplog: Any, how: str) -> None:
        expected = train(str(tmp_path), *RUN).model.state_dict()
        output = tmp_path / "output"
        os.remove(output / "model_final.pth")
        damage(str(output / "model_0000011.pth"), how)
        with caplog.at_level("WARNING"):
            trainer = train(str(tmp_path), *RUN, resume=True)
        assert "model_0000011.pth is damaged" in caplog.text
        assert trainer.start_iter == 9
        assert_same(trainer.model.state_dict(), expected)

    def test_damaged_name_file(self, tmp_path: Any) -> None:
        train(str(tmp_path), *RUN)
        (tmp_path / "output" / "last_checkpoint").write_text("")
        assert train(str(tmp_path), *RUN, resume=True).start_iter == 12

    def test_all_damaged_is_an_error(self, tmp_path: Any) -> None:
        train(str(tmp_path), *RUN)
        for path in (tmp_path / "output").glob("*.pth"):
            damage(str(path), "truncated")
        with pytest.raises(OSError, match="All checkpoints in .* are damaged"):
            train(str(tmp_path), *RUN, resume=True)

    def test_nothing_to_resume_from(self, tmp_path: Any) -> None:
        assert train(str(tmp_path), *RUN, resume=True).start_iter == 0

    def test_optimizer_moments_come_back(self, tmp_path: Any) -> None:
        saved = train(str(tmp_path), *RUN).optimizer.state_dict()
        trainer = CornerNetTrainer(tiny_config(str(tmp_path), *RUN))
        trainer.resume_or_load(resume=True)
        assert len(saved["state"]) == len(list(trainer.model.parameters()))
        assert_same(trainer.optimizer.state_dict()["state"], saved["state"])

    def test_seed_drawn_at_random_is_kept(self, tmp_path: Any) -> None:
        run = (*RUN, "SEED", -1)
        expected = train(str(tmp_path), *run).model.state_dict()
        for name in ("model_final.pth", "model_0000011.pth"):
            os.remove(tmp_path / "output" / name)
        assert_same(train(str(tmp_path), *run, resume=True).model.state_dict(), expected)


class TestFiles:
    def test_keeps_the_last_and_the_best(self, tmp_path: Any) -> None:
        train(str(tmp_path), "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINT_KEEP", 2)
        files = {p.name for p in (tmp_path / "output").glob("*.pth")}
        numbered = {"model_0000010.pth", "model_0000011.pth"}
        assert files == numbered | {"model_final.pth", "model_best.pth"}

    def test_earlier_run_is_set_aside(self, tmp_path: Any) -> None:
        weights = train(str(tmp_path), *RUN).model.state_dict()
        train(str(tmp_path), *RUN, "SOLVER.MAX_ITER", 3)
        kept = tmp_path / "output" / "previous_run_1" / "model_final.pth"
        assert_same(torch.load(kept, weights_only=True)["model"], dict(weights))

    def test_full_disk(self, tmp_path: Any) -> None:
        """The kernel refuses to write past a limit, as it does on a full disk."""
        model = torch.nn.Linear(4, 4)
        files = TrainingCheckpointer(model, str(tmp_path))
        files.save("model_0000001", iteration=1)
        before = (tmp_path / "model_0000001.pth").read_bytes()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
        try:
            with pytest.raises(OSError, match=r"model_0000001\.pth is intact.*--resume"):
                files.save("model_0000002", iteration=2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert sorted(os.listdir(tmp_path)) == ["last_checkpoint", "model_0000001.pth"]
        assert (tmp_path / "model_0000001.pth").read_bytes() == before
        assert files.get_checkpoint_file().endswith("model_0000001.pth")
