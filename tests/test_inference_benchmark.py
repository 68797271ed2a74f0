"""The benchmark of inference measures what it says, side by side."""

import json

import pytest
import torch
from detectron2.modeling import build_model
from tiny_run import tiny_network

from cornernet_d2.tools.benchmark import stages
from cornernet_d2.tools.command import main


def test_rows_stages_and_picture(tmp_path, capsys):
    variants = ["plain", "float32", "bfloat16"]
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401

        variants.append("onnx")
    except ImportError:
        pass
    cfg = tiny_network("CornerNet-HG104")
    (tmp_path / "tiny.yaml").write_text(cfg.dump())
    argv = ["benchmark", "inference", str(tmp_path / "tiny.yaml"), "--size", "40", "--rounds", "2"]
    argv += ["--batch-size", "1", "2", "--threads", "1", "--clock", "cpu", "--device", "cpu"]
    argv += ["--json", str(tmp_path / "a.json"), "--picture", str(tmp_path / "a.png")]
    assert main([*argv, "--variants", *variants]) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "a.json").read_text())
    assert [(row["variant"], row["batch"]) for row in report["rows"]] == [
        (variant, batch) for batch in (1, 2) for variant in variants
    ]
    for row in report["rows"]:
        assert row["ms"] > 0 and (row["height"], row["width"]) == (40, 40)
        assert row["images_per_second"] == pytest.approx(1e3 * row["batch"] / row["ms"])
        assert f"{row['ms']:.1f}" in printed
    assert report["rows"][0]["speed"] == 1
    assert [row["variant"] for row in report["stages"]] == variants[:3]
    assert (tmp_path / "a.png").stat().st_size > 5000
    assert main([*argv, "--variants", "plain"]) == 1 and "exists" in capsys.readouterr().err


@torch.no_grad()
def test_stages_add_up_and_leave_no_trace():
    model = build_model(tiny_network("CornerNet-HG104")).eval()
    before = model.backbone.forward, model.corner_inference.decode, torch.nn.functional.conv2d
    ticks = iter(range(10**6))
    spent = stages.measure(model, [torch.zeros(3, 40, 40)], lambda: next(ticks), 2)
    assert sum(spent[name] for name in stages.STAGES) == spent["total"]
    assert all(spent[name] > 0 for name in stages.STAGES)
    assert spent["preprocess"] == spent["decode"] == spent["soft-NMS"] == 1
    convolutions = sum(isinstance(m, torch.nn.Conv2d) for m in model.backbone.modules())
    assert spent["convolutions"] >= convolutions
    after = model.backbone.forward, model.corner_inference.decode, torch.nn.functional.conv2d
    assert after == before
