"""COCO json files: what Detectron2 and pycocotools crash on, drop or misread, found beforehand.

Places are named as a program would reach them: ``annotations[3].bbox``. What has one right meaning
although the file does not say so (an area, ids of annotations) is put right by :func:`repair`.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.file_io import PathManager

from .validation import Problem, refuse_fatal

LISTS = ("images", "categories", "annotations")
Faults = Iterator[tuple[str, str]]  # (field, what is wrong with it)


def load_dataset(name: str, labelled: bool = True) -> tuple[list[dict], list[Problem]]:
    """A registered dataset's dicts and what is wrong with its file: no dicts if that is fatal.

    Args:
        name: of a registered dataset.
        labelled: False: a COCO json without "annotations", such as test-dev's, is no fault.

    Raises:
        ValueError: unknown name, or a dataset that cannot be loaded for another reason.
    """
    _check_registered(name)
    problems = list(_file_problems(name, labelled))
    if any(problem.fatal for problem in problems):
        return [], problems
    try:
        return DatasetCatalog.get(name), problems
    except Exception as error:  # of a loading function that anyone may have registered
        reason = " ".join(str(error).split())
        raise ValueError(
            f"dataset {name} cannot be loaded: {type(error).__name__}: {reason}"
        ) from error


def _check_registered(name: str) -> None:
    if name not in DatasetCatalog.list():
        raise ValueError(
            f"no dataset {name!r} is registered; known: {', '.join(sorted(DatasetCatalog.list()))}"
        )


def check_files(names: Iterable[str]) -> None:
    """Refuse datasets whose COCO json has a fatal fault, and log the other faults.

    Raises:
        ValueError: naming file and place; or no dataset has that name.
    """
    for name in names:
        _check_registered(name)
        refuse_fatal(list(_file_problems(name)), name)


def _file_problems(name: str, labelled: bool = True) -> Iterator[Problem]:
    metadata = MetadataCatalog.get(name)
    json_file = metadata.get("json_file")
    if json_file and metadata.get("evaluator_type") == "coco":
        try:
            data = _read_json(json_file)
            if not labelled and isinstance(data, dict) and "annotations" not in data:
                return
            yield from coco_problems(_with_lists(data, json_file), json_file)
        except ValueError as error:
            yield Problem(str(error))


def read_coco(json_file: str) -> dict[str, Any]:
    """The content of a COCO json: an object with three lists of objects, otherwise unchecked.

    Raises:
        ValueError: the file is missing, no json (line and column are named), or not of that form.
    """
    return _with_lists(_read_json(json_file), json_file)


def _read_json(json_file: str) -> Any:
    try:
        with PathManager.open(json_file, "rb") as file:
            return json.loads(file.read().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}"
        raise ValueError(f"{json_file}, {place}: no valid json: {error.msg}") from error
    except (OSError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"cannot read {json_file}: {type(error).__name__}: {reason}") from error


def _with_lists(data: Any, json_file: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(
            f"{json_file} holds {_shown(data)}, not an object with the lists {', '.join(LISTS)}; "
            "a file of results is no dataset"
        )
    for key in LISTS:
        if not isinstance(data.get(key), list):
            raise ValueError(f"{json_file}: {key!r} is {_shown(data.get(key))}, not a list")
        for i, item in enumerate(data[key]):
            if not isinstance(item, dict):
                raise ValueError(f"{json_file}: {key}[{i}] is {_shown(item)}, not an object")
    return data


def repair(data: dict[str, Any]) -> list[str]:
    """Put right, in place, what has one right meaning; returns what was done, in sentences.

    Evaluation needs it: COCOeval takes the annotation id 0 for "no match", so that a true
    detection counts as false, and crashes without an "area" or "iscrowd".
    """
    annotations = data.get("annotations", [])
    notes = []
    ids = [obj.get("id") for obj in annotations]
    if not all(_is_whole(i) and i > 0 for i in ids) or len(set(ids)) < len(ids):
        for i, obj in enumerate(annotations, start=1):
            obj["id"] = i
        notes.append(
            "annotation ids are not distinct numbers above 0, and COCO's evaluation takes 0 for no "
            "match: renumbered from 1"
        )
    without_area = [
        obj for obj in annotations if not _is_number(obj.get("area")) and _is_box(obj.get("bbox"))
    ]
    for obj in without_area:
        obj["area"] = obj["bbox"][2] * obj["bbox"][3]
    if without_area:
        notes.append(f"{len(without_area)} annotations have no number as area: width x height used")
    unmarked = [obj for obj in annotations if obj.get("iscrowd") is None]
    for obj in unmarked:
        obj["iscrowd"] = 0
    if unmarked:
        notes.append(f"{len(unmarked)} annotations have no iscrowd: 0 used")
    return notes


def coco_problems(data: dict[str, Any], json_file: str) -> Iterator[Problem]:
    """Every fault of a COCO json, in its order. Without a fatal one, ``data`` is repaired as well.

    Args:
        data: as :func:`read_coco` returns it.
        json_file: for the messages.
    """
    known = ("images", "categories")
    ids = {key: {i for i in map(_id, data[key]) if i is not None} for key in known}
    checks = {
        "images": _image_faults,
        "categories": _category_faults,
        "annotations": lambda obj: _annotation_faults(obj, ids["images"], ids["categories"]),
    }
    sound = True
    for key in LISTS:
        if not data[key]:
            sound = False
            yield Problem(f"{json_file}: {key!r} is empty; a dataset needs at least one")
        first: dict = {}
        for i, item in enumerate(data[key]):
            faults = list(checks[key](item))
            if _id(item) is None:
                faults.append(("id", f"is {_shown(item.get('id'))}; give a number"))
            elif first.setdefault(_id(item), i) != i and not _is_known_bug(key, json_file):
                other = f"{key}[{first[_id(item)]}]"
                faults.append(
                    ("id", f"{_shown(_id(item))} is also that of {other}; make it unique")
                )
            sound = sound and not faults
            yield from (Problem(f"{json_file}: {key}[{i}].{f} {text}") for f, text in faults)
    if len({isinstance(i, str) for i in ids["images"]}) > 1:
        sound = False
        yield Problem(f"{json_file}: ids of images are numbers and strings; give all one type")
    if sound:
        yield from (Problem(f"{json_file}: {note}", fatal=False) for note in repair(data))


def _is_known_bug(key: str, json_file: str) -> bool:
    # Two published subsets of COCO 2014 repeat ids, and Detectron2 excuses them by their name.
    return key == "annotations" and "minival" in json_file


def _id(item: Mapping) -> int | float | str | None:
    """The id of an image, category or annotation; None if it cannot be one."""
    value = item.get("id")
    return value if _is_whole(value) or isinstance(value, str) else None


def _image_faults(image: Mapping) -> Faults:
    if not _is_text(image.get("file_name")):
        yield "file_name", f"is {_shown(image.get('file_name'))}; name the file"
    for side in ("height", "width"):
        value = image.get(side)
        if not _is_whole(value) or value < 1:
            yield side, f"is {_shown(value)}; give the image's {side} in pixels"


def _category_faults(category: Mapping) -> Faults:
    if not _is_text(category.get("name")):
        yield "name", f"is {_shown(category.get('name'))}; give the class a name"
    if isinstance(category.get("id"), str):
        yield "id", f"is the text {_shown(category['id'])}; give a number"


def _annotation_faults(obj: Mapping, image_ids: Set, class_ids: Set) -> Faults:
    for field, ids, what in (
        ("image_id", image_ids, "image"),
        ("category_id", class_ids, "category"),
    ):
        value = obj.get(field)
        if not (_is_whole(value) or isinstance(value, str)) or value not in ids:
            alike = any(str(i) == str(value) for i in ids) and value is not None
            hint = " of the same type (number or text)" if alike else ""
            yield field, f"is {_shown(value)}, which is no {what}'s id{hint}; correct or remove it"
    bbox = obj.get("bbox")
    if not _is_box(bbox):
        yield "bbox", f"is {_shown(bbox)}; give x, y, width and height in pixels"
    if obj.get("iscrowd") not in (None, 0, 1):
        yield "iscrowd", f"is {_shown(obj['iscrowd'])}; give 0 or 1"
    if obj.get("ignore"):
        yield "ignore", "is set, which Detectron2 refuses; set iscrowd to 1 instead"
    yield from _shape_faults(obj)


def _shape_faults(obj: Mapping) -> Faults:
    """Masks and keypoints, which no corner needs, but on which Detectron2's loading crashes."""
    mask = obj.get("segmentation")
    if isinstance(mask, dict):
        size = mask.get("size")
        fits = isinstance(size, list) and len(size) == 2 and all(map(_is_whole, size))
        counts = mask.get("counts")
        if isinstance(counts, list):
            fits = fits and all(_is_whole(c) and c >= 0 for c in counts)
            fits = fits and min(size) > 0 and sum(counts) == size[0] * size[1]
        if mask and not (fits and isinstance(counts, (list, str))):
            yield "segmentation", f"is no mask: {_shown(mask)}; correct or remove it"
    elif mask and not (isinstance(mask, list) and all(isinstance(p, list) for p in mask)):
        yield "segmentation", f"is {_shown(mask)}; give a list of polygons, or remove it"
    elif mask and not any(len(p) % 2 == 0 and len(p) >= 6 for p in mask):
        yield "segmentation", "has no polygon of 3 points, so Detectron2 drops the box; remove it"
    points = obj.get("keypoints")
    if points and not (isinstance(points, list) and all(map(_is_number, points))):
        yield "keypoints", f"is {_shown(points)}; give numbers, or remove it"


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1e300  # also: not NaN, and no int that floats cannot hold


def _is_whole(value: Any) -> bool:
    return _is_number(value) and value == math.floor(value)


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_text(value: Any) -> bool:
    """A text that is not empty and that can be printed and written to files."""
    if not isinstance(value, str) or not value.strip():
        return False
    return not any("\ud800" <= letter <= "\udfff" for letter in value)


def _shown(value: Any) -> str:
    """The value as the json has it, short and printable."""
    if value is None:
        return "missing"
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
