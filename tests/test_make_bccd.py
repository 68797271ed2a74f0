"""The published blood cells become the files that the config names, and others are not taken."""

import json
from pathlib import Path

import cv2
import make_bccd
import numpy as np
import pytest
from detectron2.data.datasets import load_coco_json

XML = """<annotation><size><width>64</width><height>48</height></size>
<object><name>WBC</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>33</xmax><ymax>24</ymax></bndbox>
</object><object><name>RBC</name><bndbox><xmin>7</xmin><ymin>7</ymin><xmax>7</xmax><ymax>7</ymax>
</bndbox></object></annotation>"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "clone" / "BCCD"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    for split, names in (("train", "b\na\n"), ("val", "c\n")):
        (folder / f"ImageSets/Main/{split}.txt").write_text(names)
        for name in names.split():
            (folder / f"Annotations/{name}.xml").write_text(XML)
            image = np.full((48, 64, 3), ord(name), np.uint8)
            cv2.imwrite(str(folder / f"JPEGImages/{name}.jpg"), image)
    return folder.parent


def test_converts(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sums = {}
    for split in ("train", "val"):
        dataset = make_bccd.convert(source / "BCCD", split)
        sums[split] = make_bccd.checksum(dataset, source / "BCCD/JPEGImages")
    monkeypatch.setattr(make_bccd, "SHA256", sums)
    output = tmp_path / "bccd"
    make_bccd.main([str(source), "--output", str(output)])
    dicts = load_coco_json(str(output / "annotations/train.json"), str(output / "images"))
    assert [Path(d["file_name"]).name for d in dicts] == ["a.jpg", "b.jpg"]
    assert all(Path(d["file_name"]).is_file() for d in dicts)
    (only,) = json.loads((output / "annotations/val.json").read_text())["annotations"]
    assert (only["bbox"], only["area"], only["category_id"]) == ([3, 4, 30, 20], 600, 2)


def test_other_data_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="train is not what the documented results were trained"):
        make_bccd.main([str(source), "--output", str(tmp_path / "bccd")])
    with pytest.raises(SystemExit, match="no clone of BCCD_Dataset"):
        make_bccd.main([str(tmp_path), "--output", str(tmp_path / "bccd")])


def test_every_pixel_counts(source: Path) -> None:
    folder = source / "BCCD"
    dataset = make_bccd.convert(folder, "val")
    before = make_bccd.checksum(dataset, folder / "JPEGImages")
    cv2.imwrite(str(folder / "JPEGImages/c.jpg"), np.zeros((48, 64, 3), np.uint8))
    assert make_bccd.checksum(dataset, folder / "JPEGImages") != before
