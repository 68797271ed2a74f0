"""SOLVER.COMPILE: the compiled parts run, and train as the uncompiled ones do."""

import shutil

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from tiny_run import tiny_network

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


def small_config(*overrides: object) -> CfgNode:
    small = ["MODEL.HOURGLASS.STACKS", 1, "MODEL.HOURGLASS.DEPTH", 1]  # compiling takes the time
    small += ["MODEL.HOURGLASS.WIDTHS", [8, 8], "MODEL.HOURGLASS.BLOCKS", [1, 1]]
    return tiny_network("CornerNet-HG104", *small, *overrides)


def step(compiled: bool) -> dict[str, torch.Tensor]:
    """Gradients and running statistics after one forward and backward pass, by name."""
    torch.manual_seed(0)
    model = build_model(small_config()).train()
    if compiled:
        model.compile_parts()
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 6.0, 30.0, 41.0], [20.0, 9.0, 60.0, 50.0]]))
    instances.gt_classes = torch.tensor([0, 1])
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8)
    sum(model([{"image": image, "instances": instances}]).values()).backward()
    return {**model.state_dict(), **{f"{n}.grad": p.grad for n, p in model.named_parameters()}}


def test_compiled_step_equals_eager() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    expected, found = step(compiled=False), step(compiled=True)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2  # backbone and head
    assert not torch._dynamo.utils.counters["graph_break"]
    assert found.keys() == expected.keys()  # checkpoints do not change
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("level", ["stack", "block"])
def test_recomputation_is_refused(level: str) -> None:
    model = build_model(small_config("MODEL.HOURGLASS.RECOMPUTE", level))
    with pytest.raises(ValueError, match="SOLVER.COMPILE does not go with MODEL.HOURGLASS.REC"):
        model.compile_parts()
