"""Corner pooling in standard PyTorch operators: the fallback and the export form.

Everything here is a log-step ("doubling") scan: after the step ``s`` every element knows the answer
for the ``2 s`` positions that end at it, so a map of length L needs ``ceil(log2 L)`` steps. Nothing
depends on data, so the functions can be traced, vmapped, differentiated and exported.

Shapes: every map is (N, C, H, W); ``dim`` is 2 (H) or 3 (W); the scan runs along it from the first
index to the last, or from the last to the first if ``reverse``.
"""

import torch
import torch.nn.functional as F

# Number of doubling steps when the length is symbolic and unbounded: maps of up to 2**14 cells.
_MAX_SYMBOLIC_STEPS = 14


def _steps(length: int | torch.SymInt) -> list[int]:
    """Shifts 1, 2, 4, ... below ``length``; those that a symbolic length cannot rule out."""
    if isinstance(length, int):
        return [1 << k for k in range(max(length - 1, 0).bit_length())]
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    shifts = [1 << k for k in range(_MAX_SYMBOLIC_STEPS)]
    return [shift for shift in shifts if not statically_known_true(length <= shift)]


def _earlier(x: torch.Tensor, shift: int, dim: int, reverse: bool, fill: float) -> torch.Tensor:
    """``x`` as seen ``shift`` positions later in the scan; ``fill`` where nothing comes before."""
    length = x.shape[dim]
    padding = (0, shift) if reverse else (shift, 0)
    padded = F.pad(x, (0, 0) * (3 - dim) + padding, value=fill)
    return padded.narrow(dim, shift if reverse else 0, length)


def scan_max(x: torch.Tensor, dim: int, reverse: bool) -> torch.Tensor:
    """Running maximum of ``x`` (N, C, H, W) along ``dim``; NaN once met stays."""
    for shift in _steps(x.shape[dim]):
        x = torch.maximum(x, _earlier(x, shift, dim, reverse, float("-inf")))
    return x


def first_maxima(x: torch.Tensor, dim: int, reverse: bool) -> torch.Tensor:
    """Bool mask (N, C, H, W): the element exceeds every element before it in the scan.

    The gradient of every output belongs to the last such element at or before it. The first
    element is one, and so is the first NaN.
    """
    maximum = scan_max(x, dim, reverse)
    before = _earlier(maximum, 1, dim, reverse, float("-inf"))
    starts = _earlier(torch.zeros_like(x, dtype=torch.bool), 1, dim, reverse, True)
    return starts | ((maximum > before) | (maximum.isnan() & ~before.isnan()))


def spread(values: torch.Tensor, starts: torch.Tensor, dim: int, reverse: bool) -> torch.Tensor:
    """Every position takes ``values`` at the last start at or before it in the scan."""
    known = starts
    for shift in _steps(values.shape[dim]):
        values = torch.where(known, values, _earlier(values, shift, dim, reverse, 0.0))
        known = known | _earlier(known, shift, dim, reverse, False)
    return values


def collect(values: torch.Tensor, starts: torch.Tensor, dim: int, reverse: bool) -> torch.Tensor:
    """Every start takes the sum of ``values`` from itself up to the next start; others take 0.

    The adjoint of :func:`spread`. Sums in float32 for half-precision ``values``.
    """
    total = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    closed = _earlier(starts, 1, dim, not reverse, False)
    for shift in _steps(values.shape[dim]):
        total = total + _earlier(total, shift, dim, not reverse, 0.0).masked_fill(closed, 0.0)
        closed = closed | _earlier(closed, shift, dim, not reverse, False)
    return total.masked_fill(~starts, 0.0).to(values.dtype)


def corner_pool(x: torch.Tensor, dim: int, reverse: bool) -> torch.Tensor:
    """Corner pooling with the operator's gradient (ties to the first maximum), any AD transform."""
    return spread(x, first_maxima(x.detach(), dim, reverse), dim, reverse)
