"""Corner pooling (Law & Deng, CornerNet, ECCV 2018, section 3.4) as functions and as a module.

Letters: N images, C channels, H rows, W columns of a map.
"""

import torch
from torch import Tensor, nn

from . import fallback, operators  # noqa: F401  (operators: registers torch.ops.cornernet_d2)


def corner_pool(x: Tensor, mode: str) -> Tensor:
    """Replaces every element by the maximum over itself and what lies beside it on one side.

    ============ =============================================================
    ``mode``     ``out[n, c, h, w]`` is the maximum of ``x[n, c]`` over
    ============ =============================================================
    ``"top"``    rows ``h' >= h`` of column ``w`` (an object's left edge, seen from its top)
    ``"bottom"`` rows ``h' <= h`` of column ``w``
    ``"left"``   columns ``w' >= w`` of row ``h``
    ``"right"``  columns ``w' <= w`` of row ``h``
    ============ =============================================================

    The scan runs towards the named side. Among equal maxima the gradient goes to the first that the
    scan meets, as in the authors' code (``torch.cummax`` takes the last); -0 equals +0; NaN
    propagates, and the first NaN takes the gradient. The result does not depend on the number of
    threads. Nothing but ``x`` is saved for the backward pass. There is no autocast rule: the
    operator runs in the dtype it is given.

    Args:
        x: (N, C, H, W) of float32, float64, float16 or bfloat16, any strides; channels_last maps
            stay channels_last and are not copied.
        mode: ``"top"``, ``"bottom"``, ``"left"`` or ``"right"``.

    Returns:
        A tensor like ``x``.

    Raises:
        ValueError: unknown mode, not four dimensions, or not a floating-point map.
    """
    dim, reverse = _direction(mode)
    _check_map(x, "x")
    if not torch.jit.is_scripting():
        if torch.onnx.is_in_onnx_export():
            return fallback.scan_max(x, dim, reverse)
    return torch.ops.cornernet_d2.corner_pool(x, dim, reverse)


def corner_pool_sum(vertical: Tensor, horizontal: Tensor, corner: str) -> Tensor:
    """The sum of the two pools of a corner, in one pass over memory where a kernel exists.

    ``"tl"``: ``corner_pool(vertical, "top") + corner_pool(horizontal, "left")``;
    ``"br"``: ``corner_pool(vertical, "bottom") + corner_pool(horizontal, "right")``, bit for bit
    (a zero may differ in sign). See :func:`corner_pool` for everything else.

    Args:
        vertical: (N, C, H, W), the map pooled along columns.
        horizontal: (N, C, H, W), same dtype and device, the map pooled along rows.
        corner: ``"tl"`` (top-left) or ``"br"`` (bottom-right).

    Returns:
        A tensor like ``vertical``.

    Raises:
        ValueError: unknown corner, or maps that do not match or that corner_pool rejects.
    """
    if corner != "tl" and corner != "br":
        raise ValueError(f'corner must be "tl" or "br", got "{corner}"')
    _check_map(vertical, "vertical")
    if vertical.shape != horizontal.shape or vertical.dtype != horizontal.dtype:
        raise ValueError(
            "vertical and horizontal must have the same shape and dtype, got "
            f"{vertical.shape} {vertical.dtype} and {horizontal.shape} {horizontal.dtype}"
        )
    if vertical.device != horizontal.device:
        raise ValueError(
            "vertical and horizontal must be on one device, got "
            f"{vertical.device} and {horizontal.device}"
        )
    reverse = corner == "tl"
    if not torch.jit.is_scripting():
        if torch.onnx.is_in_onnx_export():
            pooled = fallback.scan_max(vertical, 2, reverse)
            return pooled + fallback.scan_max(horizontal, 3, reverse)
    return torch.ops.cornernet_d2.corner_pool_sum(vertical, horizontal, reverse)


class CornerPool(nn.Module):
    """:func:`corner_pool` as a module.

    Args:
        mode: ``"top"``, ``"bottom"``, ``"left"`` or ``"right"``.

    Raises:
        ValueError: unknown mode.
    """

    def __init__(self, mode: str) -> None:
        super().__init__()
        _direction(mode)
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        return corner_pool(x, self.mode)

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}"


def _direction(mode: str) -> tuple[int, bool]:
    """The dimension a mode scans and whether the scan starts at its last index."""
    if mode == "top":
        return 2, True
    if mode == "bottom":
        return 2, False
    if mode == "left":
        return 3, True
    if mode == "right":
        return 3, False
    raise ValueError(f'mode must be "top", "bottom", "left" or "right", got "{mode}"')


def _check_map(x: Tensor, name: str) -> None:
    if x.dim() != 4:
        raise ValueError(f"{name} must be a map (N, C, H, W), got shape {x.shape}")
    if not x.is_floating_point():
        raise ValueError(f"{name} must be a floating-point map, got {x.dtype}; call .float() first")
