"""The whole Hourglass-104 at 511 pixels on cuda:0, without memory or values: FakeTensorMode.

What is proved: every operator of a training step and of decoding finds its tensors on one device,
in the dtype and memory format that the presets ask for.
"""

import collections
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode

from cornernet_d2 import model_zoo
from cornernet_d2.engine import CornerNetTrainer
from cornernet_d2.modeling.decode import decode_corners
from cornernet_d2.modeling.losses import heatmap_focal_loss
from tests.strict_device import guard
from tests.strict_device.device import CUDA, CUDA_MODULE

SIDE, IMAGES = 512, 2


@pytest.fixture(autouse=True)
def fake_cuda() -> Iterator[None]:
    guard.install()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(torch.cuda, **CUDA_MODULE))
        stack.enter_context(
            mock.patch.object(FakeTensorMode, "avoid_device_init", True, create=True)
        )
        supported = [*_foreach_utils._foreach_supported_types, FakeTensor]
        stack.enter_context(
            mock.patch.object(_foreach_utils, "_foreach_supported_types", supported)
        )
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        yield


def on_fake_cuda(model: nn.Module) -> nn.Module:
    """A model on "meta" with fake CUDA parameters and buffers in place of its own."""
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = nn.Parameter(fake_like(p))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fake_like(buffer)
    return model


def fake_like(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")


class Pools(TorchDispatchMode):
    """Counts the calls of this package's operators by name, dtype and memory format."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: collections.Counter[tuple[str, torch.dtype, bool]] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "cornernet_d2":
            last = args[0].is_contiguous(memory_format=torch.channels_last)
            self.calls[func._opname, args[0].dtype, last] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "name,dtype,last",
    [("CornerNet-HG104", torch.float32, False), ("CornerNet-HG104-12ep", torch.bfloat16, True)],
)
def test_training_step_and_decoding(name: str, dtype: torch.dtype, last: bool) -> None:
    cfg = model_zoo.get_config(name)
    cfg.defrost()
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        model = build_model(cfg).train()
    with FakeTensorMode(allow_non_fake_inputs=False), Pools() as pools:
        on_fake_cuda(model)
        stacks = take_step(cfg, model, dtype)
        with torch.no_grad():
            pairs = decode_corners(stacks[-1])
    assert sum(p.numel() for p in model.parameters()) > 190e6
    layout = torch.channels_last if last else torch.contiguous_format
    for p in model.parameters():
        assert (p.grad.device, p.grad.dtype) == (CUDA, torch.float32)
        assert p.dim() < 4 or p.grad.is_contiguous(memory_format=layout)
    forward = {key: n for key, n in pools.calls.items() if "backward" not in key[0]}
    backward = {key: n for key, n in pools.calls.items() if "backward" in key[0]}
    assert {key[1:] for key in forward} == {(dtype, last)}
    assert {key[1] for key in backward} == {dtype}
    assert sum(forward.values()) == sum(backward.values()) > 0
    assert {tuple(part.shape) for part in pairs} == {
        (IMAGES, 1000, 4), (IMAGES, 1000), (IMAGES, 1000, 2)
    }  # fmt: skip
    assert {part.device for part in pairs} == {CUDA}


def take_step(cfg: CfgNode, model: nn.Module, dtype: torch.dtype) -> list[Any]:
    optimizer = CornerNetTrainer.build_optimizer(cfg, model)
    images = torch.empty(IMAGES, 3, SIDE, SIDE, device="cuda")
    target = torch.empty(IMAGES, 80, SIDE // 4, SIDE // 4, device="cuda")
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        stacks = model.corner_maps(images)
        loss = sum(heatmap_focal_loss(m[c]["heatmap"], target) for m in stacks for c in m)
    rest = [m[c][part] for m in stacks for c in m for part in ("embedding", "offset")]
    (loss + sum(x.float().sum() for x in rest)).backward()
    optimizer.step()
    return stacks
