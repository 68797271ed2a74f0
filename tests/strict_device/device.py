"""A pretend GPU: tensors that report cuda:0, hold their values on the host and refuse to mix.

    with StrictDevice() as gpu:
        model.to("cuda")
        gpu.ledger.clear()
        ...
        gpu.ledger.check("a step", syncs=2, copies=4)

Values are computed by the CPU's kernels, so that results can be compared with a CPU run bit by
bit; what a real device could not do, such as adding tensors of two devices, raises DeviceMix.
Operators see the keys of a CUDA tensor: autocast("cuda") and autograd's CUDA rules apply.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode

from . import guard
from .ledger import Ledger

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)

# Operators whose CUDA kernels read a size or a value back to the host.
READS_BACK = {
    aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default,
    aten.nonzero.default, aten.masked_select.default, aten.bincount.default,
    aten._unique.default, aten._unique2.default, aten.unique_dim.default,
    aten.unique_consecutive.default, aten.repeat_interleave.Tensor,
}  # fmt: skip
COPIES = {
    aten._to_copy.default, aten.copy_.default, aten.copy.default, aten._foreach_copy_.default
}  # fmt: skip
INDEXING = {
    aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default,
    aten._index_put_impl_.default,
}  # fmt: skip
MASKS = (torch.bool, torch.uint8)


class DeviceMix(RuntimeError):
    """An operator was given tensors of the host and of the device."""


class StrictTensor(torch.Tensor):
    """Reports cuda:0; ``host`` holds the values."""

    host: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> "StrictTensor":
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(),
            dtype=host.dtype, layout=host.layout, device=CUDA,
        )  # fmt: skip
        tensor.host = host
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: a StrictTensor outlived its StrictDevice")

    def __repr__(self) -> str:
        return f"StrictTensor({self.host})"

    def __reduce_ex__(self, protocol: int) -> Any:
        return self.host.detach().__reduce_ex__(protocol)  # read with map_location="cpu", as ever

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return self.detach().cpu().numpy()


class Event:
    """torch.cuda.Event of a device that is never behind; waiting for it is a synchronisation."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, *_: Any) -> None: ...

    def wait(self, *_: Any) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        synchronize()


def synchronize(*_: Any) -> None:
    StrictDevice.current.ledger.wait("synchronize")


CUDA_MODULE = {
    "_lazy_init": lambda: None,
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda *_: None,
    "get_device_capability": lambda *_: (9, 0),
    "get_device_name": lambda *_: "strict device",
    "is_bf16_supported": lambda *_, **__: True,
    "is_current_stream_capturing": lambda: False,
    "manual_seed": lambda _: None,
    "manual_seed_all": lambda _: None,
    "max_memory_allocated": lambda *_: 0,
    "memory_allocated": lambda *_: 0,
    "synchronize": synchronize,
    "Event": Event,
}


