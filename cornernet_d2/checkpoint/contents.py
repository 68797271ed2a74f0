"""What a checkpoint file of any kind holds, without running code of it."""

import json
from collections.abc import Mapping
from typing import Any

from .files import CheckpointError, is_pickle, is_torch_file, load_torch_file
from .formats import METADATA_KEY
from .pickles import load_array_pickle


def read_contents(path: str, *, mmap: bool = False) -> Mapping[str, Any]:
    """Read a file as its first bytes say, its tensors on the CPU.

    Args:
        path: what torch.save wrote, safetensors, or a pickle of numpy arrays (Detectron2's and
            Caffe2's ``.pkl``).
        mmap: map what torch.save wrote instead of copying it; then nothing may be written to the
            file as long as its tensors are in use, as training does.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: none of these, damaged, or holding code.
    """
    if path.endswith(".safetensors"):
        return _read_safetensors(path)
    if is_pickle(path) and not is_torch_file(path):
        return _as_detectron2_does(load_array_pickle(path))
    contents = load_torch_file(path, mmap=mmap)
    if not isinstance(contents, Mapping):
        raise CheckpointError(f"{path} holds no state dict but {type(contents).__name__}")
    if "model_state" in contents:  # pycls
        weights = contents["model_state"]
        kept = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
        return {"model": kept, "__author__": "pycls", "matching_heuristics": True}
    return contents


def _as_detectron2_does(contents: Mapping[str, Any]) -> Mapping[str, Any]:
    if "model" in contents and "__author__" in contents:
        return contents
    weights = contents.get("blobs", contents)  # Caffe2, of Detectron1
    weights = {key: value for key, value in weights.items() if not key.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _read_safetensors(path: str) -> Mapping[str, Any]:
    safetensors = import_safetensors()
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}
            notes = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise CheckpointError(f"{path} is damaged, or no safetensors file: {error}") from error
    return {"model": weights, METADATA_KEY: notes}


def import_safetensors() -> Any:
    """The optional library; CheckpointError says how to get it."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise CheckpointError(
            "files of safetensors need the library: pip install safetensors"
        ) from error
    return safetensors
