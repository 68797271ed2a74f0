"""The strict device itself: it refuses what a GPU refuses, and counts what makes a host wait."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.strict_device.device import DeviceMix, StrictDevice

# (what is done with (8,) numbers on the device, synchronisations, copies)
MEETINGS: dict[str, tuple[Callable[[Tensor], object], int, int]] = {
    "item": (lambda x: x.sum().item(), 1, 0),
    "bool": (lambda x: bool((x > 0).any()), 1, 0),
    "nonzero": (lambda x: x.nonzero(), 1, 0),
    "mask": (lambda x: x[x > 0], 1, 0),
    "unique": (lambda x: x.unique(), 1, 0),
    "repeat_interleave": (lambda x: x.repeat_interleave(x.long().abs()), 1, 0),
    "tolist": (lambda x: x.tolist(), 1, 1),
    "cpu": (lambda x: x.cpu(), 1, 1),
    "number to the device": (lambda x: torch.tensor([1.0], device="cuda"), 1, 1),
    "index on the host": (lambda x: x[torch.tensor([0, 1])], 1, 1),
    "pinned": (lambda x: torch.ones(3).pin_memory().to("cuda", non_blocking=True), 0, 1),
    "mask and number": (lambda x: x.clone().__setitem__(x > 0, 0.0), 0, 0),
    "arithmetic": (lambda x: (x * 2 + torch.tensor(1.0)).sort().values.cumsum(0), 0, 0),
    "created there": (lambda x: torch.zeros(8, device="cuda") + x, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", MEETINGS)
def test_meetings_are_counted(name: str) -> None:
    action, syncs, copies = MEETINGS[name]
    with StrictDevice() as gpu:
        x = torch.linspace(-2, 2, 8).cuda()
        gpu.ledger.clear()
        action(x)
    assert (gpu.ledger.syncs, gpu.ledger.copies) == (syncs, copies), gpu.ledger.report()


@pytest.mark.parametrize(
    "mix",
    [
        lambda x, host: x + host,
        lambda x, host: torch.cat([x, host]),
        lambda x, host: host[x.long()],
        lambda x, host: x.index_put_((x.long(),), host),
        lambda x, host: torch.nn.functional.linear(x, host),
    ],
)
def test_mixing_is_refused(mix: Callable[[Tensor, Tensor], object]) -> None:
    with StrictDevice(), pytest.raises(DeviceMix, match="on cuda:0 and"):
        mix(torch.zeros(4).cuda(), torch.zeros(4))


def test_a_budget_that_is_exceeded_names_the_line() -> None:
    with StrictDevice() as gpu:
        torch.zeros(3).cuda().sum().item()
    with pytest.raises(
        AssertionError, match="budget of 0 sync.*found 2 sync(.|\n)*check_device.py"
    ):
        gpu.ledger.check("this", syncs=0)


def test_keys_of_a_cuda_tensor() -> None:
    """Autocast and autograd take the rules for CUDA; the values are the CPU's."""
    with StrictDevice():
        x = torch.randn(2, 3).cuda().requires_grad_()
        weight = torch.randn(4, 3).cuda().requires_grad_()
        keys = torch._C._dispatch_keys(x)
        assert keys.has(torch._C.DispatchKey.AutogradCUDA)
        with torch.autocast("cuda", torch.float16):
            y = torch.nn.functional.linear(x, weight)
        assert y.dtype == torch.float16
        y.float().sum().backward()
        assert x.grad.device == x.device and x.grad.dtype == torch.float32
        with pytest.raises(TypeError, match="convert cuda:0"):
            x.detach().numpy()
