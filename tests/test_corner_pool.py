"""The corner-pool operator, compiled and as fallback, against a position-by-position scan."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cornernet_d2.layers import CornerPool, corner_pool, corner_pool_sum, fallback, is_compiled
from tests.corner_pool_oracle import first_maximum_backward, first_maximum_scan, make_map

OPS = torch.ops.cornernet_d2
MODES = {"top": (2, True), "bottom": (2, False), "left": (3, True), "right": (3, False)}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
LAYOUTS = ["contiguous", "channels_last", "transposed", "sliced", "strided", "expanded"]
SHAPES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 2, 33, 31), (1, 1, 129, 16), (2, 40, 4, 65)]
TOLERANCE = {
    torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 4e-3, torch.bfloat16: 3e-2
}  # fmt: skip

devices = pytest.mark.parametrize("device", DEVICES)


@devices
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_values_and_gradients(mode, dtype, device):
    dim, reverse = MODES[mode]
    for seed, (shape, layout) in enumerate(itertools.product(SHAPES, LAYOUTS)):
        x = make_map(shape, dtype, layout, seed, with_nan=seed % 4 == 0, device=device)
        grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(x)
        expected, index = first_maximum_scan(x.cpu(), dim, reverse)
        leaf = x.detach().requires_grad_()
        y = corner_pool(leaf, mode)
        assert y.stride() == torch.empty_like(x).stride()
        torch.testing.assert_close(y.cpu(), expected, rtol=0, atol=0, equal_nan=True)
        (grad_x,) = torch.autograd.grad(y, leaf, grad)
        wanted = first_maximum_backward(grad.cpu(), index, dim)
        torch.testing.assert_close(
            grad_x.cpu().double(), wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * 3
        )


@devices
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("corner", ["tl", "br"])
def test_sum_is_the_two_pools(corner, dtype, device):
    modes = ("top", "left") if corner == "tl" else ("bottom", "right")
    layouts = list(itertools.product(LAYOUTS, ["contiguous", "channels_last", "strided"]))
    for seed, (first, second) in enumerate(layouts):
        shape = SHAPES[seed % len(SHAPES)]
        v = make_map(shape, dtype, first, seed, device=device).detach().requires_grad_()
        h = make_map(shape, dtype, second, seed + 50, device=device).detach().requires_grad_()
        y = corner_pool_sum(v, h, corner)
        expected = corner_pool(v, modes[0]) + corner_pool(h, modes[1])
        assert torch.equal(y, expected) and y.stride() == torch.empty_like(v).stride()
        grad = torch.randn(shape, device=device).to(dtype)
        actual = torch.autograd.grad(y, (v, h), grad)
        wanted = torch.autograd.grad(expected, (v, h), grad)
        assert all(torch.equal(a, b) for a, b in zip(actual, wanted))


@pytest.mark.parametrize("mode", MODES)
def test_first_of_equal_maxima_and_first_nan_take_the_gradient(mode):
    scan = torch.tensor([1.0, 2.0, 2.0, 0.0, -0.0, 3.0, float("nan"), float("nan"), 4.0])
    wanted = torch.tensor([1.0, 4.0, 0.0, 0.0, 0.0, 1.0, 3.0, 0.0, 0.0])
    zeros = torch.tensor([-0.0, 0.0, -0.0])
    for line, expected in ((scan, wanted), (zeros, torch.tensor([3.0, 0.0, 0.0]))):
        dim, reverse = MODES[mode]
        order = line.flip(0) if reverse else line
        x = order.view(1, 1, -1, 1) if dim == 2 else order.view(1, 1, 1, -1)
        x = x.clone().requires_grad_()
        corner_pool(x, mode).sum().backward()
        grad = x.grad.flatten()
        assert torch.equal(grad.flip(0) if reverse else grad, expected)


@pytest.mark.parametrize("dim", range(4))
def test_empty_maps(dim):
    shape = [2, 3, 4, 5]
    shape[dim] = 0
    for mode in MODES:
        x = torch.zeros(shape, requires_grad=True)
        corner_pool(x, mode).sum().backward()
        assert x.grad.shape == x.shape
    assert corner_pool_sum(torch.zeros(shape), torch.zeros(shape), "tl").shape == torch.Size(shape)


def test_standard_operators_are_bit_equal():
    for seed, (dtype, mode) in enumerate(itertools.product(DTYPES, MODES)):
        x = make_map((2, 3, 17, 20), dtype, seed=seed, with_nan=True)
        expected = corner_pool(x, mode)
        for form in (fallback.scan_max, fallback.corner_pool):
            assert torch.equal(form(x, *MODES[mode]).nan_to_num(9), expected.nan_to_num(9))


def test_autocast_keeps_the_dtype_it_is_given():
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in DTYPES:
            assert corner_pool(torch.zeros(1, 1, 2, 2, dtype=dtype), "top").dtype == dtype


def test_nothing_but_the_input_is_saved():
    x = torch.randn(2, 3, 4, 5, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        corner_pool(x, "top")
        corner_pool_sum(x, x, "tl")
    assert {t.data_ptr() for t in saved} == {x.data_ptr()}


@devices
def test_deterministic_for_any_number_of_threads(device):
    x = make_map((2, 8, 130, 140), torch.float32, device=device).requires_grad_()
    grad = torch.randn(2, 8, 130, 140, device=device)
    threads = torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append([torch.autograd.grad(corner_pool(x, m), x, grad)[0] for m in MODES])
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_errors_say_what_is_wrong():
    x = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match='mode must be "top", "bottom", "left" or "right"'):
        corner_pool(x, "up")
    with pytest.raises(ValueError, match="mode must be"):
        CornerPool("tl")
    with pytest.raises(ValueError, match=r"must be a map \(N, C, H, W\)"):
        corner_pool(x[0], "top")
    with pytest.raises(ValueError, match="floating-point map, got torch.int64"):
        corner_pool(x.long(), "top")
    with pytest.raises(ValueError, match='corner must be "tl" or "br"'):
        corner_pool_sum(x, x, "top")
    with pytest.raises(ValueError, match="same shape and dtype"):
        corner_pool_sum(x, x[..., 1:], "tl")
    with pytest.raises(ValueError, match="same shape and dtype"):
        corner_pool_sum(x, x.double(), "tl")


@pytest.mark.skipif(not is_compiled()["cpu"], reason="not compiled")
@pytest.mark.skipif(sys.platform != "linux", reason="names a Linux library path")
@pytest.mark.parametrize(
    "variables",
    [{"CORNERNET_D2_FORCE_FALLBACK": "1"}]
    + [{"ATEN_CPU_CAPABILITY": name} for name in ("default", "avx2")],
    ids=["fallback", "baseline", "avx2"],
)
def test_other_code_paths(variables):
    """The operators' tests again without the kernels, and with those for older processors."""
    names = "(values or two_pools) and (float32 or float16) or first or empty or kernels_equal"
    files = [__file__, str(Path(__file__).with_name("test_soft_nms_operator.py"))]
    if "CORNERNET_D2_FORCE_FALLBACK" in variables:  # their registration as well
        names += " or opcheck or orders"
        files.append(str(Path(__file__).with_name("test_corner_pool_registration.py")))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", names, *files]
    environment = {**os.environ, **variables, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
