"""Checks of a dataset before it is trained on: what would crash later, or train on nonsense.

They run once over Detectron2's dataset dicts and name file, image id, annotation and fix.
"""

import dataclasses
import logging
import numbers
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from detectron2.utils.file_io import PathManager

from .annotations import boxes_xyxy
from .reading import describe_image, image_size, read_image

SHOWN = 10  # problems listed in one message
SAMPLED = 32  # images decoded before a training

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Problem:
    """One fault of a dataset.

    Attributes:
        text: image, annotation, fault and fix.
        fatal: training must not start; otherwise it does without what is at fault.
    """

    text: str
    fatal: bool = True

    def __str__(self) -> str:
        return self.text


def annotation_problems(dataset_dict: Mapping, num_classes: int) -> list[Problem]:
    """Faults of one image's boxes and class ids.

    Fatal: no annotations at all, no box, NaN or infinity, reversed corners, a class id outside
    [0, ``num_classes``). Left out of training: boxes without area or outside the image.
    """
    return _inspect(dataset_dict, num_classes)[0]


def checked_boxes(dataset_dict: Mapping, num_classes: int) -> np.ndarray:
    """(M, 4) float64 ``x0 y0 x1 y1`` in pixels of an image's annotations.

    Raises:
        ValueError: with what :func:`annotation_problems` finds fatal.
    """
    problems, boxes = _inspect(dataset_dict, num_classes)
    fatal = [str(problem) for problem in problems if problem.fatal]
    if fatal:
        raise ValueError("\n".join(fatal))
    return boxes


def _inspect(dataset_dict: Mapping, num_classes: int) -> tuple[list[Problem], np.ndarray]:
    """Problems, and boxes (M, 4), none where they cannot be read."""
    image, none = describe_image(dataset_dict), np.empty((0, 4))
    if "annotations" not in dataset_dict:
        text = f"{image} has no 'annotations'; give an empty list if it shows no object"
        return [Problem(text)], none
    annotations = dataset_dict["annotations"]
    try:
        boxes = boxes_xyxy(annotations)
    except (AssertionError, KeyError, NotImplementedError, TypeError, ValueError):
        problems = [
            Problem(
                f"{image}, annotation {i}: no box of 4 numbers with an absolute bbox_mode in "
                f"{dict(obj)}; correct or remove it"
            )
            for i, obj in enumerate(annotations)
            if not _has_box(obj)
        ]
        return problems, none
    problems = _class_problems(image, annotations, num_classes)
    size = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    limits = np.array([dataset_dict.get(key, np.inf) for key in ("width", "height")])
    seen = ((boxes[:, :2] < limits) & (boxes[:, 2:] > 0)).all(axis=1)
    finite = np.isfinite(boxes).all(axis=1)
    for i in np.flatnonzero(~(seen & finite & (size > 0))):
        if not finite[i]:
            fault, fatal = "is not finite; correct or remove it", True
        elif size[i] < 0:
            fault, fatal = "has reversed corners (x1 < x0 or y1 < y0); swap or remove it", True
        elif size[i] == 0:
            fault, fatal = "has no area; remove it", False
        else:
            fault, fatal = "lies outside the image; correct or remove it", False
        text = f"{image}, annotation {i}: box {boxes[i].tolist()} (x0 y0 x1 y1) {fault}"
        problems.append(Problem(text, fatal))
    return problems, boxes


def _has_box(annotation: Mapping) -> bool:
    try:
        return len(boxes_xyxy([annotation])) == 1
    except (AssertionError, KeyError, NotImplementedError, TypeError, ValueError):
        return False


def _class_problems(image: str, annotations: Sequence[Mapping], num_classes: int) -> list[Problem]:
    problems = []
    for i, obj in enumerate(annotations):
        category = obj.get("category_id")
        if not isinstance(category, (int, np.integer)) or not 0 <= category < num_classes:
            problems.append(
                Problem(
                    f"{image}, annotation {i}: category_id {category!r} is outside [0, "
                    f"{num_classes}); set MODEL.CORNERNET.NUM_CLASSES to the number of classes of "
                    "the dataset, or map its ids to 0, 1, 2, ..."
                )
            )
    return problems


def by_kind(problems: Iterable[Problem]) -> dict[str, list[str]]:
    """The faults of the two kinds, with what each kind is called."""
    kinds: dict[str, list[str]] = {"cannot be trained on": [], "can be trained on, but": []}
    fatal, other = kinds.values()
    for problem in problems:
        (fatal if problem.fatal else other).append(str(problem))
    return kinds


