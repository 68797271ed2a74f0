"""A prepared model detects what the plain one does, and leaves that one alone."""

import copy
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from tiny_run import tiny_network
from torch import nn

import cornernet_d2
from cornernet_d2 import model_zoo, prepare
from cornernet_d2.engine import CornerNetTrainer
from cornernet_d2.prepare import fastest_dtype

IMAGES = [{"image": torch.randint(256, (3, 40, 50 + 9 * i), dtype=torch.uint8)} for i in range(2)]


def model(*overrides):
    """A network with running statistics that are no unit."""
    torch.manual_seed(0)
    built = build_model(tiny_network("CornerNet-HG104", *overrides)).eval()
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return built


@pytest.mark.parametrize("overrides", [(), ("MODEL.HOURGLASS.NORM", "FrozenBN")])
@torch.no_grad()
def test_float32_equals_the_plain_model(overrides):
    plain = model(*overrides)
    before = copy.deepcopy(plain.state_dict())
    prepared = cornernet_d2.prepare_for_inference(plain, "float32")
    pixels, _ = plain.preprocess_image(IMAGES)
    for corner, maps in plain.last_maps(pixels).items():
        for name, value in maps.items():
            found = prepared.last_maps(pixels)[corner][name]
            torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-4)
    for wanted, found in zip(plain(IMAGES), prepared(IMAGES)):
        wanted, found = wanted["instances"], found["instances"]
        torch.testing.assert_close(found.scores, wanted.scores, rtol=0, atol=1e-4)
    norms = [m for m in prepared.modules() if getattr(m, "running_mean", None) is not None]
    assert not norms and len(prepared.head) == 1 and len(plain.head) == 2
    assert not any(p.requires_grad for p in prepared.parameters())
    for name, value in plain.state_dict().items():
        assert torch.equal(value, before[name]), name


@torch.no_grad()
def test_half_precision_ends_in_float32():
    """Heat maps of 8 bits would have equal neighbours, all of which are corners."""
    plain = model("MODEL.HOURGLASS.RECOMPUTE", "block")
    prepared = cornernet_d2.prepare_for_inference(plain, torch.bfloat16)
    assert prepared.backbone.stem[0].weight.dtype == torch.bfloat16
    assert prepared.pixel_mean.dtype == torch.float32
    pixels, _ = plain.preprocess_image(IMAGES)
    for corner, maps in plain.last_maps(pixels).items():
        for name, value in maps.items():
            found = prepared.last_maps(pixels)[corner][name]
            assert found.dtype == torch.float32
            assert (found - value).abs().mean() < 0.05 * value.abs().mean() + 0.01
    heat = prepared.last_maps(pixels)["tl"]["heatmap"]
    assert len(heat.unique()) > 0.9 * heat.numel()
    assert len(copy.deepcopy(prepared)(IMAGES)) == 2


def test_auto_takes_what_the_machine_has(monkeypatch):
    cpu = torch.device("cpu")
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    for has, dtype in (((False, False), "float32"), ((False, True), "bfloat16")):
        for probe, answer in zip(probes, has):
            monkeypatch.setattr(torch.cpu, probe, lambda answer=answer: answer, raising=False)
        assert fastest_dtype(cpu) == getattr(torch, dtype)
        prepared = cornernet_d2.prepare_for_inference(model())
        assert prepared.backbone.stem[0].weight.dtype == getattr(torch, dtype)
    for probe in probes:
        monkeypatch.delattr(torch.cpu, probe)
    assert fastest_dtype(cpu) == torch.float32
    monkeypatch.setattr(prepare, "hardware_precision", lambda _: (torch.float16, "an old GPU"))
    assert fastest_dtype(cpu) == torch.float32  # its numbers may overflow


def test_norms_that_are_not_folded_stay_float32():
    """Those of timm's backbones; running statistics of 8 bits would shift every feature."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    prepare._halve(network, torch.bfloat16)
    assert network[0].weight.dtype == torch.bfloat16
    assert network[1].running_var.dtype == network[1].weight.dtype == torch.float32
    assert network(torch.ones(1, 3, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_fast_is_the_default_but_where_results_must_be_equal():
    for path in (Path(__file__).parent.parent / "configs").glob("*.yaml"):
        test = model_zoo.get_config(path.stem).MODEL.CORNERNET.TEST
        assert test.FAST == (test.CONVENTION == "default"), path


@pytest.mark.parametrize("fast", [True, False])
def test_evaluation_follows_the_key(fast, monkeypatch):
    cfg = tiny_network("CornerNet-HG104", "MODEL.CORNERNET.TEST.FAST", fast, "DATASETS.TEST", ())
    cfg.DATASETS.TEST = ("any",)
    tested = []
    monkeypatch.setattr(CornerNetTrainer, "build_test_loader", lambda *_: [])
    monkeypatch.setattr(CornerNetTrainer, "build_evaluator", lambda *_: None)
    monkeypatch.setattr(
        "detectron2.engine.defaults.inference_on_dataset", lambda m, *_: tested.append(m) or {}
    )
    plain = build_model(cfg)
    CornerNetTrainer.test(cfg, plain)
    assert len(plain.head) == 2 and (len(tested[0].head) == 1) == fast
    assert (tested[0] is plain) != fast
