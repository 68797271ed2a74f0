"""The CUDA kernels on a GPU: values, streams, devices, alignment, graphs. Skipped without one."""

import itertools

import pytest
import torch
from torch import Tensor

from cornernet_d2.layers import corner_pool, corner_pool_sum, is_compiled
from tests.corner_pool_oracle import first_maximum_backward, first_maximum_scan, make_map

MODES = {"top": (2, True), "bottom": (2, False), "left": (3, True), "right": (3, False)}
CORNERS = {"tl": ("top", "left"), "br": ("bottom", "right")}
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
LAYOUTS = ("contiguous", "channels_last", "transposed", "sliced", "strided", "expanded")
# Relative error of a gradient that up to 520 others were added up to, in that dtype.
TOLERANCE = {
    torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 4e-3, torch.bfloat16: 3e-2
}  # fmt: skip

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def check_pools(x: Tensor, modes: tuple[str, ...] = tuple(MODES)) -> None:
    """Values and gradients on the GPU against the scan on the CPU, bit for bit and to rounding."""
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
    for mode in modes:
        dim, reverse = MODES[mode]
        expected, index = first_maximum_scan(x.cpu(), dim, reverse)
        leaf = x.detach().requires_grad_()
        y = corner_pool(leaf, mode)
        assert y.device == x.device and y.stride() == torch.empty_like(x).stride()
        torch.testing.assert_close(y.cpu(), expected, rtol=0, atol=0, equal_nan=True)
        (gradient,) = torch.autograd.grad(y, leaf, grad)
        wanted = first_maximum_backward(grad.cpu(), index, dim)
        tolerance = TOLERANCE[x.dtype]
        torch.testing.assert_close(
            gradient.cpu().double(), wanted, rtol=tolerance, atol=tolerance * 3
        )


def check_sums(x: Tensor, y: Tensor) -> None:
    """Values and gradients of the fused sums against two pools, which check_pools has checked."""
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(x)
    for corner, (vertical, horizontal) in CORNERS.items():
        leaves = x.detach().requires_grad_(), y.detach().requires_grad_()
        total = corner_pool_sum(*leaves, corner)
        expected = corner_pool(leaves[0], vertical) + corner_pool(leaves[1], horizontal)
        torch.testing.assert_close(total, expected, rtol=0, atol=0, equal_nan=True)
        actual = torch.autograd.grad(total, leaves, grad)
        wanted = torch.autograd.grad(expected, leaves, grad)
        assert all(torch.equal(a, b) for a, b in zip(actual, wanted))


def test_kernels_are_compiled() -> None:
    assert is_compiled()["cuda"], "the tests of this file would measure the fallback"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_maps_of_the_paper(dtype: torch.dtype, layout: str) -> None:
    """128 x 128, as the network has them at 511 pixels."""
    for with_nan in (False, True):
        x = make_map((2, 6, 128, 128), dtype, layout, 3, with_nan, device="cuda")
        check_pools(x)
        check_sums(x, make_map(x.shape, dtype, layout, 4, with_nan, device="cuda"))


@pytest.mark.parametrize("size", [264, 512, 513, 520, 1031])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_long_lines(dtype: torch.dtype, layout: str, size: int) -> None:
    for shape in ((1, 5, 6, size), (1, 5, size, 6), (1, 8, size, 8)):
        x = make_map(shape, dtype, layout, 5, True, device="cuda")
        check_pools(x)
        check_sums(x, make_map(shape, dtype, layout, 6, True, device="cuda"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_odd_storage_offsets(dtype: torch.dtype) -> None:
    """Data that no vector access of 16 bytes may touch as one."""
    shape = (2, 8, 16, 128)
    for offset, layout in itertools.product((1, 3, 7), ("contiguous", "channels_last")):
        source = make_map(shape, dtype, layout, offset, device="cuda")
        storage = torch.empty(source.numel() + offset, dtype=dtype, device="cuda")
        x = storage.as_strided(shape, source.stride(), offset).copy_(source)
        assert x.data_ptr() % 16
        check_pools(x)
        check_sums(x, source)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
def test_empty_maps(shape: tuple[int, ...]) -> None:
    for mode in MODES:
        x = torch.empty(shape, device="cuda", requires_grad=True)
        y = corner_pool(x, mode)
        y.sum().backward()
        assert y.shape == x.grad.shape == shape
    assert corner_pool_sum(x, x, "tl").shape == shape


def test_the_stream_is_the_current_one() -> None:
    """Work that is queued behind a long wait on a side stream must see what the wait ends in."""
    x = torch.zeros(1, 8, 128, 128, device="cuda")
    source = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    waiting = source.cuda()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        x.copy_(waiting)
        leaf = x.requires_grad_()
        results = [corner_pool(leaf, mode) for mode in MODES] + [corner_pool_sum(leaf, leaf, "tl")]
        (gradient,) = torch.autograd.grad(sum(results), leaf, torch.ones_like(x))
    stream.synchronize()
    host = source.requires_grad_()
    expected = [corner_pool(host, mode) for mode in MODES] + [corner_pool_sum(host, host, "tl")]
    (wanted,) = torch.autograd.grad(sum(expected), host, torch.ones_like(source))
    assert all(torch.equal(a.cpu(), b) for a, b in zip(results, expected))
    torch.testing.assert_close(gradient.cpu(), wanted)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_device_that_is_not_the_current_one() -> None:
    with torch.cuda.device(0):
        x = make_map((2, 6, 33, 65), torch.float32, seed=7, device="cuda:1")
        check_pools(x)
        check_sums(x, make_map(x.shape, torch.float32, seed=8, device="cuda:1"))
        assert torch.cuda.current_device() == 0
        with pytest.raises((ValueError, RuntimeError), match="device"):
            corner_pool_sum(x, x.to("cuda:0"), "tl")


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_graph_capture(dtype: torch.dtype, layout: str) -> None:
    """Forward and backward in a CUDA graph: no allocation of their own, no synchronisation."""
    x = make_map((2, 8, 128, 128), dtype, layout, device="cuda").detach().requires_grad_()
    grad = torch.randn_like(x)

    def step() -> tuple[Tensor, Tensor]:
        y = corner_pool(x, "top") + corner_pool(x, "right") + corner_pool_sum(x, x, "br")
        return y, torch.autograd.grad(y, x, grad)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for seed in (1, 2):
        with torch.no_grad():
            x.copy_(make_map(x.shape, dtype, layout, seed, device="cuda"))
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(captured, step()))


def test_deterministic() -> None:
    x = make_map((2, 8, 128, 128), torch.float32, device="cuda").requires_grad_()
    grad = torch.randn_like(x)
    first, *rest = (torch.autograd.grad(corner_pool_sum(x, x, "tl"), x, grad)[0] for _ in range(4))
    assert all(torch.equal(first, other) for other in rest)
