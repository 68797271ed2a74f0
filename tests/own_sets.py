"""One small set of photos in every layout that `--data` reads."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

CLASSES = ("ace", "king")
SIZE = (96, 128)  # height, width, pixels
BOXES = ((10, 20, 50, 60), (60, 10, 110, 70))  # x0, y0, x1, y1, one of each class


def draw(path: Path, seed: int) -> None:
    """A noisy photo with a bright and a dark card at BOXES."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(90, 130, (*SIZE, 3), dtype=np.uint8)
    for (x0, y0, x1, y1), colour in zip(BOXES, (250, 10)):
        image[y0:y1, x0:x1] = colour
    cv2.imwrite(str(path), image)


def coco(file: Path, images: Path, numbers: range) -> None:
    rows, objects = [], []
    for i in numbers:
        draw(images / f"{i}.png", i)
        rows.append({"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]})
        for k, (x0, y0, x1, y1) in enumerate(BOXES):
            box = [x0, y0, x1 - x0, y1 - y0]
            row = {"id": len(objects) + 1, "image_id": i, "category_id": k + 1, "bbox": box}
            objects.append({**row, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": k + 1, "name": name} for k, name in enumerate(CLASSES)]
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"images": rows, "annotations": objects, "categories": categories}
    file.write_text(json.dumps(content))


def coco_set(root: Path, train: range, val: range) -> Path:
    coco(root / "annotations" / "train.json", root / "images", train)
    coco(root / "annotations" / "val.json", root / "images", val)
    return root


def roboflow_set(root: Path, train: range, val: range) -> Path:
    for name, numbers in (("train", train), ("valid", val)):
        coco(root / name / "_annotations.coco.json", root / name, numbers)
    return root


def yolo_set(root: Path, train: range, val: range) -> Path:
    height, width = SIZE
    for name, numbers in (("train", train), ("val", val)):
        for i in numbers:
            draw(root / name / "images" / f"{i}.png", i)
            label = root / name / "labels" / f"{i}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            lines = [
                f"{k} {(a + c) / 2 / width} {(b + d) / 2 / height} {(c - a) / width} "
                f"{(d - b) / height}"
                for k, (a, b, c, d) in enumerate(BOXES)
            ]
            label.write_text("\n".join(lines))
    names = "\n".join(f"  {k}: {name}" for k, name in enumerate(CLASSES))
    file = root / "data.yaml"
    file.write_text(f"train: ../train/images\nval: ../val/images\nnames:\n{names}\n")
    return file


def voc_xml(file: Path, image: str) -> None:
    objects = "".join(
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{a + 1}</xmin>"
        f"<ymin>{b + 1}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for name, (a, b, c, d) in zip(CLASSES, BOXES)
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"<annotation><filename>{image}</filename>{objects}</annotation>")


def voc_set(root: Path, train: range, val: range) -> Path:
    for name, numbers in (("train", train), ("val", val)):
        for i in numbers:
            draw(root / "JPEGImages" / f"{i}.png", i)
            voc_xml(root / "Annotations" / f"{i}.xml", f"{i}.png")
        names = root / "ImageSets" / "Main" / f"{name}.txt"
        names.parent.mkdir(parents=True, exist_ok=True)
        names.write_text("".join(f"{i}\n" for i in numbers))
    return root


def voc_beside_set(root: Path, train: range, val: range) -> Path:
    for name, numbers in (("train", train), ("test", val)):
        for i in numbers:
            draw(root / "images" / name / f"{i}.png", i)
            voc_xml(root / "images" / name / f"{i}.xml", f"{i}.png")
    return root


LAYOUTS: dict[str, Callable[[Path, range, range], Path]] = {
    "coco": coco_set,
    "roboflow": roboflow_set,
    "yolo": yolo_set,
    "voc": voc_set,
    "voc beside": voc_beside_set,
}
