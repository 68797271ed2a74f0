"""Detectron2's checkpointer, taught to read every published CornerNet file, and to run none."""

import logging
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from . import conventions
from .config import dump_config
from .contents import read_contents
from .files import CheckpointError
from .formats import METADATA_KEY, build_contents, describe, non_finite, parse
from .names import class_names

logger = logging.getLogger(__name__)

_ARRAYS = (torch.Tensor, np.ndarray)


class CornerNetCheckpointer(DetectionCheckpointer):
    """``MODEL.WEIGHTS`` may be a file of princeton-vl, CornerNet-Lite, MMDetection or Detectron2.

    Backbones and other models are read, too: Detectron2's and Caffe2's ``.pkl``, pycls's
    ``.pyth``, torchvision's. No code in a file is run, whatever its name ends in. Saved files note
    the input that the weights expect and, where ``cfg`` is given, the config and the class names:
    :func:`cornernet_d2.load` needs nothing else. Loading compares the input with the model's.

    Detectron2's ``DefaultPredictor`` makes a plain ``DetectionCheckpointer``, whatever the model;
    for files that only this class reads, use :func:`cornernet_d2.build_predictor`, or
    convert them once with ``cornernet convert``.

    Args:
        model, save_dir, checkpointables: as in DetectionCheckpointer.
        cfg: the config of ``model``, for the files that are saved.

    Raises:
        CheckpointError: when loading: a damaged file; one that holds code; weights of which the
            model has none, or that are NaN; or weights that expect other pixels than the model
            gets (``INPUT.FORMAT``, ``MODEL.PIXEL_MEAN``, ``MODEL.PIXEL_STD``).
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        cfg: CfgNode | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, **checkpointables)
        self.cfg = cfg
        # What the last file lacked: names, and (name, its shape, the model's shape).
        self.missing: list[str] = []
        self.clashes: list[tuple] = []

    def notes(self) -> dict[str, Any]:
        """What a saved file holds besides weights: input, class names, config."""
        convention = conventions.of_model(self.model)
        if self.cfg is None:
            return {METADATA_KEY: describe(convention)}
        names = class_names(self.cfg)
        return {METADATA_KEY: describe(convention, names, dump_config(self.cfg))}

    def save(self, name: str, **kwargs: Any) -> None:
        super().save(name, **self.notes(), **kwargs)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if path and "://" not in path and not isinstance(self.model, DistributedDataParallel):
            if not os.path.isfile(path.split("?")[0]):
                raise CheckpointError(f"MODEL.WEIGHTS {path} does not exist")
        return super().load(path, *args, **kwargs)

    def check_complete(self, path: str) -> None:
        """Raises CheckpointError if the file that was loaded last lacks weights of the model."""
        if not self.missing and not self.clashes:
            return
        faults = []
        if self.missing:
            sample = ", ".join(self.missing[:3])
            faults.append(f"{len(self.missing)} weights are not in the file ({sample}, ...)")
        if self.clashes:
            name, theirs, ours = self.clashes[0]
            faults.append(
                f"{len(self.clashes)} have other shapes ({name}: {tuple(theirs)} in the file, "
                f"{tuple(ours)} in the model)"
            )
        raise CheckpointError(
            f"{path} is not this model's: {'; '.join(faults)}. Give the config that it was "
            "trained with (MODEL.CORNERNET.NUM_CLASSES, MODEL.HOURGLASS, ...), or train first"
        )

    def _load_file(self, filename: str) -> dict[str, Any]:
        self._file = filename
        contents = read_contents(filename)
        if "model" in contents and "__author__" in contents and METADATA_KEY not in contents:
            return dict(contents)  # of another code base, for Detectron2's loading
        try:
            checkpoint = parse(contents, filename)
        except CheckpointError:  # a backbone, or another model
            return self._with_query(contents)
        if checkpoint.source == "d2":
            return self._with_query(contents)
        logger.info(
            "%s is in the format of %s: %d weights renamed, %d left over %s",
            filename,
            checkpoint.source,
            checkpoint.matched,
            len(checkpoint.left_over),
            checkpoint.left_over[:5] or "",
        )
        return build_contents(checkpoint, "d2")

    def _with_query(self, contents: Mapping[str, Any]) -> dict[str, Any]:
        """Weights under "model", and what newer Detectron2 takes from FILE?matching_heuristics."""
        loaded = dict(contents) if "model" in contents else {"model": contents}
        url = getattr(self, "_parsed_url_during_load", None)
        query = parse_qs(url.query) if url is not None else {}
        if query.pop("matching_heuristics", ["False"]) == ["True"]:
            loaded["matching_heuristics"] = True
        if query:
            raise CheckpointError(f"MODEL.WEIGHTS asks for {sorted(query)}, which is unknown")
        return loaded

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        notes = checkpoint.get(METADATA_KEY) or {}
        if "input" in notes:
            self._check_input(conventions.from_metadata(notes["input"]))
        weights = checkpoint["model"]
        if not isinstance(weights, Mapping):
            raise CheckpointError(f"{self._file} holds no weights but {type(weights).__name__}")
        wrong = [key for key, value in weights.items() if not isinstance(value, _ARRAYS)]
        if wrong:
            kind = type(weights[wrong[0]]).__name__
            raise CheckpointError(f"{self._file} holds no weights: {wrong[0]!r} is {kind}")
        broken = non_finite({key: torch.as_tensor(value) for key, value in weights.items()})
        if broken:
            raise CheckpointError(
                f"{self._file} holds NaN or infinity in {len(broken)} weights "
                f"({', '.join(broken[:3])}); take a checkpoint from before training diverged"
            )
        number = len(weights)
        incompatible = super()._load_model(checkpoint)
        clashes = incompatible.incorrect_shapes
        shaped = {name for name, *_ in clashes}
        self.clashes = list(clashes)
        self.missing = [
            key
            for key in incompatible.missing_keys
            if key not in shaped and not key.endswith("num_batches_tracked")
        ]
        if len(self.missing) + len(shaped) >= _learned(self.model):
            raise CheckpointError(
                f"{self._file} fits nothing in this model: none of its {number} weights "
                f"({', '.join(list(weights)[:3])}, ...) has the name and shape of one of the "
                "model's. Give this model's config or another file"
            )
        return incompatible

    def _check_input(self, expected: conventions.InputConvention) -> None:
        found = conventions.of_model(self.model)
        if found is None:
            return
        wrong = conventions.differences(expected, found)
        if not wrong:
            return
        message = (
            f"these weights expect the {expected.preset or 'input'} convention; "
            f"to follow it set {', '.join(wrong)}"
        )
        if all(key.startswith("MODEL.CORNERNET.PADDING") for key in wrong):
            logger.warning(message)
            return
        raise CheckpointError(
            message + ". To use them with other pixels on purpose, restate the file's convention: "
            "cornernet convert SRC DST --preset NAME"
        )


def _learned(model: nn.Module) -> int:
    """Weights and statistics of a model that a file should hold."""
    return sum(not key.endswith("num_batches_tracked") for key in model.state_dict())
