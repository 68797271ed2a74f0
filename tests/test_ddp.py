"""Several processes, over gloo: equal gradients, evaluation, faults, restarts."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.engine.defaults import create_ddp_model
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from tiny_processes import run_ranks
from tiny_run import make_dataset, tiny_config, train
from torch import distributed as dist

from cornernet_d2 import add_cornernet_config
from cornernet_d2.engine import CornerNetTrainer, launch
from cornernet_d2.engine.train_loop import GuardedTrainer

NO_TEST = ("DATASETS.TEST", ())
CLASSES = 3
Batch = list[dict[str, Any]]


def small_cornernet(convention: str = "default") -> torch.nn.Module:
    """Two stacks in float64; group norm, because batch norm is meant to see one process only."""
    cfg = get_cfg()
    add_cornernet_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "CornerNet"
    cfg.MODEL.BACKBONE.NAME = "build_hourglass_backbone"
    cfg.MODEL.DEVICE = "cpu"
    hourglass, head = cfg.MODEL.HOURGLASS, cfg.MODEL.CORNERNET
    hourglass.DEPTH, hourglass.WIDTHS, hourglass.BLOCKS = 1, [32, 32], [1, 1]
    hourglass.STEM_WIDTH, hourglass.OUT_CHANNELS, hourglass.NORM = 32, 32, "GN"
    head.NUM_CLASSES, head.HEAD_WIDTH, head.POOL_WIDTH, head.NORM = CLASSES, 32, 32, "GN"
    head.LOSS.CONVENTION = convention
    torch.manual_seed(0)
    return build_model(cfg).double().train()


def examples(objects: list[int]) -> Batch:
    """One 32 x 32 image for each entry, with that many objects."""
    rng = torch.Generator().manual_seed(1)
    batch = []
    for count in objects:
        corners = torch.rand(count, 2, generator=rng) * 12
        sizes = 4 + torch.rand(count, 2, generator=rng) * 14
        instances = Instances((32, 32))
        instances.gt_boxes = Boxes(torch.cat([corners, corners + sizes], dim=1))
        instances.gt_classes = torch.randint(CLASSES, (count,), generator=rng)
        image = torch.randint(256, (3, 32, 32), generator=rng, dtype=torch.uint8)
        batch.append({"image": image, "instances": instances, "height": 32, "width": 32})
    return batch


def gradients(batches: list[Batch], convention: str = "default") -> dict[str, torch.Tensor]:
    """Of one step of GuardedTrainer, which accumulates over ``batches``."""
    model = small_cornernet(convention)
    step = GuardedTrainer(
        create_ddp_model(model, broadcast_buffers=False, device_ids=None),
        [batch for batch in batches],
        torch.optim.SGD(model.parameters(), lr=0.0),
        accumulation=len(batches),
    )
    with EventStorage():
        step.run_step()
    return {name: p.grad for name, p in model.named_parameters()}


def save_gradients(folder: str, per_rank: list[list[list[int]]]) -> None:
    """Each rank takes its batches out of the same images, given as numbers of objects."""
    flat = iter(examples([n for rank in per_rank for batch in rank for n in batch]))
    split = [[[next(flat) for _ in batch] for batch in rank] for rank in per_rank]
    result = gradients(split[comm.get_rank()])
    torch.save(result, f"{folder}/gradients{comm.get_rank()}.pth")


@pytest.mark.parametrize(
    "per_rank",
    [
        [[[2]], [[5, 0, 1]]],  # two ranks, different numbers of images and objects
        [[[0]], [[3]]],  # one rank without any object
        [[[2], [5, 0]], [[1], [4]]],  # two ranks, two batches each
    ],
)
def test_gradients_equal_one_process(tmp_path: Any, per_rank: list[list[list[int]]]) -> None:
    expected = gradients([examples([n for rank in per_rank for batch in rank for n in batch])])
    run_ranks(save_gradients, len(per_rank), str(tmp_path), per_rank)
    for rank in range(len(per_rank)):
        found = torch.load(tmp_path / f"gradients{rank}.pth")
        error = max((found[name] - expected[name]).abs().max().item() for name in expected)
        assert error < 1e-10
    assert max(g.abs().max() for g in expected.values()) > 1e-3


@pytest.mark.parametrize("convention", ["default", "official", "mmdet"])
@pytest.mark.parametrize("objects", [[[3, 0], [1, 6]], [[0], [0], [2]]])
def test_accumulation_equals_the_big_batch(objects: list[list[int]], convention: str) -> None:
    images = iter(examples([n for batch in objects for n in batch]))
    parts = [[next(images) for _ in batch] for batch in objects]
    found = gradients(parts, convention)
    expected = gradients([[x for batch in parts for x in batch]], convention)
    error = max((found[name] - expected[name]).abs().max().item() for name in expected)
    assert error < 1e-10


def predictions(folder: Any) -> list[dict[str, Any]]:
    """What COCOEvaluator collected, by image."""
    path = Path(folder, "output", "inference", "tiny", "coco_instances_results.json")
    return sorted(json.loads(path.read_text()), key=lambda p: p["image_id"])


def train_and_save(folder: str) -> None:
    weights = train(folder).model.module.state_dict()
    torch.save(weights, f"{folder}/rank{comm.get_rank()}.pth")


def test_training_and_evaluation(tmp_path: Any) -> None:
    """Two ranks end with equal weights; evaluation sees all images, as one process does."""
    make_dataset(str(tmp_path), num_images=13)  # which two cannot share evenly
    run_ranks(train_and_save, 2, str(tmp_path))
    first, second = (torch.load(tmp_path / f"rank{rank}.pth") for rank in (0, 1))
    # Statistics, too: rank 0's are handed out for the evaluation at the end.
    assert all(torch.equal(first[k], second[k]) for k in first)
    together = predictions(tmp_path)
    cfg = tiny_config(str(tmp_path))
    model = CornerNetTrainer.build_model(cfg)
    CornerNetTrainer.load_weights(cfg, model, resume=True)
    CornerNetTrainer.test(cfg, model)
    assert len(together) == 13 and together == predictions(tmp_path)


def one_rank_meets_nan(folder: str) -> None:
    """The other skips with it, and both name its images."""
    make_dataset(folder)
    trainer = CornerNetTrainer(tiny_config(folder, *NO_TEST, "SOLVER.NONFINITE_LIMIT", 2))
    if comm.get_rank() == 1:
        mapper = trainer.data_loader.mapper

        def poison(example: dict[str, Any]) -> dict[str, Any]:
            result = mapper(example)
            return {**result, "image": result["image"].float() * float("nan")}

        trainer.data_loader.mapper = poison
    with pytest.raises(FloatingPointError, match=r"Process 0: loss_width \d.*Process 1: .*nan"):
        trainer.train()
    assert all(p.isfinite().all() for p in trainer.model.state_dict().values())


def test_faults_are_seen_by_all(tmp_path: Any) -> None:
    make_dataset(str(tmp_path))
    run_ranks(one_rank_meets_nan, 2, str(tmp_path))


def train_one_level_of_a_pyramid(folder: str) -> None:
    """p3 to p6 have no head, so that no loss reaches their convolutions."""
    keys = ("MODEL.META_ARCHITECTURE", "CornerNet", "MODEL.WEIGHTS", "")
    cfg = tiny_config(folder, *NO_TEST, *keys, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", ())
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FPN.OUT_CHANNELS = ["res2", "res3", "res4", "res5"], 16
    head = cfg.MODEL.CORNERNET
    head.IN_FEATURES, head.HEAD_WIDTH, head.POOL_WIDTH = ["p2"], 16, 16
    make_dataset(folder)
    trainer = CornerNetTrainer(cfg)
    trainer.train()
    model = trainer.model.module
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert "backbone.fpn_output2.weight" in trained and "backbone.fpn_lateral5.weight" in trained
    assert not {f"backbone.fpn_output{k}.weight" for k in (3, 4, 5)} & trained
    assert all(model.get_parameter(name).grad is not None for name in trained)


def test_backbone_with_unused_outputs(tmp_path: Any) -> None:
    make_dataset(str(tmp_path))
    run_ranks(train_one_level_of_a_pyramid, 2, str(tmp_path))


def die_once(folder: str) -> None:
    """Rank 1 is killed in the middle of the run, the first time."""
    original = GuardedTrainer.run_step

    def run_step(self: GuardedTrainer) -> None:
        if self.iter == 6 and comm.get_rank() == 1:
            os.kill(os.getpid(), 9)
        original(self)

    restarted = int(os.environ["TORCHELASTIC_RESTART_COUNT"]) > 0
    if not restarted:
        GuardedTrainer.run_step = run_step
    torch.save({}, f"{folder}/start{int(restarted)}_rank{comm.get_rank()}")
    train(folder, *NO_TEST, resume=restarted)


def test_elastic_restart(tmp_path: Any) -> None:
    """torchrun starts the group again, which continues from the last checkpoint, exactly."""
    for name in ("once", "killed"):
        (tmp_path / name).mkdir()
        make_dataset(str(tmp_path / name))
    run_ranks(train, 2, str(tmp_path / "once"), *NO_TEST)
    tests = Path(__file__).resolve().parent
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path[:0] = [{str(tests)!r}, {str(tests.parent)!r}]\n"
        "import conftest, test_ddp\nfrom cornernet_d2.engine import launch\n"
        f"launch(test_ddp.die_once, 1, args=({str(tmp_path / 'killed')!r},))\n"
    )
    command = ["--standalone", "--nproc-per-node=2", "--max-restarts=1", str(script)]
    subprocess.run([sys.executable, "-m", "torch.distributed.run", *command], check=True)
    starts = {p.name for p in (tmp_path / "killed").glob("start*")}
    assert starts == {"start0_rank0", "start0_rank1", "start1_rank0", "start1_rank1"}
    once, killed = (
        torch.load(tmp_path / name / "output" / "model_final.pth", weights_only=True)["model"]
        for name in ("once", "killed")
    )
    assert all(torch.equal(once[k], killed[k]) for k in once)


def test_model_on_the_cpu_of_a_gpu_machine(monkeypatch: Any) -> None:
    """The processes talk through gloo, and no GPU is touched."""

    def touch(*args: Any) -> None:
        raise AssertionError("a GPU was set")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", touch)
    ranks = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    assert launch(dist.get_backend, 2, device="cpu") == "gloo"
    with pytest.raises(AssertionError, match="a GPU was set"):
        launch(dist.get_backend, 2, device="cuda")


def record_rank(folder: str) -> None:
    sizes = f"{comm.get_world_size()} {comm.get_local_rank()} {comm.get_local_size()}"
    Path(folder, f"rank{comm.get_rank()}").write_text(sizes)


def test_spawned_processes(tmp_path: Any) -> None:
    """What --num-gpus 2 does, on a machine without one, too."""
    launch(record_rank, 2, dist_url=f"file://{tmp_path}/rendezvous", args=(str(tmp_path),))
    assert {p.name: p.read_text() for p in tmp_path.glob("rank*")} == {
        "rank0": "2 0 2",
        "rank1": "2 1 2",
    }


def stop_early(folder: str) -> None:
    """Results of an evaluation are the first process's alone, but all have to end."""
    scores = iter([3.0, 2.0, 1.0])

    def scored(*_: Any) -> dict[str, Any]:
        return {"bbox": {"AP": next(scores)}} if comm.is_main_process() else {}

    CornerNetTrainer.test = scored
    keys = ("TEST.EVAL_PERIOD", 2, "SOLVER.PATIENCE", 1, "TEST.LOSS_PERIOD", 2)
    trainer = train(folder, *keys)
    values = trainer.storage.latest()
    loss = values["validation/total_loss"][0] if comm.is_main_process() else None
    Path(f"{folder}/stopped{comm.get_rank()}").write_text(json.dumps([trainer.iter, loss]))


def test_early_stopping_and_validation_loss(tmp_path: Any, monkeypatch: Any) -> None:
    for name, run in (("two", lambda f: run_ranks(stop_early, 2, f)), ("one", stop_early)):
        monkeypatch.setattr(CornerNetTrainer, "test", None)  # put back at the end
        (tmp_path / name).mkdir()
        run(str(tmp_path / name))
    read = {p: json.loads((tmp_path / p).read_text()) for p in ("two/stopped0", "one/stopped0")}
    assert json.loads((tmp_path / "two/stopped1").read_text()) == [3, None]
    assert read["two/stopped0"][0] == read["one/stopped0"][0] == 3
    assert 0 < read["two/stopped0"][1]
