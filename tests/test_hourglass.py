"""Hourglass: published size, any map size, config, recomputation."""

import copy

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY

from cornernet_d2 import add_cornernet_config
from cornernet_d2.modeling import Hourglass

TINY = dict(widths=(8, 8, 12), blocks=(1, 1, 2), stem_width=8, out_channels=6)


def tiny(**overrides) -> Hourglass:
    torch.manual_seed(0)
    return Hourglass(**{**TINY, **overrides})


def test_published_size():
    """201,035,212 in all at 80 classes, of which the head has 13,334,860 (see test_corner_head)."""
    with torch.device("meta"):
        backbone = Hourglass()
    assert sum(p.numel() for p in backbone.parameters()) == 201_035_212 - 13_334_860
    assert sum(p.numel() for p in backbone.stacks[0].parameters()) == 92_134_400
    assert sum(p.numel() for p in backbone.stem.parameters()) == 938_112
    assert backbone.size_divisibility == 128


@pytest.mark.parametrize("size", [(64, 64), (63, 127), (37, 50), (1, 1), (5, 200)])
@pytest.mark.parametrize("stacks", [1, 3])
def test_any_image_size(size, stacks):
    backbone = tiny(stacks=stacks).eval()
    features = backbone(torch.randn(1, 3, *size))
    assert list(features) == [f"stack{i + 1}" for i in range(stacks)]
    expected = (1, 6, -(-size[0] // 4), -(-size[1] // 4))
    assert all(f.shape == expected and f.isfinite().all() for f in features.values())
    assert {k: (v.channels, v.stride) for k, v in backbone.output_shape().items()} == {
        name: (6, 4) for name in features
    }


def test_registered_and_configured():
    cfg = get_cfg()
    add_cornernet_config(cfg)
    add_cornernet_config(cfg)  # idempotent
    hourglass = cfg.MODEL.HOURGLASS
    hourglass.DEPTH, hourglass.WIDTHS, hourglass.BLOCKS = 2, [8, 8, 12], [1, 1, 2]
    hourglass.STEM_WIDTH, hourglass.OUT_CHANNELS, hourglass.STACKS = 8, 6, 1
    build = BACKBONE_REGISTRY.get("build_hourglass_backbone")
    built = build(cfg, ShapeSpec(channels=3)).state_dict()
    assert {k: v.shape for k, v in built.items()} == {
        k: v.shape for k, v in tiny(stacks=1).state_dict().items()
    }


@pytest.mark.parametrize(
    "overrides", [dict(blocks=(1, 1)), dict(stacks=0), dict(blocks=(1, 0, 1)), dict(recompute="x")]
)
def test_bad_settings_are_named(overrides):
    with pytest.raises(ValueError, match="MODEL.HOURGLASS"):
        tiny(**overrides)


def test_depth_must_fit_widths():
    cfg = get_cfg()
    add_cornernet_config(cfg)
    cfg.MODEL.HOURGLASS.DEPTH = 4
    with pytest.raises(ValueError, match="MODEL.HOURGLASS.WIDTHS has 6"):
        Hourglass(cfg, ShapeSpec(channels=3))


@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "SyncBN"])
def test_norm_reaches_every_level(norm):
    kinds = {type(m).__name__ for m in tiny(norm=norm).modules() if "Norm" in type(m).__name__}
    expected = {"BN": "BatchNorm2d", "FrozenBN": "FrozenBatchNorm2d", "SyncBN": "SyncBatchNorm"}
    assert len(kinds) == 1 and expected[norm] in kinds.pop()


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "naiveSyncBN"])
@pytest.mark.parametrize("level", ["stack", "block"])
def test_recomputation_changes_nothing(level, norm):
    plain, recomputed = tiny(stacks=2, norm=norm), tiny(stacks=2, norm=norm, recompute=level)
    assert list(plain.state_dict()) == list(recomputed.state_dict())
    x = torch.randn(2, 3, 48, 48)
    for model in (plain, recomputed):
        sum(f.square().sum() for f in model(x).values()).backward()
    for (name, a), b in zip(plain.named_parameters(), recomputed.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=name, rtol=1e-5, atol=1e-5)
    for (name, a), b in zip(plain.named_buffers(), recomputed.buffers()):
        assert torch.equal(a, b), f"{name}: running statistics moved twice"


@pytest.mark.parametrize("level", ["stack", "block"])
def test_recomputation_saves_memory(level):
    """Bytes kept for the backward pass, as the saved-tensor hooks see them."""

    def saved_bytes(recompute: str) -> int:
        model = tiny(stacks=2, recompute=recompute)
        seen = {}

        def pack(t: torch.Tensor) -> torch.Tensor:
            seen[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = sum(f.sum() for f in model(torch.randn(1, 3, 128, 128)).values())
        del loss
        return sum(seen.values())

    assert saved_bytes(level) < 0.7 * saved_bytes("none")


def test_copies_and_pickles():
    model = tiny(recompute="block").eval()
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(copy.deepcopy(model)(x)["stack2"], model(x)["stack2"])
