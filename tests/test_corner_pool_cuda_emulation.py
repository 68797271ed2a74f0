"""The CUDA kernels without a GPU: their unmodified source runs on an emulation of CUDA threads."""

import ctypes
import itertools
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.corner_pool_oracle import first_maximum_backward, first_maximum_scan

ROOT = Path(__file__).parents[1]
FORWARD, BACKWARD, SUM = range(3)
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SUM_TOLERANCE = {
    torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 1e-3, torch.bfloat16: 1e-2
}  # fmt: skip
LENGTHS = [1, 31, 32, 33, 127, 128, 129, 511]

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="module")
def emulate(tmp_path_factory):
    """Runs a kernel on (out, in, key); returns bytes an access, or None where a copy is needed."""
    library = tmp_path_factory.mktemp("emulation") / "emulation.so"
    source = ROOT / "tests" / "cuda_emulation"
    command = ["g++", "-O1", "-U_FORTIFY_SOURCE", "-std=c++20", "-fPIC", "-shared", f"-I{source}"]
    command += [f"-I{ROOT / 'cornernet_d2' / 'csrc'}", str(source / "harness.cpp")]
    subprocess.run(command + ["-o", str(library)], check=True)
    function = ctypes.CDLL(str(library)).emulate

    def run(operation, dim, reverse, out, *inputs):
        tensors = [out, *inputs] + [inputs[-1]] * (2 - len(inputs))
        sizes = (ctypes.c_int64 * 4)(*out.shape)
        strides = (ctypes.c_int64 * 12)(*itertools.chain(*(t.stride() for t in tensors)))
        data = (ctypes.c_void_p * 3)(*(t.data_ptr() for t in tensors))
        code = DTYPES.index(out.dtype)
        width = function(operation, code, sizes, strides, data, dim, int(reverse))
        return None if width < 0 else width

    return run


def make_map(shape, dtype, layout, seed, with_nan=False):
    """Heavily tied values with both zeros; NaN on demand."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-3, 4, shape, generator=generator).to(dtype)
    x[torch.rand(shape, generator=generator) < 0.1] = -0.0
    if with_nan:
        x[torch.rand(shape, generator=generator) < 0.05] = float("nan")
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":  # rows of odd stride: no 16-byte access is possible
        return torch.cat([x, x[..., :1]], 3)[..., :-1]
    if layout == "offset":  # storage that starts one element late
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(shape)
    return x


def shapes(dim):
    for length, other in zip(LENGTHS * 2, [1, 16, 5, 8, 1, 3, 16, 2] + [16, 5, 2, 3, 8, 16, 1, 1]):
        yield (1, 2, length, other) if dim == 2 else (1, 2, other, length)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [2, 3])
def test_pool_and_backward(emulate, dtype, dim):
    cases = 0
    layouts = itertools.cycle(["contiguous", "channels_last", "sliced", "offset"])
    for seed, (shape, reverse) in enumerate(itertools.product(shapes(dim), (False, True))):
        x = make_map(shape, dtype, next(layouts), seed, with_nan=seed % 3 == 0)
        generator = torch.Generator().manual_seed(seed)
        grad = torch.empty_like(x).copy_(torch.randn(shape, generator=generator))
        out, grad_x = torch.full_like(x, 77), torch.full_like(x, 77)
        if emulate(FORWARD, dim, reverse, out, x) is None:  # the operator copies such a view
            assert x.stride(2) != 1 and shape[3] == 1
            x = x.contiguous()
            out, grad, grad_x = torch.empty_like(x), grad.contiguous(), torch.empty_like(x)
            assert emulate(FORWARD, dim, reverse, out, x)
        expected, index = first_maximum_scan(x, dim, reverse)
        torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)
        assert emulate(BACKWARD, dim, reverse, grad_x, grad, x)
        tolerance = SUM_TOLERANCE[dtype]
        expected = first_maximum_backward(grad, index, dim)
        # Half gradients: the sum is rounded once, from float32.
        torch.testing.assert_close(
            grad_x.double(), expected, rtol=tolerance, atol=tolerance * shape[dim] ** 0.5
        )
        cases += 2
    assert cases == 64


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sum_is_both_pools(emulate, dtype):
    for seed, (h, w) in enumerate([(1, 1), (33, 16), (129, 31), (8, 264), (130, 40), (2, 513)]):
        for reverse, layout in itertools.product((False, True), ("contiguous", "sliced")):
            vertical = make_map((1, 2, h, w), dtype, layout, seed, with_nan=seed == 1)
            horizontal = make_map((1, 2, h, w), dtype, layout, seed + 100)
            out = torch.full((1, 2, h, w), 77, dtype=dtype)
            if emulate(SUM, 2, reverse, out, vertical, horizontal) is None:
                assert h * w == 1
                continue
            expected = first_maximum_scan(vertical, 2, reverse)[0]
            expected = expected + first_maximum_scan(horizontal, 3, reverse)[0]
            torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_wide_accesses_where_aligned(emulate, dtype):
    lanes = 16 // dtype.itemsize
    for dim in (2, 3):
        x = torch.randn(1, 2, 2 * lanes, 2 * lanes).to(dtype)
        assert emulate(FORWARD, dim, True, torch.empty_like(x), x) == 16
        odd = torch.randn(1, 2, 2 * lanes, 2 * lanes + 1).to(dtype)
        assert emulate(FORWARD, dim, True, torch.empty_like(odd), odd) == dtype.itemsize


def test_index_arithmetic_beyond_two_to_the_31(emulate):
    """A view whose rows lie 2**30 elements apart, over memory that is never touched in between."""
    stride = 2**30
    storage = torch.UntypedStorage(2 * (2 * stride + 64))  # 4 GiB of addresses, three pages used
    x = torch.empty(0, dtype=torch.bfloat16).set_(storage, 0, (1, 1, 3, 8), (1, 1, stride, 1))
    x.copy_(torch.arange(24.0).view(1, 1, 3, 8).flip(2))
    out = torch.empty(1, 1, 3, 8, dtype=torch.bfloat16)
    assert emulate(FORWARD, 2, True, out, x)
    assert torch.equal(out, first_maximum_scan(x, 2, True)[0])
