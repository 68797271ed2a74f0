"""Write a small synthetic detection dataset in COCO format.

    python .ci/make_shapes.py --output datasets/shapes

Four kinds of shape, turned and stretched, partly hidden by one another, on textured backgrounds
with clutter that carries no label. The boxes enclose what is visible of an object, to a quarter
pixel. Equal flags give equal files: every image has a random stream of its own.

Layout: ``annotations/{train,val}.json``, ``images/*.png`` and ``shapes.json`` with the settings,
written last: a folder without it is never touched.

Letters: S image side in pixels, G side of the drawing grid (SUPERSAMPLE * S).
"""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cornernet_d2.data.builtin import CLASSES

CATEGORIES = CLASSES["shapes"]
SETTINGS_FILE = "shapes.json"
VERSION = 1  # to be raised when equal settings come to give other files
SUPERSAMPLE = 4  # drawn on a grid 4 times finer, then averaged: smooth edges, quarter-pixel boxes
SIDE_RANGE = (0.15, 0.85)  # longer side of an object over S: COCO's small to large when S >= 128
ASPECT_RANGE = (0.6, 1.0)  # shorter side over longer side, before turning
MIN_VISIBLE = 0.8  # share of an object that later ones must leave visible
MIN_CONTRAST = 50  # grey levels between an object and anything else of the image, in some channel
PLACEMENT_TRIES = 20  # an object that finds no room after so many is left out


@dataclass(frozen=True)
class Settings:
    """What determines the files: number of images, side in pixels, most objects, seed."""

    train: int = 3000
    val: int = 200
    size: int = 128
    objects: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("train", 1), ("val", 1), ("size", 32), ("objects", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.objects > 200:
            raise ValueError(f"objects must be at most 200, got {self.objects}")


def _ellipse(mask: np.ndarray, place: Callable, axes: tuple[float, float]) -> None:
    angle = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    _fill(mask, place(np.stack([np.cos(angle), np.sin(angle)], 1) * axes))


def _rectangle(mask: np.ndarray, place: Callable, axes: tuple[float, float]) -> None:
    _fill(mask, place(np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * axes))


def _triangle(mask: np.ndarray, place: Callable, axes: tuple[float, float]) -> None:
    _fill(mask, place(np.array([(0, -1), (1, 1), (-1, 1)]) * axes))


def _cross(mask: np.ndarray, place: Callable, axes: tuple[float, float]) -> None:
    third = 1 / 3
    _rectangle(mask, place, (axes[0], axes[1] * third))
    _rectangle(mask, place, (axes[0] * third, axes[1]))


def _fill(mask: np.ndarray, points: np.ndarray) -> None:
    cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1)


_DRAW = dict(zip(CATEGORIES, (_ellipse, _rectangle, _triangle, _cross)))


def _draw_shape(rng: np.random.Generator, category: str, grid: int) -> np.ndarray:
    """Returns the (G, G) uint8 mask of one turned shape that lies inside the image."""
    long = grid * np.exp(rng.uniform(*np.log(SIDE_RANGE))) / 2
    axes = (long, long * rng.uniform(*ASPECT_RANGE))
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))])
    reach = np.abs(rotation * np.array(axes)[:, None]).sum(0)  # half of the turned bounding box
    reach = np.minimum(reach, (grid - 1) / 2)
    centre = rng.uniform(reach, grid - 1 - reach)
    mask = np.zeros((grid, grid), np.uint8)
    _DRAW[category](mask, lambda points: points @ rotation + centre, axes)
    return mask


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Returns (S, S, 3) float32: cloud of two scales, stripes, and short strokes as clutter."""
    image = np.full((size, size, 3), rng.uniform(40, 215, 3), np.float32)
    for cells, strength in ((4, 22), (16, 12)):
        cloud = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(cloud, (size, size), interpolation=cv2.INTER_CUBIC)
    direction, waves = rng.uniform(0, np.pi), rng.uniform(4, 20)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) * (2 * np.pi * waves / size)
    stripes = np.sin(x * np.cos(direction) + y * np.sin(direction)) * rng.uniform(0, 14)
    image += stripes[..., None]
    for _ in range(rng.integers(3, 9)):
        start = rng.integers(0, size, 2)
        end = start + rng.integers(-size // 6, size // 6 + 1, 2)
        colour = rng.uniform(0, 255, 3).tolist()
        cv2.line(image, start.tolist(), end.tolist(), colour, int(rng.integers(1, 3)))
    return image


def _colour(rng: np.random.Generator, taken: list[np.ndarray]) -> np.ndarray:
    """Returns a colour that stands out from those taken, as far as 50 tries find one."""
    tries = rng.uniform(0, 255, (50, 3))
    contrast = np.abs(tries[:, None] - np.array(taken)[None]).max(2).min(1)
    good = np.flatnonzero(contrast >= MIN_CONTRAST)
    return tries[good[0] if len(good) else contrast.argmax()]


def _visible_box(mask: np.ndarray) -> list[float]:
    """Returns COCO's [x, y, width, height] in image pixels of a (G, G) mask."""
    x, y, width, height = cv2.boundingRect(mask)
    return [value / SUPERSAMPLE for value in (x, y, width, height)]