def dataset_problems(
    dataset_dicts: Sequence[Mapping],
    num_classes: int,
    thing_classes: Sequence[str] | None = None,
    *,
    decoded: int = 0,
    check_sizes: bool = False,
    image_format: str = "BGR",
    training: bool = True,
    files: bool = True,
    progress: Callable[[Iterable[Mapping]], Iterable[Mapping]] = iter,
) -> Iterator[Problem]:
    """Every fault of a dataset, in its order.

    Args:
        dataset_dicts: in Detectron2's format.
        num_classes: classes of the model, ``MODEL.CORNERNET.NUM_CLASSES``.
        thing_classes: names of the dataset's classes, if known.
        decoded: so many images, spread evenly, are decoded as well, and refused if damaged.
        check_sizes: compare width and height with the header of every file.
        image_format: ``INPUT.FORMAT``.
        training: False: no object in any image is no fault, as there is none in a test-dev set.
        files: False: whether the images are there is not looked at.
        progress: wraps the dicts as they are gone through.
    """
    yield from _name_problems(thing_classes, num_classes)
    if not len(dataset_dicts) or training and not any(d.get("annotations") for d in dataset_dicts):
        what = "no object in any image" if len(dataset_dicts) else "no image"
        yield Problem(f"the dataset has {what}; there is nothing to learn")
    step = max(1, -(-len(dataset_dicts) // decoded)) if decoded else 0
    names: dict = {}
    ids: dict = {}
    for i, dataset_dict in enumerate(progress(dataset_dicts)):
        image = describe_image(dataset_dict)
        file_name, image_id = dataset_dict.get("file_name"), dataset_dict.get("image_id")
        if names.setdefault(image_id, file_name) != file_name:
            # Of two datasets together they mean nothing; of one, its evaluation will mix them up.
            text = f"{image}: its id is also that of {names[image_id]}; give it another"
            yield Problem(text, fatal=False)
        if ids.setdefault(file_name, image_id) != image_id:
            text = f"{image}: its file is also that of image id {ids[file_name]}; list it once"
            yield Problem(text, fatal=False)
        sizes = [dataset_dict.get(side, 1) for side in ("width", "height")]
        if not all(isinstance(size, numbers.Real) and size >= 1 for size in sizes):
            yield Problem(f"{image}: width or height below 1 or no number; correct the dataset")
            continue
        if files:
            yield from _file_problems(
                dataset_dict, step and i % step == 0, check_sizes, image_format
            )
        if training or "annotations" in dataset_dict:
            yield from annotation_problems(dataset_dict, num_classes)
        yield from _repeated_boxes(image, dataset_dict.get("annotations", ()))


def _file_problems(
    dataset_dict: Mapping, decode: bool, check_size: bool, image_format: str
) -> Iterator[Problem]:
    file_name = dataset_dict.get("file_name")
    if not file_name or not PathManager.isfile(file_name):
        image = describe_image(dataset_dict)
        yield Problem(
            f"{image}: there is no such file; correct the image folder or restore the file"
        )
        return
    try:
        if decode:
            read_image(dataset_dict, image_format, strict=True)
        elif check_size:
            image_size(dataset_dict, check=True)
    except ValueError as error:
        yield Problem(str(error))


def _name_problems(names: Sequence[str] | None, num_classes: int) -> Iterator[Problem]:
    if names is None:
        return
    if len(names) != num_classes:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        yield Problem(
            f"the dataset has {len(names)} classes ({shown}), the model {num_classes}; set "
            f"MODEL.CORNERNET.NUM_CLASSES {len(names)}"
        )
    for name, count in Counter(names).items():
        if count > 1:
            yield Problem(f"{count} classes are named {name!r}; merge or rename them")


def _repeated_boxes(image: str, annotations: Sequence[Mapping]) -> Iterator[Problem]:
    first: dict = {}
    for i, obj in enumerate(annotations):
        box = repr((obj.get("bbox"), obj.get("bbox_mode"), obj.get("category_id")))
        if first.setdefault(box, i) != i:
            text = f"{image}, annotation {i}: same box and class as annotation {first[box]}"
            yield Problem(f"{text}; remove one", fatal=False)


def validate_dataset(
    dataset_dicts: Sequence[Mapping],
    num_classes: int,
    thing_classes: Sequence[str] | None = None,
    name: str = "the dataset",
    *,
    decoded: int = SAMPLED,
    image_format: str = "BGR",
    training: bool = True,
) -> None:
    """Refuse a dataset with a fatal fault, and log the faults that training can do without.

    Arguments are those of :func:`dataset_problems`, and the dataset's name for messages.

    Raises:
        ValueError: naming the first faults; ``cornernet check`` lists all.
    """
    problems = dataset_problems(
        dataset_dicts,
        num_classes,
        thing_classes,
        decoded=decoded,
        image_format=image_format,
        training=training,
    )
    refuse_fatal(list(problems), name, "trained on" if training else "evaluated on")


def refuse_fatal(problems: Sequence[Problem], name: str, use: str = "trained on") -> None:
    """Raise ValueError with the first fatal faults of a dataset, or log those that are not."""
    fatal = [problem for problem in problems if problem.fatal]
    if fatal:
        raise ValueError(f"{name} cannot be {use}:\n" + _listed(fatal))
    if problems:
        logger.warning("%s can be %s, but:\n%s", name, use, _listed(problems))


def _listed(problems: Sequence[Problem]) -> str:
    lines = [f"  {problem}" for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"  and {len(problems) - SHOWN} more; `cornernet check` lists all")
    return "\n".join(lines)
