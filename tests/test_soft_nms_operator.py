"""cornernet_d2::soft_nms: the compiled kernels against the form in standard operators."""

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from cornernet_d2.layers import is_compiled, soft_nms
from cornernet_d2.layers.soft_nms import METHODS, _soft_nms

ROOT = Path(__file__).parents[1]
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
SETTINGS = {"sigma": 0.4, "iou_threshold": 0.3, "min_score": 0.02}


def candidates(count: int, groups: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes in clusters of near copies, with tied and unusable scores among theirs."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(max(1, count // 8), 2, generator=generator) * 200
    of = torch.randint(len(centre), (count,), generator=generator)
    start = centre[of] + torch.randn(count, 2, generator=generator) * 6
    size = 20 + 40 * torch.rand(count, 2, generator=generator)
    size[::17] = 0.0
    corners = torch.rand(count, 2, generator=generator)
    corners[::7, 1] = 0.0
    scores = torch.randint(0, 50, (count,), generator=generator) / 50  # many ties, some of 0
    scores[::11] = torch.tensor([float("nan"), -1.0, 0.01])[torch.arange(len(scores[::11])) % 3]
    group = torch.randint(groups, (count,), generator=generator) * 5 - 3
    return torch.cat([start, start + size], 1), scores, group, corners


def standard(
    boxes: Tensor,
    scores: Tensor,
    group: Tensor,
    corners: Tensor | None,
    method: str,
    **other: float,
) -> tuple[Tensor, Tensor]:
    """What the operator returns where it has no kernel."""
    other = {"exponent": 1.0, "max_picks": len(boxes)} | SETTINGS | other
    sorted_group, order = group.sort(stable=True)
    names = "sigma", "iou_threshold", "min_score", "exponent", "max_picks"
    values = [other[name] for name in names]
    return _soft_nms(boxes, scores, sorted_group, order, corners, METHODS.index(method), *values)


def check(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], method: str) -> None:
    """Equal scores and order; one rounding of exp, pow and sums apart."""
    if method == "gaussian":
        torch.testing.assert_close(actual[0], expected[0], rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(actual[0], expected[0])
    assert torch.equal(actual[0] > 0, expected[0] > 0)
    orders = [result[0].sort(descending=True, stable=True).indices for result in (actual, expected)]
    assert torch.equal(*orders)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("merge", [False, True])
def test_kernels_equal_standard_operators(device: str, method: str, merge: bool) -> None:
    if not is_compiled()[device]:
        pytest.skip("not compiled")
    for seed, (count, groups) in enumerate([(0, 1), (1, 1), (60, 1), (400, 1), (300, 7), (90, 90)]):
        boxes, scores, group, corners = candidates(count, groups, seed)
        for max_picks in (None, 3):
            extra = {"exponent": 5.0} | ({} if max_picks is None else {"max_picks": max_picks})
            given = [boxes, scores, group, corners if merge else None]
            moved = [None if value is None else value.to(device) for value in given]
            actual = soft_nms(*moved, method=method, **SETTINGS, **extra)
            check([a.cpu() for a in actual], standard(*given, method, **extra), method)


@pytest.mark.parametrize("method", METHODS)
def test_a_limit_of_picks_keeps_the_best(method: str) -> None:
    boxes, scores, group, corners = candidates(300, 4, 1)
    given = boxes, scores, group, corners
    for run in (
        lambda picks: soft_nms(*given, method=method, **SETTINGS, max_picks=picks),
        lambda picks: standard(*given, method, max_picks=picks),
    ):
        everything, some = run(300), run(20)
        best = everything[0].sort(descending=True, stable=True)
        limited = some[0].sort(descending=True, stable=True)
        assert best.values[19] > 0 and int((limited.values > 0).sum()) < int(
            (best.values > 0).sum()
        )
        assert torch.equal(best.indices[:20], limited.indices[:20])
        assert torch.equal(best.values[:20], limited.values[:20])
        assert torch.equal(everything[1][best.indices[:20]], some[1][best.indices[:20]])


def test_rounds_end_with_the_boxes_that_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    module, rounds = sys.modules["cornernet_d2.layers.soft_nms"], []
    monkeypatch.setattr(module, "_iou", lambda box, others: rounds.append(0) or others[0] * 0)
    boxes = torch.rand(300, 2).repeat(1, 2) + torch.tensor([0.0, 0, 1, 1])
    scores, group = torch.linspace(0.9, 0.1, 300), torch.zeros(300, dtype=torch.int64)
    new_scores, _ = standard(boxes, scores, group, None, "gaussian", max_picks=40)
    assert new_scores.nonzero().flatten().tolist() == list(range(40)) and len(rounds) == 40


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device: str) -> None:
    boxes, scores, group, corners = (value.to(device) for value in candidates(40, 3, 0))
    group, order = group.sort(stable=True)
    scores = scores.nan_to_num()
    for corner_scores in (None, corners):
        arguments = boxes, scores, group, order, corner_scores, 0, 0.5, 0.5, 0.001, 8.0, 40
        opcheck(torch.ops.cornernet_d2.soft_nms.default, arguments)


