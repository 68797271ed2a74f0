"""CornerNet-Squeeze: published size, any map size, training, presets.

Its numbers are pinned to the authors' by test_parity.py, its names by test_checkpoint_formats.py.
"""

import copy

import pytest
import torch
from detectron2.modeling import build_model

from cornernet_d2 import model_zoo
from cornernet_d2.modeling import SqueezeHourglass

TINY = dict(widths=(8, 8, 12), blocks=(1, 1, 2), stacks=2, stem_width=8, out_channels=6)


def tiny(**overrides) -> SqueezeHourglass:
    torch.manual_seed(0)
    return SqueezeHourglass(**{**TINY, **overrides})


@pytest.mark.parametrize("preset", ["CornerNet-Squeeze", "CornerNet-Squeeze-official"])
def test_published_size(preset):
    cfg = model_zoo.get_config(preset)
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg)
    assert sum(p.numel() for p in model.parameters()) == 31_771_852
    assert model.divisibility == 128
    assert model.target_generator.stride == 8


@pytest.mark.parametrize("size", [(64, 64), (63, 127), (37, 50), (1, 1), (5, 200)])
def test_any_image_size(size):
    backbone = tiny().eval()
    features = backbone(torch.randn(1, 3, *size))
    expected = (1, 6, -(-size[0] // 8), -(-size[1] // 8))
    assert all(f.shape == expected and f.isfinite().all() for f in features.values())
    assert {k: (v.channels, v.stride) for k, v in backbone.output_shape().items()} == {
        name: (6, 8) for name in features
    }


@pytest.mark.parametrize("recompute", ["stack", "block"])
def test_recomputation_changes_nothing_and_every_weight_learns(recompute):
    plain = tiny()
    spare = tiny(recompute=recompute)
    spare.load_state_dict(copy.deepcopy(plain.state_dict()))
    x = torch.randn(2, 3, 64, 64)
    for model in (plain, spare):
        sum(f.square().mean() for f in model(x).values()).backward()
    for (name, a), b in zip(plain.named_parameters(), spare.parameters()):
        assert a.grad.abs().sum() > 0, name
        torch.testing.assert_close(a.grad, b.grad)


def test_odd_widths_are_refused():
    with pytest.raises(ValueError, match="even widths"):
        tiny(widths=(8, 9, 12))
