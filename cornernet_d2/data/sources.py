"""From what ``--data`` names to the entries of DATASETS.FILES (files.py)."""

import contextlib
import os
import re
from pathlib import Path
from typing import Any

import yaml

from .coco import read_coco
from .formats import images_in, voc_classes

TRAIN = ("train", "training", "trainval")
VAL = ("val", "valid", "validation", "test")
ROBOFLOW = "_annotations.coco.json"
LAYOUTS = (
    "a COCO json; a data.yaml of YOLO; or a folder with train/_annotations.coco.json (Roboflow), "
    "annotations/*train*.json or train.json (COCO), data.yaml (YOLO), Annotations/*.xml and "
    "JPEGImages, or train/*.xml beside the images (Pascal VOC)"
)
Source = dict[str, Any]


def find_data(data: str, val: str | None = None, images: str | None = None) -> dict[str, Source]:
    """Entries of DATASETS.FILES, ``NAME_train`` and ``NAME_val``, in this order.

    Without a validation set a tenth of the images is held out.

    Args:
        data: a file or a folder, see ``LAYOUTS``.
        val: a COCO json to evaluate on, instead of the one that is found.
        images: folder of a json's images, where it is not found.

    Raises:
        ValueError: no such file, nothing in it that is known, or several that could be meant.
    """
    path = Path(data).expanduser().resolve()
    if path.is_file() and path.suffix.lower() in (".yaml", ".yml"):
        parts = _yolo(path)
    elif path.is_file():
        parts = _coco(path, images)
    elif path.is_dir():
        parts = _folder(path, images)
    else:
        raise ValueError(f"{data} does not exist")
    train, test = parts
    if val:
        if train["FORMAT"] != "coco":
            raise ValueError("--val goes with a COCO json")
        test = _coco_source(Path(val).expanduser().resolve(), images)
    if test is None:
        train, test = ({**train, "PART": part} for part in ("train", "val"))
    test["CLASSES"] = train["CLASSES"]
    name = _name(path)
    return {f"{name}_train": train, f"{name}_val": test}


def _name(path: Path) -> str:
    """Of the folder, also for files with names that say nothing."""
    stem = path.stem if path.is_file() else path.name
    if path.is_file() and re.fullmatch(r"data|train|instances.*|annotations?", stem):
        folder = path.parent
        stem = folder.parent.name if folder.name == "annotations" else folder.name
    return re.sub(r"\W+", "_", stem).strip("_") or "data"


def _folder(folder: Path, images: str | None) -> tuple[Source, Source | None]:
    train, val = _split(folder, ROBOFLOW)
    if train:
        return _coco_source(train, str(train.parent)), val and _coco_source(val, str(val.parent))
    for place in (folder, folder / "annotations"):
        if found := _train_json(place):
            return _coco(found, images)
    for name in ("data.yaml", "data.yml", "dataset.yaml"):
        if (folder / name).is_file():
            return _yolo(folder / name)
    if (folder / "Annotations").is_dir():
        return _voc(folder)
    for root in (folder, folder / "images"):
        train, val = _split(root, "")
        if train and any(train.glob("*.xml")):
            classes = voc_classes(str(train))
            return _voc_source(train, train, classes), val and _voc_source(val, val, classes)
    if any(folder.glob("*.xml")):
        return _voc_source(folder, folder, voc_classes(str(folder))), None
    raise ValueError(f"{folder} holds no dataset of a known kind: {LAYOUTS}")


def _split(folder: Path, file: str) -> tuple[Path | None, Path | None]:
    """``file`` in the folders of training and of validation, which may be missing."""
    found = []
    for names in (TRAIN, VAL):
        paths = [folder / name / file for name in names if (folder / name).is_dir()]
        found.append(next((path for path in paths if path.exists()), None))
    return found[0], found[1]


