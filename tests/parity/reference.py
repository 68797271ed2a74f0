"""The reference folder: its arrays, its weights, and our model with them."""

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from cornernet_d2 import model_zoo
from cornernet_d2.checkpoint import Checkpoint, infer_architecture, parse

from .check import Case, Check, guarded

Arrays = Mapping[str, np.ndarray]
# The presets that compute what the references were made with.
OFFICIAL = "CornerNet-HG104-official.yaml"
MMDET = "CornerNet-HG104-mmdet.yaml"
CENTRIPETAL_OFFICIAL = "CentripetalNet-HG104-official.yaml"
CENTRIPETAL_MMDET = "CentripetalNet-HG104-mmdet.yaml"
SQUEEZE = "CornerNet-Squeeze-official.yaml"
CENTERNET = "CenterNet-HG104.yaml"


class Reference:
    """A folder of the layout that its README describes.

    Attributes:
        preset: the config that computes what the folder was made with.
        marks: names of files that only this kind of folder has.
        support: what such a folder holds besides arrays to compare, as patterns.

    Args:
        path: the folder.

    Raises:
        FileNotFoundError: there is no such folder.
    """

    preset: str
    marks: tuple[str, ...] = ()
    support: tuple[str, ...] = (
        *("README.md", "manifest.json", "weights.py", "family_weights.py"),
        *("keys*.json", "__pycache__"),
    )

    def __init__(self, path: str):
        if not os.path.isdir(path):
            raise FileNotFoundError(f"there is no folder {path}")
        self.path = path.rstrip(os.sep)
        self._made: tuple[tuple[str, int], Checkpoint] | None = None

    @classmethod
    def recognises(cls, folder: "Reference") -> bool:
        """Whether a folder is of this kind."""
        return not set(cls.marks).isdisjoint(folder.files())

    def files(self) -> list[str]:
        """Names of all files in the folder, sorted."""
        return sorted(os.listdir(self.path))

    def load(self, file: str) -> dict[str, np.ndarray]:
        """All arrays of a file."""
        with np.load(os.path.join(self.path, file), allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}

    def path_of(self, file: str) -> str:
        """Of a file that is in the folder, or beside it for several."""
        path = os.path.join(self.path, file)
        return path if os.path.exists(path) else os.path.join(self.path, "..", file)

    @property
    def recipe(self) -> ModuleType:
        """``weights.py``: deterministic weights and images. Runs its code."""
        return _import(self.path_of("weights.py"))

    def keys(self, file: str) -> list[dict[str, Any]]:
        """The state dict's entries, in its order: key, shape, and perhaps dtype and kind."""
        with open(os.path.join(self.path, file)) as f:
            return json.load(f)["keys"]

    def state_dict(self, keys_file: str, seed: int) -> dict[str, torch.Tensor]:
        """Weights of the recipe under their own names."""
        raise NotImplementedError

    def weights(self, keys_file: str, seed: int) -> Checkpoint:
        """Weights of the recipe, through the reader of published checkpoints.

        The last ones are kept: the full network's take seconds to make.
        """
        if self._made is None or self._made[0] != (keys_file, seed):
            state = self.state_dict(os.path.join(self.path, keys_file), seed)
            self._made = (keys_file, seed), parse(state, keys_file)
        return self._made[1]

    def config(self, checkpoint: Checkpoint) -> CfgNode:
        """The preset for a network of these weights' shapes."""
        cfg = model_zoo.get_config(self.preset)
        architecture = infer_architecture(checkpoint.weights)
        cfg.merge_from_list([item for pair in architecture.items() for item in pair])
        cfg.MODEL.DEVICE = "cpu"
        return cfg

    def model(self, keys_file: str, seed: int) -> tuple[nn.Module, CfgNode]:
        """Our model with weights of the recipe, and its config."""
        checkpoint = self.weights(keys_file, seed)
        cfg = self.config(checkpoint)
        model = build_model(cfg)
        model.load_state_dict(checkpoint.weights, strict=True)
        return model, cfg


