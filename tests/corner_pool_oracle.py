"""Corner pooling position by position: slow, obvious, and independent of the package; test maps."""

import torch
from torch import Tensor


def first_maximum_scan(x: Tensor, dim: int, reverse: bool) -> tuple[Tensor, Tensor]:
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


def make_map(shape, dtype, layout="contiguous", seed=0, with_nan=False, device="cpu"):
    """Heavily tied values with zeros of both signs; NaN on demand."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-3, 4, shape, generator=generator).to(dtype)
    x[torch.rand(shape, generator=generator) < 0.1] = -0.0
    if with_nan:
        x[torch.rand(shape, generator=generator) < 0.05] = float("nan")
        x[torch.rand(shape, generator=generator) < 0.05] = -float("nan")
    x = x.to(device)
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "sliced":
        return torch.cat([x, x], 3)[..., : shape[3]]
    if layout == "strided":
        return torch.stack([x, x], 4).flatten(3)[..., ::2]
    if layout == "expanded":
        return x[:, :1].expand(shape)
    return x
