"""The contents of a checkpoint file of any code base <-> weights under our names."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .conventions import CONVENTIONS, FORMAT_PRESET, InputConvention, from_metadata, to_metadata
from .files import CheckpointError
from .key_maps import detect_format, rename, sort_keys

# Key of our own notes in a file: at the top in our files, under "meta" in MMDetection's.
METADATA_KEY = "cornernet_d2"
_COUNTER = "num_batches_tracked"
_STATE_KEYS = ("state_dict", "model")  # where MMDetection and Detectron2 put the weights
_READ = (*_STATE_KEYS, METADATA_KEY, "__author__", "meta")


@dataclass
class Checkpoint:
    """A CornerNet's weights and what has to be known to use them.

    Attributes:
        weights: state dict in our names.
        source: format that they were read from, one of :data:`.key_maps.FORMATS`.
        matched: number of weights in the file that are parameters of CornerNet.
        left_over: names in the file that are no parameters of CornerNet.
        unread: other entries of the file, for instance "optimizer" or "ema".
        convention: the input that the weights expect; None if the file does not tell.
        classes: names of the classes in the order of the heat maps; None if not told.
        counters_filled: whether ``num_batches_tracked`` was not in the first file of all (torch
            0.4.0 did not have it) and was set to 0.
        config: the model's whole config as yaml; None if the file does not hold it.
    """

    weights: dict[str, torch.Tensor]
    source: str
    matched: int
    left_over: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    convention: InputConvention | None = None
    classes: tuple[str, ...] | None = None
    counters_filled: bool = False
    config: str | None = None


def parse(contents: Any, path: str, source: str = "auto") -> Checkpoint:
    """Recognise what :func:`.files.load_torch_file` returned.

    Args:
        contents: the file's contents; its tensors are shared, not copied.
        path: the file's name, for messages.
        source: one of :data:`.key_maps.FORMATS`, or "auto".

    Raises:
        CheckpointError: no state dict, none of a CornerNet, or not of the format ``source``.
    """
    state = _state_dict(contents, path)
    found, matched = detect_format(state)
    if found is None:
        sample = ", ".join(list(state)[:3])
        raise CheckpointError(
            f"{path} holds no CornerNet: none of its {len(state)} names ({sample}, ...) is a "
            "parameter of CornerNet as princeton-vl, CornerNet-Lite, MMDetection or cornernet_d2 "
            "name them"
        )
    if source not in ("auto", found):
        raise CheckpointError(
            f"{path} is in the format {found!r} ({matched} of {len(state)} names), "
            f"not {source!r}; leave --from at auto"
        )
    renamed = {key: rename(key, found, "d2") for key in state}
    weights = {new: state[key] for key, new in renamed.items() if new is not None}
    filled = not any(key.endswith(_COUNTER) for key in weights)
    notes = notes_of(contents)
    return Checkpoint(
        weights=_with_counters(weights) if filled else weights,
        source=found,
        matched=matched,
        left_over=[key for key, new in renamed.items() if new is None],
        unread=[] if state is contents else [k for k in contents if k not in _READ],
        convention=_convention(notes, found),
        classes=_classes(contents, notes),
        counters_filled=notes.get("counters_filled", filled),
        config=notes.get("config"),
    )


def build_contents(checkpoint: Checkpoint, target: str) -> dict[str, Any]:
    """Lay a checkpoint out as the code base ``target`` saves it; the inverse of :func:`parse`.

    Raises:
        CheckpointError: a weight has no name there.
    """
    weights = checkpoint.weights
    if target == "d2":
        notes = describe(checkpoint.convention, checkpoint.classes, checkpoint.config)
        notes["counters_filled"] = checkpoint.counters_filled
        return {"model": weights, "__author__": METADATA_KEY, METADATA_KEY: notes}
    if any(_is_own_embedding(key, weights) for key in weights):
        raise CheckpointError(
            f"{target} knows no embeddings but the paper's: MODEL.CORNERNET.EMBEDDING.DIM 1 and "
            "POSITION False"
        )
    if checkpoint.counters_filled:
        weights = {key: value for key, value in weights.items() if not key.endswith(_COUNTER)}
    renamed = {rename(key, "d2", target): value for key, value in weights.items()}
    if None in renamed:
        unknown = [key for key in weights if rename(key, "d2", target) is None]
        raise CheckpointError(
            f"{target} has no name for {len(unknown)} weights ({', '.join(unknown[:3])}, ...): its "
            "network has not the blocks of this one, or not the outputs of its pairing"
        )
    state = OrderedDict((key, renamed[key]) for key in sort_keys(renamed, target))
    if target != "mmdet":
        return state
    notes = describe(checkpoint.convention, checkpoint.classes, checkpoint.config)
    notes["counters_filled"] = checkpoint.counters_filled
    meta: dict[str, Any] = {METADATA_KEY: notes}
    if checkpoint.classes is not None:
        meta["CLASSES"] = checkpoint.classes  # MMDetection 2.x
        meta["dataset_meta"] = {"classes": checkpoint.classes}  # 3.x
    return {"meta": meta, "state_dict": state}


def describe(
    convention: InputConvention | None,
    classes: Sequence[str] | None = None,
    config: str | None = None,
) -> dict[str, Any]:
    """Our notes for a checkpoint, as plain values."""
    notes: dict[str, Any] = {"version": 1}
    if convention is not None:
        notes["input"] = to_metadata(convention)
    if classes is not None:
        notes["classes"] = list(classes)
    if config is not None:
        notes["config"] = config
    return notes


def non_finite(weights: Mapping[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return [
        key
        for key, value in weights.items()
        if value.is_floating_point() and not torch.isfinite(value).all()
    ]


def weights_sha256(weights: Mapping[str, torch.Tensor]) -> str:
    """Hex sha256 of names, dtypes, shapes and bits, equal in every format and key order.

    BatchNorm's counters are left out: not every format has them.
    """
    digest = hashlib.sha256()
    for key in sorted(weights):
        if key.endswith(_COUNTER):
            continue
        value = weights[key].contiguous()
        digest.update(f"{key}:{value.dtype}:{tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _state_dict(contents: Any, path: str) -> Mapping[str, torch.Tensor]:
    state = contents
    for key in _STATE_KEYS:
        if isinstance(contents, Mapping) and isinstance(contents.get(key), Mapping):
            state = contents[key]
            break
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"{path} holds no state dict but {type(state).__name__}")
    wrong = [key for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if wrong:
        kind = type(state[wrong[0]]).__name__
        raise CheckpointError(f"{path} holds no state dict: {wrong[0]!r} is {kind}, not a tensor")
    return state


def notes_of(contents: Mapping[str, Any]) -> Mapping[str, Any]:
    """Our notes in a file of any kind, see :func:`describe`; empty if it has none."""
    meta = contents.get("meta")
    holder = meta if isinstance(meta, Mapping) else contents
    notes = holder.get(METADATA_KEY)
    return notes if isinstance(notes, Mapping) else {}


def _is_own_embedding(key: str, weights: Mapping[str, torch.Tensor]) -> bool:
    """Whether the weight is one of an embedding in which shapes are not the paper's."""
    if ".embedding.0.weight" in key:
        return weights[key].shape[1] != weights[key.replace("embedding", "heatmap")].shape[1]
    return ".embedding.1.weight" in key and len(weights[key]) != 1


def _convention(notes: Mapping[str, Any], source: str) -> InputConvention | None:
    if "input" in notes:
        return from_metadata(notes["input"])
    return CONVENTIONS.get(FORMAT_PRESET.get(source, ""))


def _classes(contents: Mapping[str, Any], notes: Mapping[str, Any]) -> tuple[str, ...] | None:
    meta = contents.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    dataset = meta.get("dataset_meta") or {}  # MMDetection 3.x; its first releases: "CLASSES"
    for names in (
        notes.get("classes"),
        dataset.get("classes"),
        dataset.get("CLASSES"),
        meta.get("CLASSES"),  # MMDetection 2.x
    ):
        if names is not None:
            return tuple(names)
    return None


def _with_counters(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    filled: dict[str, torch.Tensor] = {}
    for key, value in weights.items():
        filled[key] = value
        if key.endswith(".running_var"):
            filled[key.replace("running_var", _COUNTER)] = torch.tensor(0)
    return filled
