"""The files that the hostile cases name, all in the current folder."""

import json
import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from own_sets import coco_set, voc_set, yolo_set
from PIL import Image

Content = dict[str, Any]


class Code:
    """A pickle that makes the folder "was_run" if its code is run."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("was_run",)


def make_data() -> None:
    """cards: a good COCO set; yolo and voc: the same in other layouts."""
    coco_set(Path("cards"), range(12), range(12, 15))
    yolo_set(Path("yolo"), range(4), range(4, 6))
    voc_set(Path("voc"), range(4), range(4, 6))


# What is changed in a good json, by the name of the file that it gives.
JSON_CHANGES: dict[str, Callable[[Content], Any]] = {
    "list": lambda c: [c],
    "number": lambda c: 7,
    "no_images": lambda c: c.pop("images"),
    "images_null": lambda c: c.update(images=None),
    "image_is_text": lambda c: c.update(images=["0.png"]),
    "no_file_name": lambda c: c["images"][0].pop("file_name"),
    "file_name_number": lambda c: c["images"][0].update(file_name=3),
    "image_id_list": lambda c: c["images"][0].update(id=[1]),
    "image_id_twice": lambda c: c["images"][1].update(id=0),
    "image_twice": lambda c: c["images"][1].update(file_name="0.png"),
    "width_text": lambda c: c["images"][0].update(width="wide"),
    "wrong_size": lambda c: c["images"][0].update(width=64, height=48),
    "missing_image": lambda c: c["images"][0].update(file_name="gone.png"),
    "image_outside": lambda c: c["images"][0].update(file_name="../../../etc/passwd"),
    "no_annotations": lambda c: c.pop("annotations"),
    "annotations_empty": lambda c: c.update(annotations=[]),
    "annotation_is_null": lambda c: c["annotations"].append(None),
    "bbox_null": lambda c: c["annotations"][0].update(bbox=None),
    "bbox_of_three": lambda c: c["annotations"][0].update(bbox=[1, 2, 3]),
    "bbox_text": lambda c: c["annotations"][0].update(bbox=["a", 1, 2, 3]),
    "bbox_nan": lambda c: c["annotations"][0].update(bbox=[float("nan"), 1, 2, 3]),
    "bbox_infinite": lambda c: c["annotations"][0].update(bbox=[0, 0, float("inf"), 5]),
    "bbox_negative": lambda c: c["annotations"][0].update(bbox=[30, 30, -10, 5]),
    "bbox_outside": lambda c: c["annotations"][0].update(bbox=[500, 500, 10, 10]),
    "bbox_twice": lambda c: c["annotations"].append({**c["annotations"][0], "id": 999}),
    "unknown_class": lambda c: c["annotations"][0].update(category_id=99),
    "class_text": lambda c: c["annotations"][0].update(category_id="ace"),
    "unknown_image": lambda c: c["annotations"][0].update(image_id=99),
    "image_id_text": lambda c: c["annotations"][0].update(image_id="0"),
    "annotation_id_twice": lambda c: c["annotations"][1].update(id=1),
    "ids_from_0": lambda c: [a.update(id=a["id"] - 1) for a in c["annotations"]],
    "no_area": lambda c: [a.pop("area") for a in c["annotations"]],
    "area_text": lambda c: c["annotations"][0].update(area="large"),
    "no_categories": lambda c: c.pop("categories"),
    "class_name_twice": lambda c: c["categories"][1].update(name="ace"),
    "class_id_twice": lambda c: c["categories"][1].update(id=1),
    "class_without_name": lambda c: c["categories"][0].pop("name"),
}


def make_json() -> None:
    """json/NAME.json beside the photos of cards."""
    shutil.copytree("cards/images", "json")
    text = Path("cards/annotations/train.json").read_text()
    for name, change in JSON_CHANGES.items():
        content = json.loads(text)
        changed = change(content)
        whole = changed if name in ("list", "number") else content
        Path("json", f"{name}.json").write_text(json.dumps(whole))
    raw = {
        "empty": b"",
        "cut": text[: len(text) // 2].encode(),
        "binary": bytes(range(256)),
        "utf16": text.encode("utf-16"),
        "deep": b"[" * 200_000,
        "long_number": text.replace('"id": 1,', f'"id": {"9" * 5000},', 1).encode(),
        "page": b"<!DOCTYPE html><html>404</html>",
    }
    for name, data in raw.items():
        Path("json", f"{name}.json").write_bytes(data)


def make_other_layouts() -> None:
    """Folders in which one file of a layout is broken."""
    os.mkdir("empty_folder")
    for name, text in (
        ("broken", "train: ["),
        ("list", "- train"),
        ("code", "train: !!python/object/apply:os.mkdir [was_run]"),
        ("no_names", "train: ../train/images\nval: ../val/images\n"),
        ("nowhere", "train: nowhere\nval: nowhere\nnames: [a, b]\n"),
    ):
        Path(f"yolo_{name}.yaml").write_text(text)
    bomb = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10 if i else "ha"}">' for i in range(12))
    for name, text in (
        ("cut", "<annotation><object>"),
        ("bomb", f"<!DOCTYPE x [{bomb}]><annotation>&a11;</annotation>"),
        ("text_box", "<annotation><object><name>ace</name><bndbox><xmin>x</xmin></bndbox></object>"
         "</annotation>"),
    ):  # fmt: skip
        shutil.copytree("voc", f"voc_{name}")
        Path(f"voc_{name}", "Annotations", "0.xml").write_text(text)
    shutil.copytree("yolo", "yolo_label")
    next(Path("yolo_label/train/labels").iterdir()).write_text("0 nan 0.5 0.2 0.2")


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data + chunk(b"IEND", b"")


def make_images() -> None:
    """Pictures in the folder pictures, sound and not."""
    folder = Path("pictures")
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
    cv2.imwrite(str(folder / "good.jpg"), pixels)
    cv2.imwrite(str(folder / "good.png"), pixels)
    jpeg, png = (folder / "good.jpg").read_bytes(), (folder / "good.png").read_bytes()
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("not an image")
    (folder / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "cut.png").write_bytes(png[: len(png) // 2])
    middle = len(png) // 2
    (folder / "damaged.png").write_bytes(png[:middle] + b"\0" * 50 + png[middle + 50 :])
    (folder / "bomb.png").write_bytes(png_header(60_000, 60_000))
    (folder / "folder.jpg").mkdir()
    (folder / "loop.jpg").symlink_to("loop.jpg")
    for name, shape in (("thin", (1, 3000)), ("tall", (3000, 1)), ("dot", (1, 1))):
        cv2.imwrite(str(folder / f"{name}.png"), np.full((*shape, 3), 90, np.uint8))
    Image.fromarray(pixels).save(folder / "animation.gif")
    Image.fromarray(pixels).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 256).save(folder / "grey16.png")
    Image.fromarray(pixels).convert("RGBA").save(folder / "alpha.png")
    cv2.imwrite("-dash.jpg", pixels)
    cv2.imwrite(str(folder / "line\nbreak.jpg"), pixels)
    Path("broken.mp4").write_bytes(bytes(2000))


def make_weights() -> None:
    """Files in weights/, from the trained cards/model_final.pth."""
    folder, good = Path("weights"), Path("output/cards/model_final.pth")
    folder.mkdir()
    whole = good.read_bytes()
    contents = torch.load(good, weights_only=True)
    (folder / "own.pth").write_bytes(whole)
    (folder / "empty.pth").touch()
    (folder / "text.pth").write_text("not a model")
    (folder / "cut.pth").write_bytes(whole[: len(whole) // 2])
    (folder / "noise.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}" * 50)
    (folder / "pickle.pkl").write_bytes(pickle.dumps({"model": {"x": Code()}, "__author__": "me"}))
    (folder / "folder.pth").mkdir()
    torch.save({"model": Code()}, folder / "code.pth")
    torch.save([1, 2, 3], folder / "list.pth")
    torch.save({"model": {}}, folder / "nothing.pth")
    torch.save({"model": {"resnet.conv": torch.zeros(3)}}, folder / "other.pth")
    model = contents["model"]
    half = {k: v for k, v in model.items() if not k.startswith("head.")}
    nan = {k: v * torch.nan if v.is_floating_point() else v for k, v in model.items()}
    notes = {"cornernet_d2": contents["cornernet_d2"]}
    torch.save({"model": half, **notes}, folder / "no_head.pth")
    torch.save({"model": nan, **notes}, folder / "nan.pth")
    broken = {**contents["cornernet_d2"], "config": "MODEL: ["}
    torch.save({"model": model, "cornernet_d2": broken}, folder / "broken_config.pth")
    torch.save({"model": model, "cornernet_d2": [1]}, folder / "broken_notes.pth")


def make_configs() -> None:
    """Configs that cannot be read, and text where a folder is expected."""
    Path("broken.yaml").write_text("MODEL: [")
    Path("code.yaml").write_text("OUTPUT_DIR: !!python/object/apply:os.mkdir [was_run]\n")
    Path("unknown_key.yaml").write_text("MODEL:\n  HEADWIDTH: 3\n")
    Path("own_base.yaml").write_text('_BASE_: "own_base.yaml"\n')
    Path("binary.yaml").write_bytes(bytes(range(256)))
    Path("a_file").write_text("text")