@pytest.mark.skipif(not is_compiled()["cpu"], reason="not compiled")
def test_wrong_operands_are_refused() -> None:
    boxes, scores, group, corners = candidates(8, 1, 0)
    good = [boxes, scores, group, torch.arange(8), corners, 0, 0.5, 0.5, 0.001, 8.0, 8]
    wrong = {0: boxes[:, :3], 1: scores[:7], 2: group.int(), 3: group.float(), 4: corners.double()}
    for position, value in wrong.items():
        arguments = [value if i == position else given for i, given in enumerate(good)]
        with pytest.raises(RuntimeError, match="soft_nms expects"):
            torch.ops.cornernet_d2.soft_nms(*arguments)
    good[5] = 3
    with pytest.raises(RuntimeError, match="decay is 0, 1 or 2"):
        torch.ops.cornernet_d2.soft_nms(*good)


@pytest.fixture(scope="module")
def emulate(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Tensor, Tensor]]:
    """The unmodified CUDA kernel on an emulation of CUDA threads."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    library = tmp_path_factory.mktemp("emulation") / "soft_nms.so"
    source = ROOT / "tests" / "cuda_emulation"
    command = ["g++", "-O1", "-U_FORTIFY_SOURCE", "-std=c++20", "-fPIC", "-shared"]
    command += ["-ffp-contract=off", f"-I{source}", f"-I{ROOT / 'cornernet_d2' / 'csrc'}"]
    subprocess.run(command + [str(source / "soft_nms_harness.cpp"), "-o", str(library)], check=True)
    function = ctypes.CDLL(str(library)).emulate_soft_nms

    def run(
        boxes: Tensor, scores: Tensor, group: Tensor, corners: Tensor | None, method: str,
        exponent: float = 1.0, max_picks: int | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        group, order = group.sort(stable=True)
        new_scores, merged = torch.full_like(scores, 77), torch.full_like(boxes, 77)
        spare = torch.full_like(scores, 77)
        tensors = boxes, scores, group, order, corners, spare, new_scores, merged
        data = (ctypes.c_void_p * 8)(*(0 if t is None else t.data_ptr() for t in tensors))
        settings = (ctypes.c_float * 4)(*SETTINGS.values(), exponent)
        count = ctypes.c_int64(len(boxes))
        picks = ctypes.c_int64(len(boxes) if max_picks is None else max_picks)
        function(data, settings, count, ctypes.c_int64(METHODS.index(method)), picks)
        return new_scores, merged

    return run


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("merge", [False, True])
def test_the_cuda_kernel_equals_standard_operators(
    emulate: Callable[..., tuple[Tensor, Tensor]], method: str, merge: bool
) -> None:
    for seed, (count, groups) in enumerate([(1, 1), (60, 1), (300, 1), (200, 7), (40, 40)]):
        boxes, scores, group, corners = candidates(count, groups, seed)
        for extra in ({"exponent": 5.0}, {"exponent": 8.0, "max_picks": 3}):
            given = boxes, scores, group, corners if merge else None
            check(emulate(*given, method, **extra), standard(*given, method, **extra), method)


def test_the_cuda_kernel_takes_groups_beyond_its_shared_memory(
    emulate: Callable[..., tuple[Tensor, Tensor]],
) -> None:
    boxes, scores, group, corners = candidates(2500, 1, 3)
    extra = {"exponent": 8.0, "max_picks": 12}
    given = boxes, scores, group, corners, "gaussian"
    check(emulate(*given, **extra), standard(*given, **extra), "gaussian")
