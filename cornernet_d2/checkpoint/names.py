"""The class names that a config's datasets tell."""

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog


def class_names(cfg: CfgNode) -> list[str] | None:
    """The class names of the first of DATASETS.TEST and DATASETS.TRAIN that tells them, if any."""
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        metadata = MetadataCatalog.get(name)
        if "thing_classes" not in metadata.as_dict() and name in DatasetCatalog.list():
            try:
                DatasetCatalog.get(name)  # a COCO json file sets the names when it is read
            except (OSError, ValueError):
                continue
        if "thing_classes" in metadata.as_dict():
            return list(metadata.thing_classes)
    return None
