"""The ablations: what a variant changes, that finished runs are not repeated, and the table."""

import argparse
import json
from pathlib import Path

import pytest
import torch
from tiny_run import TINY_NETWORK, make_dataset, tiny_network

from cornernet_d2.engine import CornerNetTrainer
from cornernet_d2.modeling.pairing import Corners
from tests.benchmarks import ablations, second_cue, variants

TINY = [
    *map(str, TINY_NETWORK), *("DATASETS.TRAIN", "('tiny',)", "DATASETS.TEST", "('tiny',)"),
    *("MODEL.CORNERNET.NUM_CLASSES", "1", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.WARMUP_ITERS", "1"),
    *("INPUT.MIN_SIZE_TEST", "16", "INPUT.MIN_SIZE_TRAIN", "(16,)", "MODEL_EMA.DECAY", "0.5"),
    *("MODEL.CORNERNET.CHANNELS_LAST", "False", "SOLVER.AMP.ENABLED", "False", "LOGGERS", "[]"),
]  # fmt: skip


def _args(tmp_path: Path, *more: str) -> argparse.Namespace:
    line = ["--output", str(tmp_path), "--iterations", "2", "--seeds", "1", "2", *more, *TINY]
    return ablations.parse(line)


def test_a_run_leaves_its_result_and_the_test_variant_takes_its_weights(tmp_path: Path) -> None:
    make_dataset(str(tmp_path))
    args = _args(tmp_path)
    named = {x.name: x for x in ablations.variants_of(args)}
    found = ablations.run_one(args, named["no offsets"]._replace(name="baseline"), 1)
    assert json.loads((tmp_path / "baseline" / "1" / "result.json").read_text()) == found
    assert set(found) == {"AP", "AP50", "AP75"}
    assert (tmp_path / "baseline" / "1" / "model_final.pth").is_file()
    again = ablations.run_one(args, named["not mirrored in the test"], 1)
    assert set(again) == set(found)


def test_what_is_done_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    started = []

    def start(argv: list[str], name: str, seed: int) -> int:
        started.append((name, seed))
        if name == "two stacks" and seed == 2:
            return 1
        (variant,) = (x for x in variants.METHOD if x.name == name)
        folder = tmp_path / variant.folder / str(seed)
        folder.mkdir(parents=True)
        ap = 50.0 + seed + (8 if name == "two stacks" else 0)
        (folder / "result.json").write_text(json.dumps({"AP": ap, "AP50": 70.0, "AP75": 60.0}))
        return 0

    monkeypatch.setattr(ablations, "_start", start)
    args = _args(tmp_path, "--variants", "two stacks", "no offsets")
    assert ablations.run(args) == 1
    expected = ["baseline", "no offsets", "two stacks"]
    assert started == [(name, seed) for seed in (1, 2) for name in expected]
    output = capsys.readouterr()
    assert "failed: two stacks, seed 2" in output.err
    rows = {line[:36].strip(): line[36:].split() for line in output.out.splitlines()}
    assert rows["baseline"][:4] == ["2", "51.5", "±", "0.7"]
    assert rows["two stacks"][:4] == ["1", "59.0", "±", "0.0"] and rows["two stacks"][-1] == "+7.5"
    assert rows["no offsets"][-1] == "+0.0"
    del started[:]
    ablations.run(args)
    assert started == [("two stacks", 2)]


def test_variants_of_ones_own(tmp_path: Path) -> None:
    args = _args(tmp_path, "--variant", "wide=MODEL.CORNERNET.HEAD_WIDTH 16", "--variants", "wide")
    base, wide = ablations.variants_of(args)
    assert base.name == "baseline" and wide.overrides == ["MODEL.CORNERNET.HEAD_WIDTH", "16"]
    for wrong in (["--variants", "nothing"], ["--variant", "a=KEY"], ["--variant", "KEY 1"]):
        with pytest.raises(ValueError, match="no variant is called nothing|is not NAME=KEY VALUE"):
            ablations.variants_of(_args(tmp_path, *wrong))


def test_changes_that_no_key_makes() -> None:
    torch.manual_seed(0)
    model = CornerNetTrainer.build_model(tiny_network("CornerNet-HG104")).eval()
    pixels = torch.rand(1, 3, 64, 64)
    plain = model.last_maps(pixels)
    with variants.without_offsets():
        changed = model.last_maps(pixels)
    assert (changed["br"]["offset"] == 0.5).all() and not (plain["br"]["offset"] == 0.5).all()
    assert torch.equal(changed["tl"]["heatmap"], plain["tl"]["heatmap"])
    with variants.without_corner_pooling():
        local = model.head[-1](torch.zeros(1, 8, 16, 16))
        spot = torch.zeros(1, 8, 16, 16)
        spot[..., 15, 8] = 9.0
        moved = model.head[-1](spot)
    # Far above the spot nothing changes; with corner pooling the whole column would.
    assert torch.equal(moved["tl"]["heatmap"][..., 0, 8], local["tl"]["heatmap"][..., 0, 8])
    pooled = [model.head[-1](x)["tl"]["heatmap"][..., 0, 8] for x in (spot, torch.zeros_like(spot))]
    assert not torch.equal(*pooled)


def test_shifts_with_embeddings_as_a_second_cue() -> None:
    """Both rules have to accept; heads and losses are those of both."""
    cfg = tiny_network("CornerNet-HG104", *variants.BOTH)
    model = CornerNetTrainer.build_model(cfg).eval()
    maps = model.last_maps(torch.rand(1, 3, 64, 64))
    assert list(maps["tl"]) == ["heatmap", "shift", "embedding", "offset"]
    pairing = second_cue.ShiftAndEmbedding(cfg)
    assert set(pairing.weights) == {"centripetal", "pull", "push"}
    xy = torch.tensor([[[0.0, 0.0], [8.0, 0.0]]])
    shift = torch.full((1, 2, 2), 4.0).log()
    tl, br = (
        Corners(torch.zeros(1, 2), torch.zeros(1, 2), at, at, {"shift": shift, "embedding": e})
        for at, e in (
            (xy, torch.tensor([[[0.0], [1.0]]])),
            (xy + 8, torch.tensor([[[0.1], [3.0]]])),
        )
    )
    match = pairing.match(tl, br, cell_size=(4, 4))
    # The shifts fit on the diagonal, of which the embeddings fit in one.
    assert match.accepted.tolist() == [[[True, False], [False, False]]]
    assert match.weight[0, 0, 0] == 1
