"""The CUDA kernels without a GPU: their unmodified source runs on an emulation of CUDA threads."""

import itertools
import shutil
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.corner_pool_oracle import first_maximum_backward, first_maximum_scan
from tests.cuda_emulation import BACKWARD, DTYPES, FORWARD, SUM, Emulation

SUM_TOLERANCE = {
    torch.float32: 1e-5, torch.float64: 1e-12, torch.float16: 1e-3, torch.bfloat16: 1e-2
}  # fmt: skip
# Scanned cells: a few, around the bounds of segments, warps and passes, maps of large images, and
# more than a tile (512 cells; 256 of a row of doubles and 128 of an unaligned row).
LENGTHS = [*range(1, 10), 31, 32, 33, 63, 64, 65, 127, 128, 129, 264, 511, 512, 513, 520, 1100]
LAYOUTS = ["contiguous", "channels_last", "sliced", "cropped", "offset", "transposed"]

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture(scope="module")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> Emulation:
    return Emulation(tmp_path_factory.mktemp("emulation"))


def make_map(shape: tuple[int, ...], dtype: torch.dtype, layout: str, seed: int) -> Tensor:
    """Heavily tied values with both zeros; infinities and NaN in two of three maps."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-3, 4, shape, generator=generator).to(dtype)
    x[torch.rand(shape, generator=generator) < 0.1] = -0.0
    if seed % 3:
        x[torch.rand(shape, generator=generator) < 0.3] = -float("inf")
    if seed % 3 == 2:
        x[torch.rand(shape, generator=generator) < 0.05] = float("nan")
    return with_layout(x, layout)


def with_layout(x: Tensor, layout: str) -> Tensor:
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":  # rows of odd stride: no 16-byte access is possible
        return torch.cat([x, x[..., :1]], 3)[..., :-1]
    if layout == "cropped":  # rows of different images or channels at uneven distances
        return torch.nn.functional.pad(x, (8, 8, 1, 0))[..., 1:, 8:-8]
    if layout == "offset":  # storage that starts one element late
        return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    return x


def shapes(dim: int) -> Iterator[tuple[int, ...]]:
    others = itertools.cycle([1, 16, 5, 8, 3, 2, 24])
    for length, _ in itertools.product(LENGTHS, range(2)):
        other = next(others)
        images = 1 if length * other > 2000 else 2
        yield (images, 2, length, other) if dim == 2 else (images, 2, other, length)


def check_pool(emulation: Emulation, x: Tensor, grad: Tensor, dim: int, reverse: bool) -> None:
    out, grad_x = torch.full_like(x, 77), torch.full_like(x, 77)
    assert emulation.run(FORWARD, dim, reverse, out, x)
    expected, index = first_maximum_scan(x, dim, reverse)
    torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)
    assert emulation.run(BACKWARD, dim, reverse, grad_x, grad, x)
    # Half gradients: the sum is rounded once, from float32.
    tolerance = SUM_TOLERANCE[x.dtype]
    torch.testing.assert_close(
        grad_x.double(), first_maximum_backward(grad, index, dim),
        rtol=tolerance, atol=tolerance * x.shape[dim] ** 0.5,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [2, 3])
def test_pool_and_backward(emulation: Emulation, dtype: torch.dtype, dim: int) -> None:
    cases = 0
    # 5 is coprime to 2 (directions), 3 (kinds of values) and 7 (other sizes)
    layouts = itertools.cycle(LAYOUTS[:5])
    for seed, (shape, reverse) in enumerate(itertools.product(shapes(dim), (False, True))):
        x = make_map(shape, dtype, next(layouts), seed)
        generator = torch.Generator().manual_seed(seed)
        grad = torch.empty_like(x).copy_(torch.randn(shape, generator=generator))
        if emulation.run(FORWARD, dim, reverse, torch.empty_like(x), x) is None:
            # no dimension is contiguous in input and output: the operator copies such a view
            assert x.stride(3) != 1 or shape[3] == 1
            x, grad = x.contiguous(), grad.contiguous()
        check_pool(emulation, x, grad, dim, reverse)
        cases += 1
    assert cases == 4 * len(LENGTHS)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dim", [2, 3])
def test_every_layout(emulation: Emulation, dtype: torch.dtype, layout: str, dim: int) -> None:
    for seed, reverse in itertools.product(range(3), (False, True)):
        x = make_map((2, 8, 17, 24), dtype, layout, seed)
        grad = torch.empty_like(x).copy_(torch.randn(x.shape))
        check_pool(emulation, x, grad, dim, reverse)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sum_is_both_pools(emulation: Emulation, dtype: torch.dtype) -> None:
    sizes = [(1, 1), (33, 16), (129, 31), (8, 264), (130, 40), (2, 520), (520, 8)]
    for seed, (h, w) in enumerate(sizes):
        for reverse, layout in zip(itertools.cycle((False, True, True, False)), LAYOUTS):
            shape = (1, 8 if h * w < 2000 else 2, h, w)
            vertical = make_map(shape, dtype, layout, seed)
            horizontal = make_map(shape, dtype, layout, seed + 100)
            out = torch.full_like(vertical, 77)
            if emulation.run(SUM, 2, reverse, out, vertical, horizontal) is None:
                assert vertical.stride() != out.stride()
                continue
            expected = first_maximum_scan(vertical, 2, reverse)[0]
            expected = expected + first_maximum_scan(horizontal, 3, reverse)[0]
            torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_results_do_not_depend_on_the_order_of_threads(
    emulation: Emulation, dtype: torch.dtype
) -> None:
    """Gradients of very different size, so that another order of summation would show."""
    x = torch.zeros(1, 2, 130, 136, dtype=dtype)
    grad = (torch.randn(x.shape) * 10 ** torch.empty(x.shape).uniform_(-3, 3)).to(dtype)
    for dim in (2, 3):
        results = []
        for images in (1, 2, 3):  # the emulation seeds the order of threads with the grid's size
            out = torch.empty(images, *x.shape[1:], dtype=dtype)
            inputs = grad.expand_as(out).contiguous(), x.expand_as(out).contiguous()
            emulation.run(BACKWARD, dim, False, out, *inputs)
            results.append(out[:1])
        assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_wide_accesses_where_aligned(emulation: Emulation, dtype: torch.dtype) -> None:
    wide = 8 if dtype == torch.float64 else 16
    for layout, dim in itertools.product(LAYOUTS, (2, 3)):
        x = make_map((1, 16, 16, 16), dtype, layout, 0)
        expected = dtype.itemsize if layout in ("sliced", "offset") else wide
        assert emulation.run(FORWARD, dim, True, torch.empty_like(x), x) == expected


def test_nothing_is_written_outside_an_empty_or_small_map(emulation: Emulation) -> None:
    for shape in ((0, 2, 3, 4), (1, 2, 0, 4), (1, 2, 3, 0), (1, 1, 1, 1), (1, 3, 5, 7)):
        for dim, dtype in itertools.product((2, 3), DTYPES):
            storage = torch.full((1000,), 77, dtype=dtype)
            x = torch.ones(shape, dtype=dtype)
            out = storage[500 : 500 + x.numel()].view(shape)
            emulation.run(FORWARD, dim, False, out, x)
            emulation.run(BACKWARD, dim, False, out, x, x)
            assert (storage != 77).sum() == (out != 77).sum()


def test_index_arithmetic_beyond_two_to_the_31(emulation: Emulation) -> None:
    """A view whose rows lie 2**30 elements apart, over memory that is never touched in between."""
    stride = 2**30
    storage = torch.UntypedStorage(2 * (2 * stride + 64))  # 4 GiB of addresses, three pages used
    x = torch.empty(0, dtype=torch.bfloat16).set_(storage, 0, (1, 1, 3, 8), (1, 1, stride, 1))
    x.copy_(torch.arange(24.0).view(1, 1, 3, 8).flip(2))
    out = torch.empty(1, 1, 3, 8, dtype=torch.bfloat16)
    assert emulation.run(FORWARD, 2, True, out, x)
    assert torch.equal(out, first_maximum_scan(x, 2, True)[0])
