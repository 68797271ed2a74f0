"""Corner pooling position by position: slow, obvious, and independent of the package."""

from typing import Tuple

import torch
from torch import Tensor


def first_maximum_scan(x: Tensor, dim: int, reverse: bool) -> Tuple[Tensor, Tensor]:
    """Running maximum along ``dim`` and the index of its first occurrence in scan order."""
    length = x.shape[dim]
    values, indices = x.clone(), torch.zeros(x.shape, dtype=torch.int64)
    order = list(range(length))[::-1] if reverse else list(range(length))
    best = index = None
    for i in order:
        current = x.select(dim, i)
        if best is None:
            best, index = current.clone(), torch.full(current.shape, i)
        else:
            better = (current > best) | (current.isnan() & ~best.isnan())
            best = torch.where(better, current, best)
            index = torch.where(better, i, index)
        values.select(dim, i).copy_(best)
        indices.select(dim, i).copy_(index)
    return values, indices


def first_maximum_backward(grad: Tensor, index: Tensor, dim: int) -> Tensor:
    """Gradient of the scan, summed in float64."""
    zeros = torch.zeros(grad.shape, dtype=torch.float64)
    return zeros.scatter_add(dim, index, grad.double())
