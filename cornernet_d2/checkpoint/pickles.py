"""Detectron2's numpy pickles, read without running anything that a file names.

A pickle is a program that may import and call whatever it likes. Here the few names that numpy
arrays need stand for classes of this file, and every other name is refused; numpy's own
``__setstate__`` is not reached either, as a crafted one can point an array at any memory.
"""

import codecs
import functools
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .files import CheckpointError

_KINDS = "biuf"  # numpy's kinds of booleans, integers, unsigned integers and floats


class _DType:
    """Stands for numpy.dtype: numbers alone, no objects and no records."""

    def __init__(self, name: str | bytes, *_: Any) -> None:
        name = name.decode("ascii") if isinstance(name, bytes) else name
        if not isinstance(name, str) or name[:1] not in _KINDS or not name[1:].isdigit():
            raise ValueError(f"an array of {name!r}, which are no numbers")
        self.value = np.dtype(name)

    def __setstate__(self, state: tuple) -> None:
        if state[1] in (">", b">"):
            self.value = self.value.newbyteorder(">")


class _Array:
    """Stands for numpy.ndarray, and is the function that makes an empty one."""

    def __init__(self, *_: Any) -> None:
        self.value = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, by_columns, data = state
        order = "F" if by_columns else "C"
        self.value = _from_buffer(data, dtype, shape, order)


def _from_buffer(data: Any, dtype: _DType, shape: tuple, order: str = "C") -> np.ndarray:
    """A writable array of numbers; Python 2 pickled bytes as what reads as a latin-1 string."""
    data = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(data, dtype.value).reshape(shape, order=order).copy()


def _scalar(dtype: _DType, data: Any) -> np.generic:
    return _from_buffer(data, dtype, ())[()]


def _encode(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in the protocols before 3; other codecs may be anything."""
    if codecs.lookup(encoding).name not in ("iso8859-1", "ascii", "utf-8"):
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode(encoding)


def _no_bytes() -> bytes:
    """How Python 3 writes an empty bytes object in those protocols."""
    return b""


def _allowed() -> dict[tuple[str, str], Callable]:
    names: dict[tuple[str, str], Callable] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("_codecs", "encode"): _encode,
        ("__builtin__", "bytes"): _no_bytes,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _DType,
    }
    for core in ("numpy.core", "numpy._core"):  # before numpy 2, and since
        names[core + ".multiarray", "_reconstruct"] = _Array
        names[core + ".multiarray", "scalar"] = _scalar
        names[core + ".numeric", "_frombuffer"] = _from_buffer
    return names


class _Unpickler(pickle.Unpickler):
    names = _allowed()

    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in self.names:
            raise ValueError(f"{module}.{name}, which is no array of numbers")
        found = self.names[module, name]
        # A pickle may set attributes of what it names: it gets an object of its own.
        return found if isinstance(found, type) else functools.partial(found)


def load_array_pickle(path: str) -> Mapping[str, Any]:
    """Read a pickled dict of numpy arrays and plain values, as of Detectron2's model zoo.

    Args:
        path: a local file, written by Python 2 or 3.

    Raises:
        CheckpointError: truncated, no dict, or holding anything else: nothing of it was run.
    """
    try:
        with open(path, "rb") as f:
            contents = _plain(_Unpickler(f, encoding="latin1").load())
    except Exception as error:  # the bytes of a damaged pickle can be any program
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"{path} is damaged, or holds more than arrays of numbers and plain values, "
            f"which could run any code ({reason}). If you trust it, rewrite it where it comes "
            "from: torch.save({'model': {name: torch.as_tensor(array) ...}}, 'new.pth')"
        ) from error
    if not isinstance(contents, Mapping):
        raise CheckpointError(f"{path} holds no weights but {type(contents).__name__}")
    return contents


def _plain(value: Any) -> Any:
    """``value`` with arrays in place of what stood for them."""
    if isinstance(value, (_Array, _DType)):
        return value.value
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value