def _compose(background: np.ndarray, owner: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Lays the objects of the fine grid over the (S, S, 3) background, averaging down to S."""
    side = background.shape[:2]
    palette = np.zeros((3, 256), np.uint8)  # 0 for the background, which has its own picture
    palette[:, 1 : len(colours)] = np.round(colours[1:]).T
    layer = cv2.merge([cv2.LUT(owner, levels) for levels in palette])
    layer = cv2.resize(layer, side, interpolation=cv2.INTER_AREA)
    share = cv2.resize((owner > 0).astype(np.float32), side, interpolation=cv2.INTER_AREA)
    return background * (1 - share[..., None]) + layer


def draw_image(
    rng: np.random.Generator, size: int, objects: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Draws one image.

    Returns:
        The (S, S, 3) uint8 BGR picture and one dict per object with ``category_id`` (from 1),
        ``bbox`` ([x, y, width, height] of the visible part, image pixels) and ``area`` (of the
        box, square pixels: what COCO sorts small, medium and large by).
    """
    grid = size * SUPERSAMPLE
    background = _background(rng, size)
    colours = [background.mean((0, 1))]
    owner = np.zeros((grid, grid), np.uint8)  # which object a point shows, 0 = background
    drawn, kinds = [0], []  # points that an object (1, 2, ...) covered when drawn; its category
    for _ in range(rng.integers(1, objects + 1)):
        kind = int(rng.integers(len(CATEGORIES)))
        for _ in range(PLACEMENT_TRIES):
            mask = _draw_shape(rng, CATEGORIES[kind], grid)
            after = cv2.max(mask * np.uint8(len(drawn)), owner)  # the newest object lies on top
            counts = cv2.calcHist([after], [0], None, [256], [0, 256]).ravel()
            visible = counts[1 : len(drawn)]
            if np.all(visible >= MIN_VISIBLE * np.array(drawn[1:])):
                owner = after
                drawn.append(cv2.countNonZero(mask))
                kinds.append(kind)
                colours.append(_colour(rng, colours))
                break
    image = _compose(background, owner, np.array(colours))
    image += rng.normal(0, 4, image.shape)
    boxes = [_visible_box(cv2.compare(owner, i, cv2.CMP_EQ)) for i in range(1, len(drawn))]
    annotations = [
        {"category_id": kind + 1, "bbox": box, "area": box[2] * box[3]}
        for kind, box in zip(kinds, boxes)
    ]
    return np.clip(np.round(image), 0, 255).astype(np.uint8), annotations


def _write_split(folder: Path, split: str, number: int, settings: Settings) -> None:
    images, annotations = [], []
    for index in range(number):
        rng = np.random.default_rng((settings.seed, ("train", "val").index(split), index))
        picture, objects = draw_image(rng, settings.size, settings.objects)
        name = f"{split}_{index:05d}.png"
        if not cv2.imwrite(str(folder / "images" / name), picture):
            raise OSError(f"could not write {folder / 'images' / name}")
        side = settings.size
        images.append({"id": index + 1, "file_name": name, "width": side, "height": side})
        for item in objects:
            identity = {"id": len(annotations) + 1, "image_id": index + 1, "iscrowd": 0}
            annotations.append(identity | item)
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CATEGORIES)]
    data = {
        "info": {"description": "synthetic shapes, .ci/make_shapes.py"},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    (folder / "annotations" / f"{split}.json").write_text(json.dumps(data))


def _holds(folder: Path, wanted: dict[str, int]) -> bool:
    """Whether the folder holds exactly this set; raises where writing it would destroy files."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    settings_file = folder / SETTINGS_FILE
    if not settings_file.is_file():
        raise ValueError(
            f"{folder} exists and was not written by make_shapes: choose another --output"
        )
    found = json.loads(settings_file.read_text())
    if found != wanted:
        raise ValueError(
            f"{folder} holds shapes of other settings ({found}, wanted {wanted}): "
            "choose another --output, or remove that folder"
        )
    return True


def make_shapes(output: Path, settings: Settings = Settings()) -> bool:
    """Writes the dataset unless the folder already holds it.

    Args:
        output: folder to create; may exist when empty or when written with the same settings.
        settings: number and size of the images, seed.

    Returns:
        True when written, False when an earlier result is reused.

    Raises:
        ValueError: the folder holds anything else; nothing in it is changed.
    """
    output = Path(output)
    wanted = asdict(settings) | {"version": VERSION}
    if _holds(output, wanted):
        return False
    output.parent.mkdir(parents=True, exist_ok=True)
    # written beside its place and moved there whole: a stopped run leaves no half of a dataset
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        (partial / "images").mkdir()
        (partial / "annotations").mkdir()
        _write_split(partial, "train", settings.train, settings)
        _write_split(partial, "val", settings.val, settings)
        (partial / SETTINGS_FILE).write_text(json.dumps(wanted))
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes it private
        os.replace(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def main(argv: list[str] | None = None) -> None:
    """Command line; see the head of this file."""
    root = Path(os.getenv("DETECTRON2_DATASETS", "datasets")).expanduser()
    default = Settings()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=root / "shapes", help="%(default)s")
    for name, text in (
        ("train", "training images"),
        ("val", "validation images"),
        ("size", "side of an image in pixels"),
        ("objects", "most objects in an image"),
        ("seed", "equal seeds give equal files"),
    ):
        value = getattr(default, name)
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{text} [%(default)s]")
    arguments = vars(parser.parse_args(argv))
    output = arguments.pop("output")
    try:
        written = make_shapes(output, Settings(**arguments))
    except ValueError as error:
        parser.error(str(error))
    print(f"{'wrote' if written else 'reusing'} {output}: {arguments}")


if __name__ == "__main__":
    main()
