"""Recipes with Detectron2's own backbones: R50-FPN, and ViTDet where it is."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling import build_model
from test_pairing import example

from cornernet_d2 import model_zoo
from cornernet_d2.checkpoint import conventions
from cornernet_d2.engine.optimizer import build_optimizer


def test_r50_fpn_is_built_as_the_recipe_says():
    cfg = model_zoo.get_config("CornerNet-R50-FPN")
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert model.in_features == ["p2"] and model.target_generator.stride == 4
    assert model.divisibility == 32
    bottom_up = model.backbone.bottom_up
    for stage, trains in (("stem", False), ("res2", False), ("res3", True), ("res5", True)):
        flags = {p.requires_grad for p in getattr(bottom_up, stage).parameters()}
        assert flags == {trains}, stage
    fresh = {id(p) for p in model.backbone.fpn_output2.parameters()}
    slow = {id(p) for p in bottom_up.parameters()}
    rates = {}
    for group in build_optimizer(cfg, model).param_groups:
        for p in group["params"]:
            rates[id(p)] = group["lr"]
    base = cfg.SOLVER.BASE_LR
    assert {rates[i] for i in slow & set(rates)} == {0.3 * base}
    assert {rates[i] for i in fresh} == {base}


def test_the_input_of_its_weights_is_noted():
    cfg = model_zoo.get_config("CornerNet-R50-FPN")
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    model.pixel_mean = torch.tensor(cfg.MODEL.PIXEL_MEAN).view(-1, 1, 1)
    model.pixel_std = torch.tensor(cfg.MODEL.PIXEL_STD).view(-1, 1, 1)
    found = conventions.of_model(model)
    assert found.format == "BGR" and found.pixel_std == (1.0, 1.0, 1.0)
    assert found.pixel_mean == pytest.approx((103.53, 116.28, 123.675))


def test_vitdet_trains_and_detects():
    pytest.importorskip("detectron2.modeling.backbone.vit")  # not in 0.6
    cfg = model_zoo.get_config("lazy/cornernet_vitdet_b.py")
    net = cfg.model.backbone.net
    net.img_size, net.embed_dim, net.depth, net.num_heads = 64, 32, 3, 2
    net.window_size, net.window_block_indexes, net.drop_path_rate = 2, [0, 2], 0.0
    cfg.model.backbone.out_channels, cfg.model.head_width, cfg.model.pool_width = 16, 16, 16
    cfg.model.num_classes = 3
    torch.manual_seed(0)
    model = instantiate(cfg.model)
    assert model.divisibility == 16
    losses = model([example([8, 8, 40, 30]), example()])
    sum(losses.values()).backward()
    without = {n for n, p in model.named_parameters() if p.grad is None}
    assert without and all(n.startswith("backbone.simfp_") for n in without)
    x = example()
    x["image"] = x["image"][:, :40, :50]  # no whole patches
    (result,) = model.eval()([x])
    assert result["instances"].pred_boxes.tensor.isfinite().all()
