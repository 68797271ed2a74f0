"""The ``cornernet_d2::corner_pool*`` operators: schema, fake, autograd and vmap rules, fallback.

C++ and CUDA (``csrc/``) supply kernels for the CPU and CUDA keys only; every other backend, and a
package without compiled kernels, runs :mod:`.fallback`. Three operators are closed under
differentiation, because for a fixed map ``x`` pooling routes values linearly:

    corner_pool(x)                     out[i]  = x[argmax_i]             argmax_i: first maximum met
    corner_pool_backward(grad, x)      out[k]  = sum of grad[i] over argmax_i == k
    corner_pool_gather(values, x)      out[i]  = values[argmax_i]

The last two are each other's adjoint, so gradients of any order are right. No index is saved: the
backward finds the maxima again in ``x``, which the ReLU before the pool keeps alive anyway.

Autocast has no rule for them: they run, and return, the dtype of their input.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import extension, fallback  # noqa: F401  (extension: loads the compiled kernels)

LIBRARY = torch.library.Library("cornernet_d2", "DEF")
_NAMESPACE = torch.ops.cornernet_d2

for _schema in (
    "corner_pool(Tensor x, int dim, bool reverse) -> Tensor",
    "corner_pool_backward(Tensor grad, Tensor x, int dim, bool reverse) -> Tensor",
    "corner_pool_gather(Tensor values, Tensor x, int dim, bool reverse) -> Tensor",
    "corner_pool_sum(Tensor vertical, Tensor horizontal, bool reverse) -> Tensor",
    "corner_pool_sum_backward(Tensor grad, Tensor vertical, Tensor horizontal, bool reverse)"
    " -> (Tensor, Tensor)",
):
    LIBRARY.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))


def _like(result: Tensor, x: Tensor) -> Tensor:
    """``result`` in the memory format that the compiled kernels give it."""
    return torch.empty_like(x).copy_(result)


# ---------------------------------------------------------------- fallback kernels
@torch.library.impl(LIBRARY, "corner_pool", "CompositeExplicitAutograd")
def _pool(x: Tensor, dim: int, reverse: bool) -> Tensor:
    return _like(fallback.scan_max(x, dim, reverse), x)


@torch.library.impl(LIBRARY, "corner_pool_backward", "CompositeExplicitAutograd")
def _pool_backward(grad: Tensor, x: Tensor, dim: int, reverse: bool) -> Tensor:
    return _like(fallback.collect(grad, fallback.first_maxima(x, dim, reverse), dim, reverse), x)


@torch.library.impl(LIBRARY, "corner_pool_gather", "CompositeExplicitAutograd")
def _pool_gather(values: Tensor, x: Tensor, dim: int, reverse: bool) -> Tensor:
    return _like(fallback.spread(values, fallback.first_maxima(x, dim, reverse), dim, reverse), x)


@torch.library.impl(LIBRARY, "corner_pool_sum", "CompositeExplicitAutograd")
def _pool_sum(vertical: Tensor, horizontal: Tensor, reverse: bool) -> Tensor:
    total = _NAMESPACE.corner_pool(vertical, 2, reverse)
    return total.add_(_NAMESPACE.corner_pool(horizontal, 3, reverse))


@torch.library.impl(LIBRARY, "corner_pool_sum_backward", "CompositeExplicitAutograd")
def _pool_sum_backward(
    grad: Tensor, vertical: Tensor, horizontal: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    return (
        _NAMESPACE.corner_pool_backward(grad, vertical, 2, reverse),
        _NAMESPACE.corner_pool_backward(grad, horizontal, 3, reverse),
    )


# ---------------------------------------------------------------- fake kernels
@torch.library.register_fake("cornernet_d2::corner_pool", lib=LIBRARY)
def _(x: Tensor, dim: int, reverse: bool) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("cornernet_d2::corner_pool_backward", lib=LIBRARY)
@torch.library.register_fake("cornernet_d2::corner_pool_gather", lib=LIBRARY)
def _(values: Tensor, x: Tensor, dim: int, reverse: bool) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("cornernet_d2::corner_pool_sum", lib=LIBRARY)
def _(vertical: Tensor, horizontal: Tensor, reverse: bool) -> Tensor:
    return torch.empty_like(vertical)


@torch.library.register_fake("cornernet_d2::corner_pool_sum_backward", lib=LIBRARY)
def _(grad: Tensor, vertical: Tensor, horizontal: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(vertical), torch.empty_like(horizontal)


# ---------------------------------------------------------------- autograd
def _no_double_dispatch(operator: Any, *args: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*args)


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, reverse: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.direction = dim, reverse
        return _no_double_dispatch(_NAMESPACE.corner_pool.default, x, dim, reverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return _NAMESPACE.corner_pool_backward(grad, x.detach(), *ctx.direction), None, None


class _Route(torch.autograd.Function):
    """corner_pool_backward or corner_pool_gather: linear, and each other's adjoint."""

    @staticmethod
    def forward(
        ctx: Any, operator: Any, adjoint: Any, values: Tensor, x: Tensor, dim: int, reverse: bool
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.adjoint, ctx.direction = adjoint, (dim, reverse)
        return _no_double_dispatch(operator, values, x, dim, reverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return None, None, ctx.adjoint(grad, x.detach(), *ctx.direction), None, None, None


class _PoolSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vertical: Tensor, horizontal: Tensor, reverse: bool) -> Tensor:
        ctx.save_for_backward(vertical, horizontal)
        ctx.reverse = reverse
        return _no_double_dispatch(
            _NAMESPACE.corner_pool_sum.default, vertical, horizontal, reverse
        )

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        vertical, horizontal = ctx.saved_tensors
        grads = _NAMESPACE.corner_pool_sum_backward(
            grad, vertical.detach(), horizontal.detach(), ctx.reverse
        )
        return (*grads, None)


def _needs_formula(*tensors: Tensor) -> bool:
    """Whether a transform is active that only the formula in standard operators supports.

    torch.func transforms need rules that a custom operator cannot give, and forward-mode
    tangents would be dropped silently.
    """
    if torch._C._are_functorch_transforms_active():
        return True
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


@torch.library.impl(LIBRARY, "corner_pool", "Autograd")
def _(x: Tensor, dim: int, reverse: bool) -> Tensor:
    if _needs_formula(x):
        return fallback.corner_pool(x, dim, reverse)
    return _Pool.apply(x, dim, reverse)


@torch.library.impl(LIBRARY, "corner_pool_backward", "Autograd")
def _(grad: Tensor, x: Tensor, dim: int, reverse: bool) -> Tensor:
    if _needs_formula(grad, x):
        return _pool_backward(grad, x.detach(), dim, reverse)
    operators = _NAMESPACE.corner_pool_backward.default, _NAMESPACE.corner_pool_gather.default
    return _Route.apply(*operators, grad, x, dim, reverse)


@torch.library.impl(LIBRARY, "corner_pool_gather", "Autograd")
def _(values: Tensor, x: Tensor, dim: int, reverse: bool) -> Tensor:
    if _needs_formula(values, x):
        return _pool_gather(values, x.detach(), dim, reverse)
    operators = _NAMESPACE.corner_pool_gather.default, _NAMESPACE.corner_pool_backward.default
    return _Route.apply(*operators, values, x, dim, reverse)


@torch.library.impl(LIBRARY, "corner_pool_sum", "Autograd")
def _(vertical: Tensor, horizontal: Tensor, reverse: bool) -> Tensor:
    if _needs_formula(vertical, horizontal):
        return fallback.corner_pool(vertical, 2, reverse) + fallback.corner_pool(
            horizontal, 3, reverse
        )
    return _PoolSum.apply(vertical, horizontal, reverse)


@torch.library.impl(LIBRARY, "corner_pool_sum_backward", "Autograd")
def _(grad: Tensor, vertical: Tensor, horizontal: Tensor, reverse: bool) -> tuple[Tensor, Tensor]:
    differentiated = torch.is_grad_enabled() and grad.requires_grad
    if differentiated or _needs_formula(grad, vertical, horizontal):
        return _pool_sum_backward(grad, vertical, horizontal, reverse)
    return _no_double_dispatch(
        _NAMESPACE.corner_pool_sum_backward.default, grad, vertical, horizontal, reverse
    )


# ---------------------------------------------------------------- vmap
# Maps are pooled independently of each other: the mapped dimension joins the images.
def _fold(x: Tensor, in_dim: int | None, size: int) -> Tensor:
    batched = x.expand(size, *x.shape) if in_dim is None else x.movedim(in_dim, 0)
    return batched.flatten(0, 1)


def _register_vmap(name: str) -> None:
    operator = getattr(_NAMESPACE, name)

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        size = info.batch_size
        folded: list[Any] = [
            _fold(arg, in_dim, size) if isinstance(arg, Tensor) else arg
            for arg, in_dim in zip(args, in_dims)
        ]
        result = operator(*folded)
        if isinstance(result, tuple):
            return tuple(part.unflatten(0, (size, -1)) for part in result), (0,) * len(result)
        return result.unflatten(0, (size, -1)), 0

    torch.library.register_vmap(f"cornernet_d2::{name}", rule, lib=LIBRARY)


for _name in (
    "corner_pool",
    "corner_pool_backward",
    "corner_pool_gather",
    "corner_pool_sum",
    "corner_pool_sum_backward",
):
    _register_vmap(_name)
