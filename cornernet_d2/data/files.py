"""DATASETS.FILES: datasets that a config brings along, registered without a line of code.

Each entry is a dataset's name with these keys, of which the first two are needed:

    FORMAT       "coco", "yolo" or "voc"
    IMAGES       folder of the images; for "yolo" also a list of them, or of files that list images
    ANNOTATIONS  the json of "coco", the folder of xml files of "voc"
    LIST         of "voc": a text file with the names of the images to take; all without it
    CLASSES      names, in the order of the class ids
    PART         "train" or "val": of one set that serves for both, all but, or every tenth image
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from .coco import coco_problems, read_coco
from .formats import load_voc, load_yolo
from .validation import refuse_fatal

KEYS = {"FORMAT", "IMAGES", "ANNOTATIONS", "LIST", "CLASSES", "PART"}
HELD_OUT = 10  # of a set for both, one image in so many is evaluated on


def add_files(cfg: CfgNode, files: Mapping[str, Mapping[str, Any]]) -> None:
    """Write datasets into DATASETS.FILES, and register them.

    Args:
        cfg: changed in place.
        files: as :func:`cornernet_d2.data.sources.find_data` returns it.
    """
    cfg.DATASETS.FILES = CfgNode({name: dict(source) for name, source in files.items()})
    cfg.DATASETS.FILES.set_new_allowed(True)
    register_files(cfg)


def register_files(cfg: CfgNode) -> None:
    """Register what DATASETS.FILES names, in place of datasets of the same names. Reads no file.

    Raises:
        ValueError: an entry with unknown keys, without one that it needs, or of unknown format.
    """
    for name, source in cfg.DATASETS.FILES.items():
        _register(name, source)


def _register(name: str, source: Mapping[str, Any]) -> None:
    where = f"DATASETS.FILES.{name}"
    if not isinstance(source, Mapping) or not source.keys() <= KEYS:
        raise ValueError(f"{where} is {source}; give {', '.join(sorted(KEYS))}")
    if source.get("FORMAT") not in LOADERS:
        raise ValueError(
            f"{where}.FORMAT is {source.get('FORMAT')!r}; choose one of {list(LOADERS)}"
        )
    needed = {"IMAGES"} if source["FORMAT"] == "yolo" else {"IMAGES", "ANNOTATIONS"}
    if missing := needed - source.keys():
        raise ValueError(f"{where} has no {' and no '.join(sorted(missing))}")
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(name, None)
    DatasetCatalog.register(name, partial(_load, name, dict(source)))
    metadata = MetadataCatalog.get(name)
    metadata.set(evaluator_type="coco")
    if source.get("CLASSES"):
        metadata.thing_classes = list(source["CLASSES"])
    if source["FORMAT"] == "coco" and not source.get("PART"):
        metadata.set(json_file=source["ANNOTATIONS"], image_root=source["IMAGES"])


def _load(name: str, source: Mapping[str, Any]) -> list[dict[str, Any]]:
    dicts = LOADERS[source["FORMAT"]](name, source)
    if not source.get("PART"):
        return dicts
    step = min(HELD_OUT, max(2, len(dicts)))
    wanted = source["PART"] == "val"
    return [d for i, d in enumerate(dicts) if (i % step == step - 1) == wanted]


def _coco(name: str, source: Mapping[str, Any]) -> list[dict[str, Any]]:
    path = source["ANNOTATIONS"]
    if source.get("PART"):  # whole files are checked where they are used
        refuse_fatal(list(coco_problems(read_coco(path), path)), path)
    try:
        return load_coco_json(path, source["IMAGES"], name)
    except AssertionError as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error


def _yolo(name: str, source: Mapping[str, Any]) -> list[dict[str, Any]]:
    images = source["IMAGES"]
    folders = [images] if isinstance(images, str) else list(images)
    return load_yolo(folders, len(source["CLASSES"]))


def _voc(name: str, source: Mapping[str, Any]) -> list[dict[str, Any]]:
    return load_voc(
        source["ANNOTATIONS"], source["IMAGES"], source["CLASSES"], source.get("LIST", "")
    )


LOADERS: dict[str, Callable[[str, Mapping[str, Any]], list[dict[str, Any]]]] = {
    "coco": _coco,
    "yolo": _yolo,
    "voc": _voc,
}
