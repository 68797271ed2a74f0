"""MODEL.HOURGLASS.RECOMPUTE with every norm that has running statistics."""

import pytest
import torch

from cornernet_d2.modeling import Hourglass


@pytest.mark.parametrize("norm", ["BN", "SyncBN", "naiveSyncBN"])
@pytest.mark.parametrize("level", ["stack", "block"])
def test_gradients_and_statistics_are_those_of_one_forward(norm: str, level: str) -> None:
    results = []
    for recompute in ("none", level):
        torch.manual_seed(0)
        model = Hourglass(
            widths=[8, 8], blocks=[1, 1], stacks=1, stem_width=8, norm=norm, recompute=recompute
        )
        images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        for _ in range(2):
            sum(x.square().mean() for x in model(images).values()).backward()
        grads = {f"{name}.grad": p.grad for name, p in model.named_parameters()}
        results.append({**model.state_dict(), **grads})
    plain, recomputed = results
    assert plain.keys() == recomputed.keys()
    for name, value in plain.items():
        assert torch.equal(recomputed[name], value), name
