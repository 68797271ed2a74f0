"""The whole config of the model in a checkpoint file: noted in it, or read off its weights."""

from collections.abc import Mapping
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg

from .. import model_zoo
from ..config import add_cornernet_config
from .architecture import infer_architecture
from .conventions import to_config
from .files import CheckpointError
from .formats import Checkpoint, notes_of, parse

# The shipped config that computes what a code base does: by the kind of network and its preset.
_CONFIGS = {
    "hourglass": {
        "default": "CornerNet-HG104",
        "official": "CornerNet-HG104-official",
        "mmdet": "CornerNet-HG104-mmdet",
    },
    "squeeze": {"default": "CornerNet-Squeeze", "official": "CornerNet-Squeeze-official"},
    "centripetal": {
        "default": "CentripetalNet-HG104",
        "mmdet": "CentripetalNet-HG104-mmdet",
        "centripetalnet": "CentripetalNet-HG104-official",
    },
    "triplets": {"default": "CornerNet-HG104", "official": "CenterNet-HG104"},
}


def read_config(contents: Mapping[str, Any], path: str) -> tuple[CfgNode, list[str] | None]:
    """The config and the class names of a file, as far as it tells them.

    Args:
        contents: what :func:`.contents.read_contents` returned.
        path: the file's name, for messages.

    Raises:
        CheckpointError: the file holds no config, and none follows from its weights.
    """
    notes = notes_of(contents)
    if "config" in notes:
        names = notes.get("classes")
        return _parse(notes["config"], path), list(names) if names is not None else None
    checkpoint = parse(contents, path)
    names = checkpoint.classes
    return build_config(checkpoint, path), list(names) if names is not None else None


def dump_config(cfg: CfgNode) -> str:
    """A config as yaml for a file that travels: without OUTPUT_DIR and MODEL.WEIGHTS."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = get_cfg().OUTPUT_DIR, ""
    return cfg.dump()


def build_config(checkpoint: Checkpoint, path: str) -> CfgNode:
    """The config of weights: the one noted, or the shipped one of their convention and shapes.

    Number of classes and input are those of ``checkpoint``, whatever its noted config says.

    Raises:
        CheckpointError: as :func:`read_config`.
    """
    convention, values = checkpoint.convention, infer_architecture(checkpoint.weights)
    if checkpoint.config is not None:
        cfg = _parse(checkpoint.config, path)
    elif convention is None:
        raise CheckpointError(
            f"{path} notes neither a config nor the input that its weights expect: convert it "
            "with --preset, or give its config with --config-file"
        )
    else:
        configs = _CONFIGS[_kind(values)]
        cfg = model_zoo.get_config(configs.get(convention.preset, configs["default"]))
    if convention is not None:
        values.update(to_config(convention))
    cfg.merge_from_list([item for pair in values.items() for item in pair])
    return cfg


def _kind(values: Mapping[str, Any]) -> str:
    if values.get("MODEL.CORNERNET.PAIRING") == "centripetal":
        return "centripetal"
    if values["MODEL.CORNERNET.CENTER.ENABLED"]:
        return "triplets"
    return "squeeze" if values["MODEL.BACKBONE.NAME"] == "build_squeeze_backbone" else "hourglass"


def _parse(text: Any, path: str) -> CfgNode:
    cfg = get_cfg()
    add_cornernet_config(cfg)
    cfg.set_new_allowed(True)  # keys of the user's own parts
    try:
        cfg.merge_from_other_cfg(CfgNode(yaml.safe_load(text)))
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, KeyError, AssertionError) as e:
        reason = " ".join(str(e).split())
        raise CheckpointError(f"the config in {path} cannot be used: {reason}") from e
    cfg.set_new_allowed(False)
    return cfg
