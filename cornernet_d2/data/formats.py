"""YOLO's text files and Pascal VOC's xml files as Detectron2's dataset dicts."""

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.structures import BoxMode

from .reading import image_size

IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def images_in(folder: Path) -> list[Path]:
    """The images of a folder and of the folders in it, by name."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)
    return sorted(path for path in found if path.is_file())


def load_yolo(sources: Sequence[str], num_classes: int) -> list[dict[str, Any]]:
    """Dataset dicts of images with YOLO labels; an image without a label file shows no object.

    Args:
        sources: folders of images, or text files with the path of an image a line.
        num_classes: class numbers are below it.

    Raises:
        ValueError: no image, an unreadable one, or a label that is none, named by file and line.
    """
    files: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            files += images_in(source)
        elif source.is_file():
            lines = [line.strip() for line in source.read_text().splitlines()]
            files += [source.parent / line for line in lines if line]
        else:
            raise ValueError(f"{source} does not exist")
    if not files:
        raise ValueError(f"{', '.join(sources)}: no image there")
    return [_yolo_image(number, path, num_classes) for number, path in enumerate(files, 1)]


def yolo_label_file(image: Path) -> Path:
    """``.../labels/a.txt`` of ``.../images/a.jpg``; beside the image without a folder "images"."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _yolo_image(number: int, path: Path, num_classes: int) -> dict[str, Any]:
    result: dict[str, Any] = {"file_name": str(path), "image_id": number}
    result["height"], result["width"] = height, width = image_size(result)
    labels, annotations = yolo_label_file(path), []
    lines = labels.read_text().splitlines() if labels.is_file() else []
    for i, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            category, *numbers = map(float, line.split())
        except ValueError as error:
            raise ValueError(f"{labels}, line {i}: {line!r} is not all numbers") from error
        if category not in range(num_classes):
            raise ValueError(f"{labels}, line {i}: there are {num_classes} classes, from 0 on")
        if len(numbers) == 4:
            x, y, w, h = numbers
            box = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        elif len(numbers) >= 6 and len(numbers) % 2 == 0:  # a polygon
            xs, ys = numbers[::2], numbers[1::2]
            box = [min(xs), min(ys), max(xs), max(ys)]
        else:
            raise ValueError(f"{labels}, line {i}: give class, x, y, width, height, in 0 to 1")
        pixels = [value * side for value, side in zip(box, (width, height) * 2)]
        annotations.append(_object(pixels, int(category)))
    return {**result, "annotations": annotations}


def load_voc(
    annotations: str, images: str, classes: Sequence[str], list_file: str = ""
) -> list[dict[str, Any]]:
    """Dataset dicts of Pascal VOC's xml files; "difficult" objects are ignored regions.

    Args:
        annotations: folder of the xml files.
        images: folder of the images.
        classes: names in the order of the class ids.
        list_file: a text file with the names, without ending, of those to take; or "": all.

    Raises:
        ValueError: no xml file, one that is none, an unknown class or a missing image.
    """
    files = sorted(Path(annotations).glob("*.xml"))
    if list_file:
        names = [line.split()[0] for line in Path(list_file).read_text().splitlines() if line]
        files = [Path(annotations, f"{name}.xml") for name in names]
    if not files:
        raise ValueError(f"{annotations} holds no xml file")
    numbers = {name: i for i, name in enumerate(classes)}
    return [_voc_image(number, path, images, numbers) for number, path in enumerate(files, 1)]


def voc_classes(annotations: str) -> list[str]:
    """The names of all objects in a folder of xml files, sorted."""
    roots = map(_xml, sorted(Path(annotations).glob("*.xml")))
    return sorted(
        {obj.findtext("name", "").strip() for root in roots for obj in root.iter("object")}
    )


def _voc_image(number: int, path: Path, images: str, numbers: dict[str, int]) -> dict[str, Any]:
    root = _xml(path)
    result: dict[str, Any] = {"file_name": _voc_file(path, root, images), "image_id": number}
    result["height"], result["width"] = image_size(result)
    annotations = []
    for i, obj in enumerate(root.iter("object")):
        name = obj.findtext("name", "").strip()
        if name not in numbers:
            raise ValueError(f"{path}, object {i}: class {name!r} is not one of {list(numbers)}")
        try:
            box = [float(obj.find("bndbox").findtext(k)) for k in ("xmin", "ymin", "xmax", "ymax")]
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, object {i}: no bndbox with four numbers") from error
        box[0] -= 1  # VOC counts pixels from 1, and the last one is inside
        box[1] -= 1
        difficult = obj.findtext("difficult", "0").strip() == "1"
        annotations.append(_object(box, numbers[name], int(difficult)))
    return {**result, "annotations": annotations}


def _xml(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def _voc_file(path: Path, root: ElementTree.Element, images: str) -> str:
    """The image of an xml file: the one that it names, or one of its own name."""
    named = root.findtext("filename", "").strip()
    candidates = [named, *(path.stem + ending for ending in IMAGE_ENDINGS)]
    candidates += [path.stem + ending.upper() for ending in IMAGE_ENDINGS]
    for name in filter(None, candidates):
        if os.path.isfile(os.path.join(images, name)):
            return os.path.join(images, name)
    raise ValueError(f"{path}: {images} holds neither {named!r} nor an image named {path.stem}")


def _object(box: list[float], category: int, iscrowd: int = 0) -> dict[str, Any]:
    return {
        "bbox": box,
        "bbox_mode": BoxMode.XYXY_ABS,
        "category_id": category,
        "iscrowd": iscrowd,
    }
