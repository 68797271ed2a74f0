"""Checkpoint files on disk: safe reading without a copy in memory, writing without half files."""

import errno
import hashlib
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import torch

_ZIP_MAGIC = b"PK\x03\x04"
# torch.save before 1.6 begins with the pickled number 0x1950a86a20f9469cfc6c.
_LEGACY_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, the fault and the fix."""


def is_torch_file(path: str) -> bool:
    """Whether ``torch.save`` wrote the file, whatever its name ends in."""
    with open(path, "rb") as f:
        head = f.read(32)
    return head.startswith(_ZIP_MAGIC) or _LEGACY_MAGIC in head


def is_pickle(path: str) -> bool:
    """Whether the file begins as a pickle of protocol 2 or later, or is called one."""
    with open(path, "rb") as f:
        head = f.read(1)
    return head == b"\x80" or (path.endswith(".pkl") and head in (b"(", b"c", b"}", b"]"))


def load_torch_file(path: str, *, mmap: bool = True) -> Any:
    """Read what ``torch.save`` wrote, tensors on the CPU, running none of the file's code.

    Args:
        path: a local file.
        mmap: map the file instead of copying it, where its format allows (torch 1.6 and later).
            The file must then not be written to as long as its tensors are in use.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: empty, truncated, no torch file, or needing arbitrary pickle.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if os.path.getsize(path) == 0:
        raise CheckpointError(f"{path} is empty (0 bytes); download or copy it again")
    if not is_torch_file(path):
        raise CheckpointError(f"{path} {_describe_head(path)}")
    with open(path, "rb") as f:
        mmap = mmap and f.read(4) == _ZIP_MAGIC
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            return torch.load(path, map_location="cpu", mmap=mmap or None, weights_only=True)
    except pickle.UnpicklingError as error:
        if "Weights only load failed" in str(error):
            raise CheckpointError(_needs_pickle(path, error)) from error
        raise CheckpointError(_damaged(path, error)) from error
    except Exception as error:  # a damaged pickle is any program: struct.error, TypeError ...
        raise CheckpointError(_damaged(path, error)) from error


@contextmanager
def whole_file(path: str) -> Iterator[IO[bytes]]:
    """Open a file beside ``path`` that takes its place once all of it is on the disk.

    An exception leaves ``path`` as it was; so does a kill, which may leave ``path``.tmp behind. A
    pipe or a device is written to; a link stays, and the file that it names is replaced.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        with open(path, "wb") as f:
            yield f
        return
    path = os.path.realpath(path)
    temporary = f"{path}.tmp"
    try:
        # Through a file object a torch archive does not record the temporary file's name.
        with open(temporary, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise
    folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name itself
    finally:
        os.close(folder)


def save_torch_file(obj: Any, path: str, *, overwrite: bool = False, legacy: bool = False) -> None:
    """``torch.save`` that leaves either a whole file or none; see :func:`whole_file`.

    Args:
        obj: what to save.
        path: destination.
        overwrite: replace a file that is there.
        legacy: the format before torch 1.6, which every torch reads.

    Raises:
        FileExistsError: ``path`` exists and ``overwrite`` is off.
    """
    if os.path.exists(path) and not overwrite:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    with whole_file(path) as f:
        torch.save(obj, f, _use_new_zipfile_serialization=not legacy)


def file_sha256(path: str) -> str:
    """Hex sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def _numpy_scalars() -> list[Any]:
    """What numpy numbers pickle to: training scripts leave them in ``meta`` and in schedules."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = "?bBhHiIlLqQefd"
    return [scalar, np.dtype, *{type(np.dtype(kind)) for kind in kinds}]


def _describe_head(path: str) -> str:
    with open(path, "rb") as f:
        head = f.read(64).lstrip()
    if head.startswith((b"<", b"version https://git-lfs")):
        return "is a web page or a Git LFS pointer, not a checkpoint; download the file itself"
    if head.startswith(b"\x80"):
        return (
            "is a plain pickle, which can run any code when read. If you trust it, turn it into "
            "tensors where it comes from: torch.save({'model': {name: torch.as_tensor(array) "
            "...}}, 'new.pth')"
        )
    return "was not written by torch.save; CornerNet checkpoints are torch.save files"


def _needs_pickle(path: str, error: Exception) -> str:
    lines = str(error).splitlines()
    reason = next(
        (line.strip() for line in lines if "GLOBAL" in line), "objects that are no tensors"
    )
    return (
        f"{path} holds more than tensors and plain values, and reading that can run any code "
        f"({reason}). If you trust the file, strip it where it comes from: "
        f"c = torch.load({path!r}, map_location='cpu', weights_only=False); "
        "torch.save({'state_dict': c['state_dict']}, 'stripped.pth') and convert stripped.pth"
    )


def _damaged(path: str, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"{path} is truncated or damaged ({os.path.getsize(path)} bytes; {reason}); "
        "download or copy it again"
    )