def _train_json(folder: Path) -> Path | None:
    names = [p for p in sorted(folder.glob("*.json")) if re.search(r"(?i)train", p.stem)]
    boxes = [p for p in names if not re.search(r"(?i)keypoint|caption|panoptic", p.stem)]
    if len(boxes) > 1:
        raise ValueError(f"{', '.join(map(str, boxes))}: say which, with --data FILE")
    return boxes[0] if boxes else None


def _coco(path: Path, images: str | None) -> tuple[Source, Source | None]:
    """A training json, and the validation json beside it whose name differs in that word alone."""
    val = None
    if re.search(r"(?i)train", path.stem):
        names = [re.sub(r"(?i)train", word, path.name) for word in VAL]
        val = next((p for p in map(path.with_name, names) if p.is_file()), None)
    return _coco_source(path, images), val and _coco_source(val, images)


def _coco_source(path: Path, images: str | None) -> Source:
    content = read_coco(str(path))
    names = [str(image.get("file_name", "")) for image in content["images"][:1]]
    if images:
        root = Path(images).expanduser().resolve()
    else:
        up = path.parent.parent
        places = [path.parent, path.parent / "images", up / "images", up, path.with_suffix("")]
        word = path.stem.removeprefix("instances_")
        places += [folder / word for folder in (path.parent, up, up / "images")]
        root = next((p for p in places if names and os.path.isfile(p / names[0])), None)
        if root is None:
            first = (names and names[0]) or "its first image"
            raise ValueError(f"{path}: {first} is not found; give --images FOLDER")
    classes = content["categories"]
    with contextlib.suppress(TypeError):  # ids of several types are refused where all is checked
        classes = sorted(classes, key=lambda c: c.get("id"))
    return {
        "FORMAT": "coco",
        "ANNOTATIONS": str(path),
        "IMAGES": str(root),
        "CLASSES": [str(c.get("name")) for c in classes],
    }


def _yolo(path: Path) -> tuple[Source, Source | None]:
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no yaml file: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict) or not {"train", "names"} <= content.keys():
        raise ValueError(f"{path} has no 'train' and 'names', as a data.yaml of YOLO has")
    names = content["names"]
    classes = [names[key] for key in sorted(names)] if isinstance(names, dict) else names
    root = (path.parent / str(content.get("path") or "")).resolve()
    if not root.is_dir():
        root = path.parent

    def source(entry: Any) -> Source:
        entries = entry if isinstance(entry, list) else [entry]
        images = [_yolo_place(path, root, str(e)) for e in entries]
        return {"FORMAT": "yolo", "IMAGES": images, "CLASSES": [str(c) for c in classes]}

    val = next((content[key] for key in VAL if content.get(key)), None)
    return source(content["train"]), source(val) if val else None


def _yolo_place(path: Path, root: Path, entry: str) -> str:
    # Roboflow writes ../train/images, counted from a folder that is not there.
    for place in (root / entry, path.parent / re.sub(r"^(\.\./)+", "", entry)):
        if place.is_file() or (place.is_dir() and images_in(place)):
            return str(place.resolve())
    raise ValueError(f"{path}: {entry} is no folder of images and no list of them")


def _voc(folder: Path) -> tuple[Source, Source | None]:
    annotations, images = folder / "Annotations", folder / "JPEGImages"
    if not images.is_dir():
        images = folder / "images"
    lists = folder / "ImageSets" / "Main"
    train, val = (
        next((lists / f"{n}.txt" for n in names if (lists / f"{n}.txt").is_file()), None)
        for names in (TRAIN, VAL)
    )
    classes = voc_classes(str(annotations))
    sources = [_voc_source(annotations, images, classes, file) for file in (train, val)]
    return (sources[0], sources[1]) if train and val else (sources[0], None)


def _voc_source(
    annotations: Path, images: Path, classes: list[str], names: Path | None = None
) -> Source:
    source = {
        "FORMAT": "voc",
        "ANNOTATIONS": str(annotations),
        "IMAGES": str(images),
        "CLASSES": classes,
    }
    return {**source, "LIST": str(names)} if names else source
