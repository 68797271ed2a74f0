"""A trained model as a folder of safetensors and a config, as the Hugging Face hub keeps them."""

import json
import os
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from detectron2.config import CfgNode
from torch import nn

from ..checkpoint import CheckpointError, conventions, whole_file
from ..checkpoint.config import dump_config
from ..checkpoint.contents import import_safetensors
from ..checkpoint.formats import METADATA_KEY, describe

WEIGHTS, CONFIG = "model.safetensors", "config.yaml"


def save(model: nn.Module, cfg: CfgNode, names: Sequence[str] | None, folder: Path) -> None:
    """Write the two files; see :meth:`.predictor.Predictor.save_pretrained`."""
    safetensors = import_safetensors()
    folder.mkdir(parents=True, exist_ok=True)
    config = dump_config(cfg)
    notes = describe(conventions.of_model(model), names, config)
    weights = {key: value.contiguous().cpu() for key, value in model.state_dict().items()}
    data = safetensors.torch.save(weights, {METADATA_KEY: json.dumps(notes)})
    with whole_file(str(folder / WEIGHTS)) as f:
        f.write(data)
    with whole_file(str(folder / CONFIG)) as f:
        f.write(config.encode())


def find(path: str | PathLike) -> str:
    """The file of weights that a path, a folder or a name on the hub stands for.

    Raises:
        CheckpointError: there is none.
    """
    name = os.fspath(path)
    if os.path.isfile(name):
        return name
    if os.path.isdir(name):
        file = os.path.join(name, WEIGHTS)
        if os.path.isfile(file):
            return file
        raise CheckpointError(f"{name} is a folder without {WEIGHTS}: name a checkpoint in it")
    owner, _, repository = name.partition("/")
    is_name = owner and repository and "/" not in repository and not owner.startswith(".")
    if is_name and not os.path.splitext(name)[1] and not os.path.isdir(owner):
        return _download(name)
    raise CheckpointError(f"{name} does not exist")


def _download(name: str) -> str:
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(
            f"{name} does not exist here; to look on the Hugging Face hub: "
            "pip install huggingface_hub"
        ) from error
    try:
        return huggingface_hub.hf_hub_download(name, WEIGHTS)
    except (OSError, ValueError) as error:  # its errors are of these kinds
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{name} is neither here nor on the hub: {reason}") from error
