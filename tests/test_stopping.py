"""Runs that end by themselves or by a key, and what is said and written on the way."""

import json
import logging
import os
import signal
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.utils.events import EventStorage, get_event_storage
from tiny_run import TinyDetector, make_dataset, tiny_config, train

from cornernet_d2.engine import CornerNetTrainer, events
from cornernet_d2.engine.console import start_logging
from cornernet_d2.engine.hooks import Forecast
from cornernet_d2.engine.validation_loss import ValidationLoss

EVERY = ("TEST.EVAL_PERIOD", 2)


def scalars(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(x) for x in (folder / "output" / "metrics.json").read_text().splitlines()]


class TestEarlyStopping:
    def scored(self, monkeypatch: Any, *scores: float) -> list[float]:
        left = list(scores)
        monkeypatch.setattr(CornerNetTrainer, "test", lambda *a: {"bbox": {"AP": left.pop(0)}})
        return left

    def test_ends_when_patience_is_out(self, tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
        left = self.scored(monkeypatch, 10.0, 20.0, 20.4, float("nan"), 50.0)
        patience = ("SOLVER.PATIENCE", 2, "SOLVER.MIN_DELTA", 0.5, "MODEL_EMA.ENABLED", True)
        trainer = train(str(tmp_path), *EVERY, *patience)
        assert left == [50.0] and trainer.iter == 7
        output = tmp_path / "output"
        assert torch.load(output / "model_final.pth", weights_only=True)["iteration"] == 7
        assert torch.load(output / "model_best.pth", weights_only=True)["metric"] == 20.4
        assert (output / "model_final_ema.pth").exists()
        (line,) = [r.getMessage() for r in caplog.records if "Stopped early" in r.getMessage()]
        assert "in 2 evaluations bbox/AP has not risen above 20 of iteration 3" in line
        assert "Exception during training" not in caplog.text
        # A resumed run remembers: one more evaluation without a rise ends it again.
        self.scored(monkeypatch, 20.0, 60.0)
        assert train(str(tmp_path), *EVERY, *patience, resume=True).iter == 9

    def test_goes_on_while_it_rises(self, tmp_path: Path, monkeypatch: Any) -> None:
        self.scored(monkeypatch, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0)
        assert train(str(tmp_path), *EVERY, "SOLVER.PATIENCE", 2).iter == 12

    def test_needs_evaluations(self, tmp_path: Path) -> None:
        make_dataset(str(tmp_path))
        with pytest.raises(ValueError, match="SOLVER.PATIENCE 3 counts evaluations"):
            CornerNetTrainer(tiny_config(str(tmp_path), "SOLVER.PATIENCE", 3))


class TestValidationLoss:
    def test_is_the_loss_of_the_test_set(self, tmp_path: Path, monkeypatch: Any) -> None:
        """Of all its images, with the layers as in a test; training goes on as without it."""
        (tmp_path / "with").mkdir(), (tmp_path / "without").mkdir()
        run = ("SOLVER.IMS_PER_BATCH", 5, "SOLVER.MAX_ITER", 4)
        trainer = train(str(tmp_path / "with"), *run, "TEST.LOSS_PERIOD", 2)
        (hook,) = [h for h in trainer._hooks if isinstance(h, ValidationLoss)]
        model = trainer.model
        model.eval()
        model.training, images = True, [hook.mapper(d) for d in hook.dicts]
        images += images[:3]  # three batches of five are fifteen of twelve
        with torch.no_grad(), EventStorage():
            parts = [model(images[i : i + 5])["loss_width"].item() for i in (0, 5, 10)]
        lines = scalars(tmp_path / "with")
        (written,) = [x for x in lines if x["iteration"] == 3 and "validation/loss_width" in x]
        assert written["validation/loss_width"] == pytest.approx(sum(parts) / 3, rel=1e-5)
        total = written["validation/loss_width"] + written["validation/loss_height"]
        assert written["validation/total_loss"] == pytest.approx(total)
        other = train(str(tmp_path / "without"), *run).model.state_dict()
        assert all(torch.equal(v, other[k]) for k, v in model.state_dict().items())

    def test_batches_of_all_processes(self, tmp_path: Path, monkeypatch: Any) -> None:
        make_dataset(str(tmp_path))
        cfg = tiny_config(str(tmp_path), "SOLVER.IMS_PER_BATCH", 5, "TEST.LOSS_PERIOD", 1)
        hook = ValidationLoss(cfg, lambda: None)
        module = "cornernet_d2.engine.validation_loss.comm"
        monkeypatch.setattr(f"{module}.get_world_size", lambda: 3)
        seen = []
        for rank in range(3):
            monkeypatch.setattr(f"{module}.get_rank", lambda rank=rank: rank)
            batches = list(hook._batches())
            assert len(batches) == 3 and all(batches)
            seen += [d["image_id"] for batch in batches for d in batch]
        assert len(seen) == 15 and set(seen) == set(range(12))


class TestLoggers:
    class Service(types.ModuleType):
        """What the writers use of wandb and of mlflow."""

        def __init__(self, name: str) -> None:
            super().__init__(name)
            self.__spec__ = types.SimpleNamespace(name=name)
            self.begun, self.sent, self.ended = [], [], 0

        def init(self, **options: Any) -> Any:
            self.begun.append(options)
            return self

        def start_run(self, **options: Any) -> None:
            self.begun.append(options)

        def log_dict(self, content: dict, name: str) -> None:
            self.begun.append({name: content})

        def log(self, values: dict, step: int) -> None:
            self.sent.append((step, values))

        log_metrics = log

        def finish(self) -> None:
            self.ended += 1

        end_run = finish

    @pytest.mark.parametrize("name", ["wandb", "mlflow"])
    def test_scalars_arrive_once(self, tmp_path: Path, monkeypatch: Any, name: str) -> None:
        service = self.Service(name)
        monkeypatch.setitem(sys.modules, name, service)
        monkeypatch.setattr(events, "find_spec", lambda asked: asked == name or None)
        make_dataset(str(tmp_path))
        keys = ("DATASETS.TEST", (), "LOGGERS", [name], "SOLVER.MAX_ITER", 45)
        trainer = CornerNetTrainer(tiny_config(str(tmp_path), *keys))
        assert not service.begun  # a run that is refused leaves none there
        trainer.train()
        assert service.ended == 1
        assert "45" in str(service.begun) and "output" in str(service.begun)
        steps = [step for step, values in service.sent if "total_loss" in values]
        assert steps == [19, 39, 44]
        assert len({step for step, _ in service.sent}) == len(service.sent)

    def test_unknown_or_missing(self, tmp_path: Path, monkeypatch: Any) -> None:
        cfg = tiny_config(str(tmp_path), "LOGGERS", ["comet"])
        with pytest.raises(ValueError, match="LOGGERS holds 'comet'; choose from"):
            events.build_writers(cfg, 1)
        monkeypatch.setattr(events, "find_spec", lambda name: None)
        cfg.LOGGERS = ["wandb"]
        with pytest.raises(ValueError, match="pip install wandb"):
            events.build_writers(cfg, 1)


def test_forecast(tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    clock = iter([100.0, 110.0])
    monkeypatch.setattr("cornernet_d2.engine.hooks.time.perf_counter", lambda: next(clock))
    hook = Forecast()
    hook.trainer = types.SimpleNamespace(start_iter=10, max_iter=15035, iter=0)
    with caplog.at_level("INFO"):
        for hook.trainer.iter in range(10, 60):
            hook.after_step()
    (record,) = caplog.records
    assert "0.5 s an iteration the 15000 iterations left take about 2 h 5 min" in record.message


def test_ctrl_c_saves(tmp_path: Path, monkeypatch: Any) -> None:
    forward = TinyDetector.forward

    def interrupted(self: TinyDetector, batch: Any) -> Any:
        if self.training and get_event_storage().iter == 5:
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL  # the next one kills
        return forward(self, batch)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(TinyDetector, "forward", interrupted)
    run = ("DATASETS.TEST", (), "SOLVER.CHECKPOINT_PERIOD", 100)
    with pytest.raises(SystemExit) as status:
        train(str(tmp_path), *run)
    assert status.value.code == 130 and signal.getsignal(signal.SIGINT) == before
    monkeypatch.undo()
    assert train(str(tmp_path), *run, resume=True).start_iter == 6


def test_a_log_on_a_full_disk_is_one_line(tmp_path: Path, capsys: Any) -> None:
    """Python's logging shows a traceback for every message that it cannot write."""
    start_logging(str(tmp_path))
    handlers = logging.getLogger("cornernet_d2").handlers  # perhaps other tests' files, too
    path = str(tmp_path / "log.txt")
    (file,) = [h for h in handlers if getattr(h.stream, "name", "") == path]
    try:
        file.stream = open("/dev/full", "w")
        for _ in range(3):
            logging.getLogger("cornernet_d2").warning("a message")
        said = capsys.readouterr().err
        assert said.count("a log file cannot be written to") == 1 and "Traceback" not in said
    finally:
        file.stream = open(os.devnull, "w")
        for name in ("detectron2", "fvcore", "cornernet_d2"):
            logging.getLogger(name).handlers.clear()


class TestTestSets:
    """DATASETS.TEST is looked at before the first step."""

    @pytest.fixture
    def content(self, tmp_path: Path) -> Any:
        make_dataset(str(tmp_path))
        yield json.loads((tmp_path / "tiny.json").read_text())
        DatasetCatalog.pop("tiny_test", None)
        MetadataCatalog.pop("tiny_test", None)

    def build(self, tmp_path: Path, content: dict) -> CornerNetTrainer:
        path = tmp_path / "test.json"
        path.write_text(json.dumps(content))
        register_coco_instances("tiny_test", {}, str(path), str(tmp_path))
        return CornerNetTrainer(tiny_config(str(tmp_path), "DATASETS.TEST", ("tiny_test",)))

    def test_unknown_or_missing(self, tmp_path: Path, content: dict) -> None:
        with pytest.raises(ValueError, match="no dataset 'nowhere' is registered"):
            CornerNetTrainer(tiny_config(str(tmp_path), "DATASETS.TEST", ("nowhere",)))
        with pytest.raises(ValueError, match="no dataset 'nowhere' is registered"):
            CornerNetTrainer(tiny_config(str(tmp_path), "DATASETS.TRAIN", ("nowhere",)))
        register_coco_instances("tiny_test", {}, str(tmp_path / "no.json"), str(tmp_path))
        with pytest.raises(ValueError, match=r"tiny_test cannot be evaluated on:.*\n.*no\.json"):
            CornerNetTrainer(tiny_config(str(tmp_path), "DATASETS.TEST", ("tiny_test",)))

    def test_damaged_image(self, tmp_path: Path, content: dict) -> None:
        (tmp_path / "broken.png").write_bytes(b"no image")
        content["images"][3]["file_name"] = "broken.png"
        with pytest.raises(ValueError, match=r"tiny_test cannot be evaluated on:\n.*broken\.png"):
            self.build(tmp_path, content)

    def test_other_classes(self, tmp_path: Path, content: dict) -> None:
        content["categories"][0]["name"] = "other"
        with pytest.raises(ValueError, match="'other' is a class of only one of it and tiny"):
            self.build(tmp_path, content)

    def test_other_order(self, tmp_path: Path, content: dict) -> None:
        content["categories"] = [{"id": 2, "name": "a"}, {"id": 1, "name": "thing"}]
        path = tmp_path / "tiny.json"
        path.write_text(json.dumps(content))
        content["categories"] = [{"id": 1, "name": "a"}, {"id": 2, "name": "thing"}]
        path_test = tmp_path / "test.json"
        path_test.write_text(json.dumps(content))
        register_coco_instances("tiny_test", {}, str(path_test), str(tmp_path))
        keys = ("DATASETS.TEST", ("tiny_test",), "MODEL.CORNERNET.NUM_CLASSES", 2)
        with pytest.raises(ValueError, match="class 0 is 'a' there and 'thing' in tiny"):
            CornerNetTrainer(tiny_config(str(tmp_path), *keys))

    def test_missing_area_is_filled_in(self, tmp_path: Path, content: dict, caplog: Any) -> None:
        for obj in content["annotations"]:
            del obj["area"], obj["iscrowd"]
        trainer = self.build(tmp_path, content)
        assert "have no number as area: width x height used" in caplog.text
        assert "bbox" in trainer.evaluate()

    def test_without_annotations(self, tmp_path: Path, content: dict) -> None:
        """As COCO's test-dev: results are written for it, no AP."""
        del content["annotations"]
        trainer = self.build(tmp_path, content)
        assert not trainer.evaluate()
        assert (tmp_path / "output/inference/tiny_test/coco_instances_results.json").exists()
