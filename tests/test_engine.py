"""The trainer's recipe: optimisers, precision, loader, progress, evaluation, command line."""

import gc
import itertools
import json
import signal
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.samplers import RepeatFactorTrainingSampler
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from tiny_run import make_dataset, tiny_config, train

from cornernet_d2 import model_zoo
from cornernet_d2.engine import CornerNetTrainer, events
from cornernet_d2.engine.optimizer import build_optimizer
from cornernet_d2.engine.train_loader import StreamSampler

NO_TEST = ("DATASETS.TEST", ())
REPOSITORY = Path(__file__).resolve().parent.parent


def build(tmp_path: Any, *overrides: Any) -> CornerNetTrainer:
    make_dataset(str(tmp_path))
    return CornerNetTrainer(tiny_config(str(tmp_path), *overrides))


class TestOptimizer:
    @pytest.mark.parametrize("name", ["ADAM", "ADAMW", "SGD"])
    def test_kind_and_decay(self, tmp_path: Any, name: str) -> None:
        decay = ("SOLVER.WEIGHT_DECAY", 0.1, "SOLVER.WEIGHT_DECAY_BIAS", 0.0)
        cfg = tiny_config(str(tmp_path), "SOLVER.OPTIMIZER", name, *decay)
        model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm2d(1))
        optimizer = build_optimizer(cfg, model)
        assert type(optimizer).__name__.upper() == name
        decays = {p: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
        assert decays[model[0].weight] == 0.1
        assert decays[model[0].bias] == decays[model[1].weight] == decays[model[1].bias] == 0

    def test_adam_is_adam(self, tmp_path: Any) -> None:
        """Against the update written out (Kingma & Ba, algorithm 1)."""
        cfg = tiny_config(str(tmp_path), "SOLVER.WEIGHT_DECAY", 0.0, "SOLVER.BETAS", [0.8, 0.99])
        layer = torch.nn.Linear(2, 1, bias=False).double()
        w, m, v = layer.weight.detach().clone(), 0.0, 0.0
        optimizer = build_optimizer(cfg, layer)
        for t in range(1, 5):
            layer.weight.grad = g = torch.full_like(w, 0.5 * t)
            optimizer.step()
            m, v = 0.8 * m + 0.2 * g, 0.99 * v + 0.01 * g * g
            w = w - 0.01 * (m / (1 - 0.8**t)) / ((v / (1 - 0.99**t)).sqrt() + 1e-8)
        torch.testing.assert_close(layer.weight.detach(), w, rtol=1e-9, atol=1e-12)

    def test_unknown(self, tmp_path: Any) -> None:
        with pytest.raises(ValueError, match="SOLVER.OPTIMIZER is 'LION'"):
            build(tmp_path, "SOLVER.OPTIMIZER", "LION")

    @pytest.mark.parametrize("kind", ["value", "norm", "full_model"])
    def test_clipping(self, tmp_path: Any, kind: str) -> None:
        """With plain gradient descent, the clipped gradient is the change of the weights."""
        clip = ("ENABLED", True, "CLIP_TYPE", kind, "CLIP_VALUE", 1e-3)
        keys = [f"SOLVER.CLIP_GRADIENTS.{c}" if i % 2 == 0 else c for i, c in enumerate(clip)]
        sgd = ("SOLVER.OPTIMIZER", "SGD", "SOLVER.WEIGHT_DECAY", 0.0, "SOLVER.BASE_LR", 1.0)
        one = ("SOLVER.MAX_ITER", 1, "SOLVER.WARMUP_ITERS", 0, "SOLVER.STEPS", ())
        trainer = build(tmp_path, *NO_TEST, *keys, *sgd, *one)
        before = [p.detach().clone() for p in trainer.model.parameters()]
        trainer.train()
        change = [p.detach() - b for p, b in zip(trainer.model.parameters(), before)]
        largest = max(c.abs().max() for c in change)
        total = torch.stack([c.norm() for c in change]).norm()
        assert largest <= 1.001e-3 and total > 0.5e-3
        if kind == "full_model":
            assert total <= 1.001e-3

    def test_schedules(self, tmp_path: Any) -> None:
        for name, halfway in (("WarmupMultiStepLR", 1.0), ("WarmupCosineLR", 0.5)):
            folder = tmp_path / name
            folder.mkdir()
            run = ("SOLVER.LR_SCHEDULER_NAME", name, "SOLVER.WARMUP_ITERS", 0)
            trainer = build(folder, *NO_TEST, *run, "SOLVER.MAX_ITER", 10)
            rates: list[float] = []
            original = trainer.run_step
            trainer.run_step = lambda: (
                rates.append(trainer.optimizer.param_groups[0]["lr"]),
                original(),
            )
            trainer.train()
            assert rates[0] == pytest.approx(0.01) and rates[5] == pytest.approx(0.01 * halfway)
            assert rates[9] == pytest.approx(0.001 if halfway == 1 else 0.01 * 0.0245, rel=1e-2)


class TestPrecision:
    @pytest.mark.parametrize("name", ["float16", "bfloat16"])
    def test_trains_on_cpu(self, tmp_path: Any, name: str) -> None:
        amp = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", name)
        seen = set()
        trainer = build(tmp_path, *NO_TEST, *amp)
        trainer.model.size.register_forward_hook(lambda m, i, out: seen.add(out.dtype))
        assert trainer._trainer.grad_scaler.is_enabled() == (name == "float16")
        trainer.train()
        assert seen == {getattr(torch, name)}
        assert all(p.dtype == torch.float32 for p in trainer.model.parameters())

    def test_scaler_is_resumed(self, tmp_path: Any) -> None:
        amp = (*NO_TEST, "SOLVER.AMP.ENABLED", True)
        state = train(str(tmp_path), *amp)._trainer.grad_scaler.state_dict()
        resumed = build(tmp_path, *amp)
        resumed.resume_or_load(resume=True)
        assert resumed._trainer.grad_scaler.state_dict() == state
        assert state["_growth_tracker"] > 0

    def test_unknown(self, tmp_path: Any) -> None:
        with pytest.raises(ValueError, match="SOLVER.AMP.PRECISION is 'fp8'"):
            build(tmp_path, "SOLVER.AMP.PRECISION", "fp8")


class Example(dict):
    """Unlike a dict, it can be referred to weakly."""


class TestLoader:
    def batches(self, tmp_path: Any, count: int, *overrides: Any, skip: int = 0) -> list[Any]:
        cfg = tiny_config(str(tmp_path), *overrides)
        cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5  # used but not defined by Detectron2 0.6
        loader = CornerNetTrainer.build_train_loader(cfg)
        loader.steps_seen = skip
        return [
            [(x["file_name"], x["image"]) for x in batch] for batch, _ in zip(loader, range(count))
        ]

    def assert_same(self, a: list[Any], b: list[Any]) -> None:
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert [name for name, _ in x] == [name for name, _ in y]
            assert all(torch.equal(i, j) for (_, i), (_, j) in zip(x, y))

    def test_is_a_function_of_seed_and_position(self, tmp_path: Any) -> None:
        make_dataset(str(tmp_path))
        stream = self.batches(tmp_path, 8)
        self.assert_same(self.batches(tmp_path, 8, "DATALOADER.NUM_WORKERS", 2), stream)
        self.assert_same(self.batches(tmp_path, 5, skip=3), stream[3:])
        other = self.batches(tmp_path, 8, "SEED", 4)
        assert [n for b in other for n, _ in b] != [n for b in stream for n, _ in b]

    @pytest.mark.parametrize("processes,accumulation", [(3, 1), (1, 3), (3, 2), (8, 1)])
    def test_any_split_sees_the_same_steps(
        self, processes: int, accumulation: int, monkeypatch: Any
    ) -> None:
        """49 images over 8 processes: seven times 6 and once 7."""
        monkeypatch.setattr(comm, "get_world_size", lambda: processes)
        steps = [[] for _ in range(5)]
        sizes = set()
        for rank in range(processes):
            monkeypatch.setattr(comm, "get_rank", lambda: rank)
            sampler = StreamSampler(itertools.count(), 49, processes * accumulation)
            for k, batch in zip(range(5 * accumulation), sampler):
                steps[k // accumulation] += batch
                sizes.add(len(batch))
        for k, step in enumerate(steps):
            assert sorted(step) == [(i, i) for i in range(49 * k, 49 * (k + 1))]
        assert max(sizes) - min(sizes) <= 1

    def test_augmentation_differs_between_epochs(self, tmp_path: Any) -> None:
        make_dataset(str(tmp_path))
        seen: Any = {}
        for batch in self.batches(tmp_path, 24):  # 8 epochs
            for name, image in batch:
                seen.setdefault(name, []).append(image)
        assert all(len(images) == 8 for images in seen.values())
        flipped = [any(not torch.equal(i, images[0]) for i in images) for images in seen.values()]
        assert sum(flipped) >= 10  # of 12; one image stays unflipped with probability 2 ** -7

    def test_worker_does_not_touch_the_process_generators(self, tmp_path: Any) -> None:
        make_dataset(str(tmp_path))
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        self.batches(tmp_path, 3)
        assert torch.equal(torch.rand(3), expected)

    def test_crops_are_not_grouped(self, tmp_path: Any) -> None:
        """They are of one shape; and a step of one orientation is what our configs avoid."""
        make_dataset(str(tmp_path))
        keys = ("DATALOADER.ASPECT_RATIO_GROUPING", True, "INPUT.CORNERNET.CROP.ENABLED", True)
        loader = CornerNetTrainer.build_train_loader(tiny_config(str(tmp_path), *keys))
        assert loader.groups is None
        for path in REPOSITORY.glob("configs/*.yaml"):
            assert not model_zoo.get_config(path.name).DATALOADER.ASPECT_RATIO_GROUPING, path

    @pytest.mark.parametrize(
        "sampler",
        ["TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"],
    )
    def test_dataset_is_kept_once(self, tmp_path: Any, sampler: str) -> None:
        """The packed copy, without the dicts that it was made of."""
        make_dataset(str(tmp_path))
        examples = [Example(x) for x in DatasetCatalog.get("tiny")]
        kept = [weakref.ref(x) for x in examples]
        DatasetCatalog.register("tiny_weak", lambda: examples)
        keys = ("DATASETS.TRAIN", ("tiny_weak",), "DATALOADER.SAMPLER_TRAIN", sampler)
        cfg = tiny_config(str(tmp_path), *keys)
        cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
        try:
            loader = CornerNetTrainer.build_train_loader(cfg)
        finally:
            DatasetCatalog.remove("tiny_weak")
            MetadataCatalog.remove("tiny_weak")
        examples.clear()
        gc.collect()
        assert not any(reference() for reference in kept)
        assert len(next(iter(loader))) == 4

    def test_repeat_sqrt(self, tmp_path: Any, monkeypatch: Any) -> None:
        """The key of Detectron2's main branch reaches its function."""
        make_dataset(str(tmp_path))
        seen = {}

        def factors(dicts: Any, threshold: float, sqrt: bool = True) -> torch.Tensor:
            seen["sqrt"] = sqrt
            return torch.ones(len(dicts))

        name = "repeat_factors_from_category_frequency"
        monkeypatch.setattr(RepeatFactorTrainingSampler, name, factors)
        key = ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler")
        cfg = tiny_config(str(tmp_path), *key)
        cfg.DATALOADER.REPEAT_SQRT = False
        CornerNetTrainer.build_train_loader(cfg)
        assert seen == {"sqrt": False}

    def test_workers_do_not_share_the_cores_twice(self, tmp_path: Any) -> None:
        make_dataset(str(tmp_path))
        cfg = tiny_config(str(tmp_path), "DATALOADER.NUM_WORKERS", 1)
        loader = CornerNetTrainer.build_train_loader(cfg)
        loader.mapper = lambda example: cv2.getNumThreads()
        assert set(next(iter(loader))) == {1}

    def test_aspect_ratio_groups(self, tmp_path: Any) -> None:
        make_dataset(str(tmp_path))
        cfg = tiny_config(str(tmp_path), "DATALOADER.ASPECT_RATIO_GROUPING", True)
        loader = CornerNetTrainer.build_train_loader(cfg)
        loader.groups = [i % 2 for i in range(len(loader.dataset))]
        for batch, _ in zip(loader, range(6)):
            parities = {int(Path(x["file_name"]).stem) % 2 for x in batch}
            assert len(parities) == 1

    @pytest.mark.parametrize(
        "sampler", ["RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"]
    )
    def test_samplers(self, tmp_path: Any, sampler: str) -> None:
        make_dataset(str(tmp_path))
        run = ("DATALOADER.SAMPLER_TRAIN", sampler, "DATALOADER.REPEAT_THRESHOLD", 0.5)
        stream = self.batches(tmp_path, 6, *run)
        self.assert_same(self.batches(tmp_path, 4, *run, skip=2), stream[2:])

    def test_errors_name_the_key(self, tmp_path: Any) -> None:
        make_dataset(str(tmp_path))
        with pytest.raises(ValueError, match="SOLVER.IMS_PER_BATCH is 4: too few"):
            self.batches(tmp_path, 1, "SOLVER.GRADIENT_ACCUMULATION", 5)
        with pytest.raises(ValueError, match="DATALOADER.SAMPLER_TRAIN is 'Nothing'"):
            self.batches(tmp_path, 1, "DATALOADER.SAMPLER_TRAIN", "Nothing")

    def test_wrong_number_of_classes(self, tmp_path: Any) -> None:
        make_dataset(str(tmp_path))
        with pytest.raises(ValueError, match="MODEL.CORNERNET.NUM_CLASSES 1"):
            self.batches(tmp_path, 1, "MODEL.CORNERNET.NUM_CLASSES", 80)

    def test_mapper_that_drops_an_image(self, tmp_path: Any) -> None:
        make_dataset(str(tmp_path))
        loader = CornerNetTrainer.build_train_loader(tiny_config(str(tmp_path)))
        loader.mapper = lambda example: None
        with pytest.raises(ValueError, match=r"returned None for '.*png'"):
            next(iter(loader))


class TestBestWeights:
    def test_best_weights_are_kept(self, tmp_path: Any, monkeypatch: Any) -> None:
        """By AP, also across a resume; and they are not what a run resumes from."""
        scores = iter([30.0, 50.0, 40.0, 45.0, 10.0])
        monkeypatch.setattr(CornerNetTrainer, "test", lambda *a: {"bbox": {"AP": next(scores)}})
        every = ("TEST.EVAL_PERIOD", 4)
        train(str(tmp_path), *every)  # evaluates after steps 4, 8 and 12
        path = tmp_path / "output" / "model_best.pth"
        best = torch.load(path, weights_only=True)
        assert best["metric"] == 50.0 and best["iteration"] == 7
        trainer = train(str(tmp_path), *every, "SOLVER.MAX_ITER", 20, resume=True)
        assert trainer.start_iter == 12
        assert torch.load(path, weights_only=True)["metric"] == 50.0

    def test_not_those_of_an_earlier_run(self, tmp_path: Any, monkeypatch: Any) -> None:
        """Which ended before its first checkpoint, but after an evaluation."""
        best = tmp_path / "output" / "model_best.pth"
        best.parent.mkdir()
        torch.save({"model": {}, "metric": 99.0, "iteration": 1}, best)
        monkeypatch.setattr(CornerNetTrainer, "test", lambda *a: {"bbox": {"AP": 30.0}})
        train(str(tmp_path))
        assert torch.load(best, weights_only=True)["metric"] == 30.0
        aside = best.parent / "previous_run_1" / "model_best.pth"
        assert torch.load(aside, weights_only=True)["metric"] == 99.0

    def test_unknown_metric(self, tmp_path: Any, caplog: Any) -> None:
        train(str(tmp_path), "SOLVER.BEST_METRIC", "bbox/PA")
        assert "SOLVER.BEST_METRIC bbox/PA was not evaluated" in caplog.text
        assert not (tmp_path / "output" / "model_best.pth").exists()


class TestSettings:
    def test_warmup_must_leave_something_of_a_cosine(self, tmp_path: Any) -> None:
        cosine = ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.MAX_ITER", 12)
        for warmup in (12, 20):
            with pytest.raises(ValueError, match=f"SOLVER.WARMUP_ITERS {warmup} takes all of"):
                build(tmp_path, *cosine, "SOLVER.WARMUP_ITERS", warmup)
        build(tmp_path, *cosine, "SOLVER.WARMUP_ITERS", 11)

    def test_ignored_keys_are_said(self, tmp_path: Any, caplog: Any) -> None:
        ignored = ("INPUT.MIN_SIZE_TRAIN", (600,), "MODEL.BACKBONE.FREEZE_AT", 3)
        for crop in (True, False):
            caplog.clear()
            build(tmp_path, *ignored, "INPUT.CORNERNET.CROP.ENABLED", crop)
            assert ("INPUT.MIN_SIZE_TRAIN is ignored" in caplog.text) == crop
            assert "MODEL.BACKBONE.FREEZE_AT is ignored" in caplog.text
        caplog.clear()
        build(tmp_path, "INPUT.MIN_SIZE_TRAIN", (800,), "INPUT.CORNERNET.CROP.ENABLED", True)
        assert "is ignored" not in caplog.text

    def test_pinned_memory_is_for_gpus(self, tmp_path: Any) -> None:
        make_dataset(str(tmp_path))
        for device, pinned in (("cpu", False), ("cuda", True)):
            cfg = tiny_config(str(tmp_path), "MODEL.DEVICE", device)
            assert CornerNetTrainer.build_train_loader(cfg).pin_memory == pinned


def test_training_outside_the_main_thread(tmp_path: Any) -> None:
    """As in a notebook server or a tuner; nobody there can handle signals."""
    before = signal.getsignal(signal.SIGTERM)
    done = []
    thread = threading.Thread(target=lambda: done.append(train(str(tmp_path), *NO_TEST)))
    thread.start()
    thread.join()
    assert done and done[0].iter == 12
    assert signal.getsignal(signal.SIGTERM) is before


class TestProgress:
    @pytest.mark.parametrize("tensorboard", [True, False])
    def test_pictures_do_not_pile_up(
        self, tmp_path: Any, monkeypatch: Any, tensorboard: bool
    ) -> None:
        if not tensorboard:
            monkeypatch.setattr(events, "find_spec", lambda name: None)
        else:
            pytest.importorskip("tensorboard")
        writers = events.build_writers(tiny_config(str(tmp_path)), 10)
        with EventStorage() as storage:
            storage.put_image("x", torch.zeros(3, 4, 4))
            storage.put_scalar("lr", 1.0)
            for writer in writers:
                writer.write()
            assert not storage._vis_data

    def test_line_json_and_tensorboard(self, tmp_path: Any, caplog: Any) -> None:
        train(str(tmp_path), *NO_TEST, "SOLVER.MAX_ITER", 20)
        (line,) = [r.getMessage() for r in caplog.records if "images_per_second" in r.getMessage()]
        for part in (
            "eta: 0:00:00",
            "iter: 19",
            "loss_width:",
            "loss_height:",
            "data_time:",
            "lr:",
        ):
            assert part in line
        assert "grad_norm:" in line
        record = json.loads((tmp_path / "output" / "metrics.json").read_text().splitlines()[-1])
        assert {"total_loss", "grad_norm", "images_per_second", "eta_seconds"} <= record.keys()
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        events = accumulator.EventAccumulator(str(tmp_path / "output"))
        events.Reload()
        assert "loss_width" in events.Tags()["scalars"]

    def test_reference_world_size(self, tmp_path: Any) -> None:
        """A recipe for 4 processes, run by one: a quarter of the batch and rate, 4x the steps."""
        decay = ("MODEL_EMA.DECAY", 0.9)
        trainer = build(tmp_path, *NO_TEST, *decay, "SOLVER.REFERENCE_WORLD_SIZE", 4)
        assert trainer.cfg.SOLVER.IMS_PER_BATCH == 1 and trainer.max_iter == 48
        assert trainer.cfg.SOLVER.BASE_LR == pytest.approx(0.0025)
        assert trainer.cfg.SOLVER.STEPS == (36,)
        assert trainer.cfg.MODEL_EMA.DECAY ** (4 * 12) == pytest.approx(
            0.9**12
        )  # of the same images


def test_accumulation_without_counts_averages(tmp_path: Any) -> None:
    """A model that takes the mean over its batch: two halves are the whole."""
    once = ("SOLVER.MAX_ITER", 1, "SOLVER.OPTIMIZER", "SGD", "SOLVER.WARMUP_ITERS", 0)
    weights = []
    for parts in (1, 2):
        folder = tmp_path / str(parts)
        folder.mkdir()
        make_dataset(str(folder))
        cfg = tiny_config(str(folder), *NO_TEST, *once, "SOLVER.GRADIENT_ACCUMULATION", parts)
        torch.manual_seed(0)
        trainer = CornerNetTrainer(cfg)
        trainer.model.body[1].eval()  # neither batch statistics nor dropout
        trainer.model.body[3].eval()
        trainer.train()
        weights.append(trainer.model.size.weight.detach())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-5, atol=1e-7)


def test_command_line(tmp_path: Any) -> None:
    """train_net.py as a user runs it: train, resume with an override, evaluate."""
    make_dataset(str(tmp_path))
    config = tmp_path / "run.yaml"
    config.write_text(tiny_config(str(tmp_path)).dump())
    code = (
        f"import sys; sys.path[:0] = [{str(REPOSITORY)!r}, {str(REPOSITORY / 'tests')!r}]\n"
        f"import conftest, tiny_run, train_net\ntiny_run.make_dataset({str(tmp_path)!r})\n"
        "from detectron2.engine import default_argument_parser\n"
        "for line in sys.stdin.read().splitlines():\n"
        "    train_net.main(default_argument_parser().parse_args(line.split()))\n"
    )
    common = f"--config-file {config}"
    lines = [
        f"{common} MODEL.DEVICE cuda",
        f"{common} --resume SOLVER.MAX_ITER 14",
        f"{common} --eval-only --resume",
    ]
    result = subprocess.run(
        [sys.executable, "-c", code], input="\n".join(lines), text=True, capture_output=True
    )
    assert result.returncode == 0, result.stderr
    log = (tmp_path / "output" / "log.txt").read_text()
    if not torch.cuda.is_available():
        assert "MODEL.DEVICE is set to cpu" in log
    assert "Starting training from iteration 12" in log and "iter: 13" in log
    assert log.count("Evaluation results for tiny") == 3
