"""Train on a few images of a dataset until the model knows them by heart, and score it on them.

    python -m cornernet_d2.tools.overfit --annotations train.json --image-root images

The first check of any change to model, targets, losses or data: a detector that cannot learn eight
photos has a fault that no long training will mend.
"""

import argparse
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.engine import default_setup

from cornernet_d2.engine import CornerNetTrainer
from cornernet_d2.predictor import load_config


def register_first(annotations: Path, image_root: Path, number: int) -> str:
    """Registers the first ``number`` images that have objects, and returns the name.

    Raises:
        ValueError: there are none.
    """
    name = f"{annotations.stem}_first_{number}"
    dicts = load_coco_json(str(annotations), str(image_root), name)
    chosen = [d for d in dicts if any(not obj["iscrowd"] for obj in d["annotations"])][:number]
    if not chosen:
        raise ValueError(f"{annotations} has no image with an object")
    DatasetCatalog.register(name, lambda: chosen)
    MetadataCatalog.get(name).evaluator_type = "coco"
    return name


def setup(arguments: argparse.Namespace) -> CfgNode:
    """The config on the chosen images, without chance: every step sees them all as they are."""
    name = register_first(arguments.annotations, arguments.image_root, arguments.number)
    cfg = load_config(arguments.config_file, arguments.opts)
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (name,)
    cfg.SOLVER.IMS_PER_BATCH = len(DatasetCatalog.get(name))
    cfg.MODEL.CORNERNET.NUM_CLASSES = len(MetadataCatalog.get(name).thing_classes)
    cfg.freeze()
    return cfg


def run(cfg: CfgNode) -> dict[str, Any]:
    """Trains from the start; returns the evaluation on the training images."""
    trainer = CornerNetTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer._last_eval_results


def main() -> None:
    """Command line; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--annotations", type=Path, required=True, help="COCO json")
    parser.add_argument("--image-root", type=Path, required=True, help="folder of its images")
    parser.add_argument("--number", type=int, default=8, help="images")
    parser.add_argument("--config-file", default="CornerNet-Overfit.yaml")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE ... over the config")
    arguments = parser.parse_args()
    cfg = setup(arguments)
    default_setup(cfg, argparse.Namespace())
    box_ap = run(cfg)["bbox"]["AP"]
    print(f"AP on the {cfg.SOLVER.IMS_PER_BATCH} training images: {box_ap:.1f}")


if __name__ == "__main__":
    main()
