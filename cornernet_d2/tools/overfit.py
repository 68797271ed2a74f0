"""Train on a few images of a dataset until the model knows them by heart, and score it on them.

    cornernet overfit --data train.json

The first check of any change to model, targets, losses or data: a detector that cannot learn eight
photos has a fault that no long training will mend.
"""

import argparse

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..data.annotations import is_ignored
from ..data.files import add_files
from ..engine import CornerNetTrainer
from ..engine.run import start
from ..model_zoo import load_config
from .options import add_config, add_data, whole_data


def register_first(dataset: str, number: int) -> str:
    """Registers the first ``number`` images that have objects, and returns the name.

    Raises:
        ValueError: there are none.
    """
    name = f"{dataset}_first_{number}"
    dicts = DatasetCatalog.get(dataset)
    chosen = [d for d in dicts if any(not is_ignored(obj) for obj in d["annotations"])][:number]
    if not chosen:
        raise ValueError(f"{dataset} has no image with an object")
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(name, None)
    DatasetCatalog.register(name, lambda: chosen)
    metadata = MetadataCatalog.get(dataset)
    MetadataCatalog.get(name).set(thing_classes=metadata.thing_classes, evaluator_type="coco")
    return name


def setup(args: argparse.Namespace) -> CfgNode:
    """The config on the chosen images, without chance: every step sees them all as they are."""
    cfg = load_config(args.config_file, args.opts)
    files = whole_data(args)
    add_files(cfg, files)
    name = register_first(next(iter(files)), args.number)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.SOLVER.IMS_PER_BATCH = len(DatasetCatalog.get(name))
    cfg.MODEL.CORNERNET.NUM_CLASSES = len(MetadataCatalog.get(name).thing_classes)
    cfg.freeze()
    return cfg


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    add_config(parser, "CornerNet-Overfit.yaml")
    parser.add_argument("--number", type=int, default=8, help="images [%(default)s]")


def run(args: argparse.Namespace) -> int:
    """Train from the start, and print the AP on the training images."""
    if not args.data:
        raise ValueError("give --data PATH")
    cfg = setup(args)
    start(cfg)
    trainer = CornerNetTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    box_ap = trainer._last_eval_results["bbox"]["AP"]
    print(f"AP on the {cfg.SOLVER.IMS_PER_BATCH} training images: {box_ap:.1f}")
    return 0
