"""The class names that a config's datasets tell."""

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog


def class_names(cfg: CfgNode) -> list[str] | None:
    """The class names of the first of DATASETS.TEST and DATASETS.TRAIN that tells as many names as
    the model has classes: a config that sets TRAIN alone inherits a TEST of other data.
    """
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        metadata = MetadataCatalog.get(name)
        if "thing_classes" not in metadata.as_dict() and name in DatasetCatalog.list():
            try:
                DatasetCatalog.get(name)  # a COCO json file sets the names when it is read
            except (OSError, ValueError):
                continue
        names = list(metadata.as_dict().get("thing_classes", ()))
        if names and len(names) == cfg.MODEL.CORNERNET.NUM_CLASSES:
            return names
    return None
