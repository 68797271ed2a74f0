"""The corner-pool operators in torch: opcheck, gradients of every order, transforms, export."""

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.library import opcheck

from cornernet_d2.layers import CornerPool, corner_pool, corner_pool_sum
from tests.corner_pool_oracle import first_maximum_scan, make_map

OPS = torch.ops.cornernet_d2
MODES = ["top", "bottom", "left", "right"]
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])

devices = pytest.mark.parametrize("device", DEVICES)


@devices
@pytest.mark.parametrize("operator", ["corner_pool", "backward", "gather", "sum", "sum_backward"])
def test_opcheck(operator, device):
    for layout in ("contiguous", "channels_last", "strided"):
        x, y, z = (
            make_map((2, 3, 4, 5), torch.float32, layout, s, device=device) for s in range(3)
        )
        x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
        cases = {
            "corner_pool": (OPS.corner_pool, (x, 2, True)),
            "backward": (OPS.corner_pool_backward, (x, z, 3, False)),
            "gather": (OPS.corner_pool_gather, (x, z, 2, False)),
            "sum": (OPS.corner_pool_sum, (x, y, True)),
            "sum_backward": (OPS.corner_pool_sum_backward, (z, x.detach(), y.detach(), False)),
        }
        op, arguments = cases[operator]
        opcheck(op.default, arguments)


@devices
@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_all_orders(mode, device):
    torch.manual_seed(0)
    x = torch.randn(2, 2, 4, 5, dtype=torch.double, device=device, requires_grad=True)
    checks = {"check_forward_ad": True, "check_batched_grad": True}
    assert gradcheck(lambda t: corner_pool(t, mode), x, **checks)
    assert gradgradcheck(lambda t: corner_pool(t, mode), x)
    corner = "tl" if mode in ("top", "left") else "br"
    pair = x, torch.randn_like(x).requires_grad_()
    assert gradcheck(lambda v, h: corner_pool_sum(v, h, corner), pair, check_forward_ad=True)
    assert gradgradcheck(lambda v, h: corner_pool_sum(v, h, corner), pair)


def test_function_transforms_are_right():
    torch.manual_seed(0)
    x, tangent = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    loss = lambda t: (corner_pool(t, "top") ** 2).sum()  # noqa: E731
    leaf = x.clone().requires_grad_()
    wanted = torch.autograd.grad(loss(leaf), leaf)[0]
    torch.testing.assert_close(torch.func.grad(loss)(x), wanted)
    value, derivative = torch.func.jvp(lambda t: corner_pool(t, "left"), (x,), (tangent,))
    _, index = first_maximum_scan(x, 3, True)
    assert torch.equal(derivative, tangent.gather(3, index))
    with forward_ad.dual_level():
        for op in (lambda t: corner_pool(t, "left"), lambda t: OPS.corner_pool(t, 3, True)):
            dual = op(forward_ad.make_dual(x, tangent))
            assert torch.equal(forward_ad.unpack_dual(dual).tangent, derivative)
    per_sample = torch.vmap(torch.func.grad(loss))(torch.stack([x, tangent]))
    torch.testing.assert_close(per_sample[0], wanted)
    hessian = torch.func.hessian(loss)(x[:1, :1])
    assert torch.equal(hessian, torch.autograd.functional.hessian(loss, x[:1, :1]))


@pytest.mark.parametrize("in_dim,out_dim", [(0, 0), (2, 1), (4, 3)])
def test_vmap(in_dim, out_dim):
    x, y = torch.randn(4, 2, 3, 5, 6), torch.randn(2, 3, 5, 6)
    mapped = torch.vmap(lambda t: corner_pool(t, "left"), in_dim, out_dim)(x.movedim(0, in_dim))
    each = torch.stack([corner_pool(t, "left") for t in x])
    assert torch.equal(mapped.movedim(out_dim, 0), each)
    total = torch.vmap(lambda t: corner_pool_sum(t, y, "tl"), in_dim)(x.movedim(0, in_dim))
    assert torch.equal(total, torch.stack([corner_pool_sum(t, y, "tl") for t in x]))


def test_compile_export_and_script():
    torch.compiler.reset()
    compiled = torch.compile(
        lambda a, b: corner_pool_sum(a, b, "tl") + corner_pool(a, "right"),
        fullgraph=True, dynamic=True, backend="aot_eager",
    )  # fmt: skip
    for h, w in ((4, 5), (7, 9), (12, 3)):
        a, b = (torch.randn(2, 3, h, w, requires_grad=True) for _ in range(2))
        expected = corner_pool_sum(a, b, "tl") + corner_pool(a, "right")
        actual = compiled(a, b)
        assert torch.equal(actual, expected)
        wanted = torch.autograd.grad(expected.square().sum(), (a, b))
        got = torch.autograd.grad(actual.square().sum(), (a, b))
        assert all(torch.equal(p, q) for p, q in zip(got, wanted))
    sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    x = torch.randn(2, 3, 6, 7)
    program = torch.export.export(CornerPool("top"), (x,), dynamic_shapes=(sizes,))
    larger = torch.randn(3, 3, 9, 5)
    assert torch.equal(program.module()(larger), corner_pool(larger, "top"))


@pytest.mark.filterwarnings("ignore")
def test_torchscript():
    x = torch.randn(2, 3, 6, 7)
    assert torch.equal(torch.jit.script(CornerPool("left"))(x), corner_pool(x, "left"))
    with pytest.raises(torch.jit.Error, match="mode must be"):
        torch.jit.script(corner_pool)(x, "up")


@pytest.mark.filterwarnings("ignore")
def test_onnx_form_is_bit_equal(tmp_path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")

    class Both(torch.nn.Module):
        def forward(self, x):
            return corner_pool(x, "top"), corner_pool_sum(x, x, "br")

    sizes = {2: torch.export.Dim("h", min=2, max=64), 3: torch.export.Dim("w", min=2, max=64)}
    path = str(tmp_path / "pool.onnx")
    x = torch.randn(1, 2, 9, 12)
    torch.onnx.export(Both(), (x,), path, dynamo=True, dynamic_shapes=(sizes,), verbose=False)
    session = onnxruntime.InferenceSession(path)
    for shape in ((1, 2, 9, 12), (1, 2, 33, 64)):
        x = make_map(shape, torch.float32, with_nan=True)
        results = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        for actual, expected in zip(results, Both()(x)):
            assert np.array_equal(actual, expected.numpy(), equal_nan=True)