class StrictDevice(TorchDispatchMode):
    """While active, the device "cuda" is the pretend one.

    Attributes:
        ledger (Ledger): what waited or was copied, and where.
    """

    current: "StrictDevice"

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()

    def __enter__(self) -> "StrictDevice":
        guard.install()
        StrictDevice.current = self
        self._stack = stack = contextlib.ExitStack()
        stack.enter_context(mock.patch.multiple(torch.cuda, **CUDA_MODULE))
        never = mock.patch.object(
            torch.cuda.amp.common, "amp_definitely_not_available", lambda: False
        )
        stack.enter_context(never)
        # cuDNN's operators have no CPU kernels; torch's own do, under the same names.
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        # The device's thread knows no mode.
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        # torch.tensor(..., device="cuda") makes a host tensor and then copies it.
        stack.callback(torch._C._set_only_lift_cpu_tensors, torch._C._only_lift_cpu_tensors())
        torch._C._set_only_lift_cpu_tensors(True)
        # A module's parameters cannot become another class in place.
        future = torch.__future__
        stack.callback(
            future.set_overwrite_module_params_on_conversion,
            future.get_overwrite_module_params_on_conversion(),
        )
        future.set_overwrite_module_params_on_conversion(True)
        supported = [*_foreach_utils._foreach_supported_types, StrictTensor]
        stack.enter_context(
            mock.patch.object(_foreach_utils, "_foreach_supported_types", supported)
        )
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors: list[torch.Tensor] = []
        _map(tensors.append, [args, list(kwargs.values())])
        strict = [x for x in tensors if isinstance(x, StrictTensor)]
        wanted = kwargs.get("device")
        if func.name() == "aten::_pin_memory" and not strict:
            return args[0].clone()
        if func.name() == "aten::is_pinned":
            return False
        if not strict and (wanted is None or torch.device(wanted).type != "cuda"):
            return func(*args, **kwargs)
        if strict and len(strict) < len(tensors):
            _refuse_mix(func, args, [x for x in tensors if not isinstance(x, StrictTensor)])
        self._account(func, args, kwargs)

        out = func(*_map(_to_host, args), **_host_options(kwargs))
        if func is aten.copy_.default:
            return args[0]
        if func is aten._local_scalar_dense.default:
            return out
        if wanted is not None and torch.device(wanted).type != "cuda":
            return out
        return _map(lambda x: _to_strict(x, strict), out)

    def _account(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        name = func.name().removeprefix("aten::")
        if func in READS_BACK:
            if kwargs.get("output_size") is None:  # repeat_interleave that knows the size
                self.ledger.wait(name)
        elif func in INDEXING:
            self._account_indices(name, args)
        elif func is aten._to_copy.default:
            target = torch.device(kwargs.get("device") or args[0].device)
            self._account_copy(name, target, args[0].device, kwargs.get("non_blocking"))
        elif func in COPIES:
            non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking")
            if func is not aten._foreach_copy_.default:
                args = [args[0]], [args[1]]
            for target, source in zip(*args[:2]):
                self._account_copy(name, target.device, source.device, non_blocking)

    def _account_copy(
        self, name: str, target: torch.device, source: torch.device, non_blocking: bool | None
    ) -> None:
        if target.type != source.type:
            to = "host" if target.type == "cpu" else "device"
            self.ledger.copy(name, to, not non_blocking)

    def _account_indices(self, name: str, args: Sequence[Any]) -> None:
        indices = [index for index in args[1] if index is not None]
        masks = [index for index in indices if index.dtype in MASKS]
        # x[mask] = number becomes masked_fill, which needs no positions.
        fills = len(args) > 2 and args[2].numel() == 1 and args[2].device.type == "cpu"
        if masks and not (fills and len(masks) == len(indices)):
            self.ledger.wait(f"{name} with a boolean mask")
        for index in indices:
            if index.device.type == "cpu":
                self.ledger.copy(f"{name}: indices", "device", blocking=True)


def _refuse_mix(func: Any, args: Sequence[Any], hosts: Sequence[torch.Tensor]) -> None:
    """Raises DeviceMix unless a real device takes these host tensors beside its own."""
    if func in COPIES or func is aten.fill_.Tensor:
        return
    scalars = all(x.dim() == 0 for x in hosts)
    if func in INDEXING and isinstance(args[0], StrictTensor):
        values = args[2] if len(args) > 2 else None
        if values is None or isinstance(values, StrictTensor) or values.dim() == 0:
            return
    elif scalars and torch.Tag.pointwise in func.tags:
        return
    elif scalars and func.name().startswith("aten::_foreach") and func._overloadname == "Tensor":
        return
    raise DeviceMix(
        f"{func.name()} of tensors on cuda:0 and {[tuple(x.shape) for x in hosts]} on cpu"
    )


def _map(function: Callable[[torch.Tensor], Any], x: Any) -> Any:
    """``x`` with the tensors in it, at any depth of lists and tuples, replaced."""
    if isinstance(x, torch.Tensor):
        return function(x)
    return type(x)(_map(function, y) for y in x) if type(x) in (list, tuple) else x


def _to_host(x: torch.Tensor) -> torch.Tensor:
    return x.host if isinstance(x, StrictTensor) else x


def _host_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    options = {name: _map(_to_host, value) for name, value in kwargs.items()}
    if options.get("device") is not None:
        options["device"] = torch.device("cpu")
    if "pin_memory" in options:
        options["pin_memory"] = False
    return options


def _to_strict(out: torch.Tensor, strict: Sequence[StrictTensor]) -> StrictTensor:
    for x in strict:  # in-place operators return their argument
        if out is x.host:
            return x
    return out if isinstance(out, StrictTensor) else StrictTensor(out)
