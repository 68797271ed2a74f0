"""From a config and a file of weights to detections."""

import os
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultPredictor

from . import model_zoo
from .config import add_cornernet_config
from .engine import CornerNetTrainer


def load_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """Reads a config for use of a trained model; the device falls back to the CPU.

    Args:
        config_file: a path, or a name that :func:`cornernet_d2.model_zoo.get_config_file` knows.
        opts: alternating keys and values that override the file.

    Raises:
        ValueError: neither such a file nor such a name; or a LazyConfig.
    """
    path = config_file if os.path.isfile(config_file) else model_zoo.get_config_file(config_file)
    if not path.endswith((".yaml", ".yml")):
        raise ValueError(f"{config_file} is not a yaml config")
    cfg = get_cfg()
    add_cornernet_config(cfg)
    cfg.merge_from_file(path)
    cfg.merge_from_list(list(opts))
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def build_predictor(cfg: CfgNode) -> DefaultPredictor:
    """Makes Detectron2's predictor, with weights of any published format, averaged if there are.

    Raises:
        ValueError: MODEL.WEIGHTS is empty or no file.
    """
    weights = cfg.MODEL.WEIGHTS
    if not weights or ("://" not in weights and not os.path.isfile(weights)):
        raise ValueError(f"MODEL.WEIGHTS is {weights!r}: name the file of a trained model")
    unloaded = cfg.clone()
    unloaded.MODEL.WEIGHTS = ""
    predictor = DefaultPredictor(unloaded)
    CornerNetTrainer.load_weights(cfg, predictor.model)
    return predictor


def class_names(cfg: CfgNode) -> list[str] | None:
    """The class names of the first of DATASETS.TEST and DATASETS.TRAIN that tells them, if any."""
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        metadata = MetadataCatalog.get(name)
        if "thing_classes" not in metadata.as_dict() and name in DatasetCatalog.list():
            try:
                DatasetCatalog.get(name)  # a COCO json file sets the names when it is read
            except OSError:
                continue
        if "thing_classes" in metadata.as_dict():
            return list(metadata.thing_classes)
    return None