class OfficialReference(Reference):
    """Numbers of the authors' code."""

    preset = OFFICIAL

    def state_dict(self, keys_file: str, seed: int) -> dict[str, torch.Tensor]:
        return self.recipe.make_state_dict(keys_file, seed)


class MMDetReference(Reference):
    """Numbers of MMDetection."""

    preset = MMDET
    marks = ("mm_weights.py", "network.npz", "test_pipeline.npz", "train_pipeline.npz")
    marks += ("train_step.npz", "photometric.npz")
    support = (*Reference.support, "mm_weights.py")

    def state_dict(self, keys_file: str, seed: int) -> dict[str, torch.Tensor]:
        with mock.patch.dict(sys.modules, weights=self.recipe):  # which mm_weights.py imports
            recipe = _import(self.path_of("mm_weights.py"))
        return recipe.make_state_dict(recipe.load_keys(keys_file), seed)


class FamilyReference(Reference):
    """Numbers of CornerNet's successors."""

    def state_dict(self, keys_file: str, seed: int) -> dict[str, torch.Tensor]:
        with mock.patch.dict(sys.modules, weights=self.recipe):  # which family_weights.py imports
            recipe = _import(self.path_of("family_weights.py"))
        return recipe.make_state_dict(keys_file, seed)


class CentripetalReference(FamilyReference):
    """Of CentripetalNet, by MMDetection (whose names the weights have) and its authors."""

    preset = CENTRIPETAL_MMDET
    marks = ("small_head.npz", "keys_authors_with_mask.json")


class SqueezeReference(FamilyReference):
    """Of CornerNet-Squeeze in the authors' CornerNet-Lite."""

    preset = SQUEEZE
    marks = ("blocks.npz",)


class CenterNetReference(FamilyReference):
    """Of CenterNet's triplets by their authors, on one or two hourglasses."""

    preset = CENTERNET
    marks = ("pooling.npz",)

    @classmethod
    def recognises(cls, folder: Reference) -> bool:
        """A folder of the network alone has no file of its own name: its keys tell."""
        if super().recognises(folder) or "keys.json" not in folder.files():
            return super().recognises(folder)
        with open(folder.path_of("keys.json")) as f:
            return "ct_heats" in f.read()


@cache
def _import(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("cornernet_reference_weights", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def case_names(arrays: Arrays, key: str = "cases") -> list[str]:
    """Names of the cases, from the array that lists them."""
    return [str(name) for name in arrays[key]]


def each_case(
    folder: Reference,
    file: str,
    compare: Callable[[Case, dict[str, np.ndarray]], Iterator[Check]],
    key: str = "cases",
) -> Iterator[Check]:
    """Checks of every case of a file: ``compare`` gets the case and its arrays."""
    arrays = folder.load(file)
    for name in case_names(arrays, key):
        case = Case(file, name)
        yield from guarded(case, compare(case, under(arrays, name)))


def under(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """The arrays below a path, with that path cut off."""
    prefix = prefix.rstrip("/") + "/"
    return {key[len(prefix) :]: value for key, value in arrays.items() if key.startswith(prefix)}


def numbered(arrays: Arrays, name: str) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """The groups ``name0/``, ``name1/``, ... of arrays."""
    index = 0
    while group := under(arrays, f"{name}{index}"):
        yield index, group
        index += 1


def strided(value: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """The sample from index 0 of the last two axes that has ``shape`` there.

    The stride is not in the files: it is the power of two that gives the sample's size.
    """
    value = torch.as_tensor(value)
    stride, size = 1, tuple(shape[-2:])
    while stride < max(value.shape[-2:]) and size != tuple(
        -(-side // stride) for side in value.shape[-2:]
    ):
        stride *= 2
    return value[..., ::stride, ::stride]
