"""What would end a run hours after its start, found before the first step."""

import os
import shutil

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from torch import nn

from ..data.coco import load_dataset
from ..data.validation import refuse_fatal, validate_dataset
from .run_folder import WEIGHTS

MOMENTS = {"ADAM": 2, "ADAMW": 2, "SGD": 1}  # numbers that an optimiser keeps for each parameter


def check_test_sets(cfg: CfgNode) -> None:
    """Refuse DATASETS.TEST sets that cannot be evaluated on; those of DATASETS.TRAIN are checked.

    Sets without annotations, which results are only written for, need readable images alone.

    Raises:
        ValueError: naming dataset, fault and fix: an unknown name, a file that is missing or
            faulty, images that cannot be read, or other classes than those of DATASETS.TRAIN.
    """
    if not comm.is_main_process():
        return
    for name in cfg.DATASETS.TEST:
        if name in cfg.DATASETS.TRAIN:
            continue
        dicts, problems = load_dataset(name, labelled=False)
        refuse_fatal(problems, name, "evaluated on")
        classes = MetadataCatalog.get(name).get("thing_classes")
        _check_classes(name, classes, cfg.DATASETS.TRAIN)
        validate_dataset(
            dicts,
            cfg.MODEL.CORNERNET.NUM_CLASSES,
            classes,
            name,
            image_format=cfg.INPUT.FORMAT,
            training=False,
        )


def _check_classes(name: str, classes: list[str] | None, train: tuple[str, ...]) -> None:
    known = MetadataCatalog.get(train[0]).get("thing_classes") if train else None
    if known is None or classes is None or list(known) == list(classes):
        return
    if sorted(known) == sorted(classes):
        i = next(i for i, (a, b) in enumerate(zip(known, classes)) if a != b)
        fault = f"class {i} is {classes[i]!r} there and {known[i]!r} in {train[0]}"
        fix = "give the categories of both files the same ids"
    else:
        odd = [*(set(classes) - set(known)), *(set(known) - set(classes))]
        fault = f"{min(odd)!r} is a class of only one of it and {train[0]}"
        fix = "give both files the same categories"
    raise ValueError(f"DATASETS.TEST {name} has other classes than DATASETS.TRAIN: {fault}; {fix}")


def check_disk(cfg: CfgNode, model: nn.Module) -> None:
    """Refuse a run whose checkpoints do not fit on the disk beside what is on it.

    Raises:
        ValueError: naming the folder, the space there is and the space it takes.
    """
    folder = cfg.OUTPUT_DIR
    if not comm.is_main_process() or not os.path.isdir(folder):
        return
    averaged = int(cfg.MODEL_EMA.ENABLED)
    weights = sum(x.numel() * x.element_size() for x in model.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    whole = weights * (1 + averaged) + trained * MOMENTS.get(cfg.SOLVER.OPTIMIZER, 0)
    numbered = cfg.SOLVER.MAX_ITER // max(1, cfg.SOLVER.CHECKPOINT_PERIOD)
    if cfg.SOLVER.CHECKPOINT_KEEP:
        numbered = min(numbered, cfg.SOLVER.CHECKPOINT_KEEP)
    # model_final and one that is being written; model_best and model_final_ema.
    needed = whole * (numbered + 2) + weights * (bool(cfg.DATASETS.TEST) + averaged)
    # What a resumed run has written already is replaced, not added to.
    own = [name for name in os.listdir(folder) if WEIGHTS.fullmatch(name)]
    needed -= sum(os.path.getsize(os.path.join(folder, name)) for name in own)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"the disk of OUTPUT_DIR {folder} has {free / 1e9:.2f} GB left, and the checkpoints of "
            f"this run take up to {needed / 1e9:.2f} GB more ({numbered + 2} of {whole / 1e9:.2f} "
            "GB, and weights); free some, set another OUTPUT_DIR, or lower SOLVER.CHECKPOINT_KEEP"
        )
