"""The same detector, faster: what inference does not need is taken out of a copy of the model."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .hardware import hardware_precision
from .modeling import CornerNet
from .modeling.corner_head import OutputBranch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def prepare_for_inference(
    model: CornerNet, dtype: str | torch.dtype = "auto", compile: bool = False
) -> CornerNet:
    """A copy of a model that detects the same, and cannot be trained; ``model`` stays as it is.

    Batch norm goes into the convolutions, heads of inner stacks go, and memory format and dtype
    become what the machine is fast with. In float32 maps differ by rounding alone. In half
    precision the last convolution of each output stays float32: heat maps of 8 bits would have
    neighbours of equal height, each of them a corner.

    Args:
        model: on the device where it will run.
        dtype: of the network: "auto" (see :func:`fastest_dtype`), a key of DTYPES, or the dtype.
        compile: also torch.compile backbone and head, on CUDA with graphs: the first batch of each
            canvas size takes minutes, so pad or resize images to few sizes.

    Raises:
        ValueError: an unknown dtype.
    """
    dtype = _resolve(dtype, model.device)
    prepared = copy.deepcopy(model).eval().requires_grad_(False)
    prepared.in_features, prepared.head = prepared.in_features[-1:], prepared.head[-1:]
    for module in prepared.modules():
        _fold_norm(module)
        if hasattr(module, "recompute"):
            module.recompute = False
    _cast(prepared, dtype)
    # On a CPU with folded norms faster in every dtype; CUDA's float32 kernels want the other one.
    channels_last = not (dtype == torch.float32 and model.device.type == "cuda")
    prepared.memory_format = torch.channels_last if channels_last else torch.contiguous_format
    prepared.to(memory_format=prepared.memory_format)
    if compile:
        mode = "reduce-overhead" if model.device.type == "cuda" else None
        for part in (prepared.backbone, *prepared.head):
            part.compile(mode=mode, dynamic=False)
    return prepared


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where :func:`.hardware.hardware_precision` finds instructions for it, else float32.

    Never float16, whose largest number a network that was not trained in it may exceed.
    """
    found, _ = hardware_precision(str(device))
    return torch.bfloat16 if found == torch.bfloat16 else torch.float32


def _resolve(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return fastest_dtype(device)
    found = DTYPES.get(dtype, dtype)
    if found not in DTYPES.values():
        raise ValueError(f"dtype must be 'auto' or one of {sorted(DTYPES)}, got {dtype!r}")
    return found


def _fold_norm(module: nn.Module) -> None:
    """Folds the norm of a Detectron2 convolution into its weights, if it has running statistics."""
    norm = getattr(module, "norm", None)
    if not isinstance(module, nn.Conv2d) or getattr(norm, "running_mean", None) is None:
        return
    module.weight, module.bias = fuse_conv_bn_weights(
        module.weight,
        module.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    module.norm = None
    module.requires_grad_(False)


def _cast(model: CornerNet, dtype: torch.dtype) -> None:
    """Weights to ``dtype``, but for the last convolution of each output, and inputs with them."""
    if dtype == torch.float32:
        return
    _halve(model.backbone, dtype).register_forward_pre_hook(_CastInput(dtype))
    for module in _halve(model.head, dtype).modules():
        if isinstance(module, OutputBranch):
            module[-1].float().register_forward_pre_hook(_CastInput(torch.float32))


def _halve(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Weights to ``dtype``, in place, but for batch norms that are not folded: they mix dtypes."""
    for module in network.modules():
        if not isinstance(module, _BatchNorm):
            module._apply(lambda x: x.to(dtype) if x.is_floating_point() else x, recurse=False)
    return network


class _CastInput:
    """A forward pre-hook; a class, so that models with it can be copied and pickled."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Any, ...]:
        return tuple(x.to(self.dtype) for x in args)
