"""Tensors from the host to the device, in one copy that the host does not wait for."""

from collections.abc import Sequence

import torch
from torch import Tensor

_ALIGNMENT = 16  # bytes; any dtype may start there


def to_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of any dtypes and shapes on ``device``; those on the host share one copy.

    A copy each would cost the host more time than it takes, and wait for it: their memory is not
    page-locked.
    """
    hosted = [tensor for tensor in tensors if tensor.device.type == "cpu"]
    if device.type == "cpu" or not hosted:
        return [tensor.to(device) for tensor in tensors]
    packed = pack(hosted)
    packed = packed.pin_memory() if device.type == "cuda" else packed
    moved = iter(unpack(packed.to(device, non_blocking=True), hosted))
    return [next(moved) if x.device.type == "cpu" else x.to(device) for x in tensors]


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """The bytes of tensors of one device, one after the other: (B,) uint8."""
    parts = []
    for tensor in tensors:
        data = tensor.contiguous().view(-1).view(torch.uint8)
        parts += [data, data.new_empty(-len(data) % _ALIGNMENT)]
    return torch.cat(parts)


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """What :func:`pack` was given, as views; dtypes and shapes are those of ``like``."""
    tensors, start = [], 0
    for tensor in like:
        data = packed[start : start + tensor.nbytes]
        tensors.append(data.view(tensor.dtype).view(tensor.shape))
        start += tensor.nbytes + -tensor.nbytes % _ALIGNMENT
    return tensors
