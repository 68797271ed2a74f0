"""From a config and a file of weights to Detectron2's own predictor."""

import os
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultPredictor

from .. import model_zoo
from ..config import add_cornernet_config
from ..engine import CornerNetTrainer


def load_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """Reads a config for use of a trained model; the device falls back to the CPU.

    Args:
        config_file: a path, or a name that :func:`cornernet_d2.model_zoo.get_config_file` knows.
        opts: alternating keys and values that override the file.

    Raises:
        ValueError: neither such a file nor such a name; a LazyConfig; or an unknown key.
    """
    path = config_file if os.path.isfile(config_file) else model_zoo.get_config_file(config_file)
    if not path.endswith((".yaml", ".yml")):
        raise ValueError(f"{config_file} is not a yaml config")
    cfg = get_cfg()
    add_cornernet_config(cfg)
    cfg.merge_from_file(path)
    override(cfg, opts)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def override(cfg: CfgNode, opts: Sequence[object]) -> None:
    """Sets keys from a list of alternating keys and values.

    Raises:
        ValueError: there is no such key, a value is of another type, or one is missing.
    """
    try:
        cfg.merge_from_list(list(opts))
    except (AssertionError, KeyError, ValueError) as error:
        raise ValueError(f"config overrides {list(map(str, opts))}: {error}") from error


def build_predictor(cfg: CfgNode) -> DefaultPredictor:
    """Makes Detectron2's predictor, with weights of any published format, averaged if there are.

    Raises:
        CheckpointError: MODEL.WEIGHTS is empty or no file, or its weights are not the model's.
    """
    unloaded = cfg.clone()
    unloaded.MODEL.WEIGHTS, unloaded.MODEL.TIMM.PRETRAINED = "", ""  # both come from the file
    predictor = DefaultPredictor(unloaded)
    CornerNetTrainer.load_weights(cfg, predictor.model)
    return predictor
