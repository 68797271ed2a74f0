"""The eight photos of the overfit check come out of COCO's own files, and others are not taken."""

import json
from pathlib import Path

import cv2
import make_bccd
import make_coco8
import numpy as np
import pytest
from detectron2.data.datasets import load_coco_json


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """COCO's layout: three photos, of which two are wanted, and ids of classes with gaps."""
    folder = tmp_path / "train2017"
    folder.mkdir()
    images, annotations = [], []
    for number in (9, 4, 5):
        name = f"{number:012}.jpg"
        cv2.imwrite(str(folder / name), np.full((48, 64, 3), 20 * number, np.uint8))
        images.append({"id": number, "file_name": name, "height": 48, "width": 64, "license": 4})
        obj = {"id": 100 - number, "image_id": number, "category_id": 90, "bbox": [1, 2, 30, 20]}
        annotations.append({**obj, "area": 600.0, "iscrowd": 0, "segmentation": []})
    categories = [{"id": 1, "name": "person"}, {"id": 90, "name": "toothbrush"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    monkeypatch.setattr(make_coco8, "IDS", (4, 9))
    monkeypatch.setattr(
        make_coco8, "SHA256", make_bccd.checksum(make_coco8.select(content), folder)
    )
    return tmp_path


@pytest.mark.parametrize("download", [True, False])
def test_selects(source: Path, monkeypatch: pytest.MonkeyPatch, download: bool) -> None:
    images = source / "train2017"
    monkeypatch.setattr(make_coco8, "URL", f"file://{images}/")
    line = [str(source / "instances.json"), "--output", str(source / "coco8")]
    make_coco8.main(line if download else [*line, "--images", str(images)])
    dicts = load_coco_json(str(source / "coco8/train.json"), str(source / "coco8/images"))
    assert [d["image_id"] for d in dicts] == [4, 9]
    assert [d["annotations"][0]["category_id"] for d in dicts] == [2, 2]  # from 90
    for d in dicts:
        name = Path(d["file_name"]).name
        assert Path(d["file_name"]).read_bytes() == (images / name).read_bytes()


def test_other_data_is_refused(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = [str(source / "instances.json"), "--output", str(source / "coco8")]
    (source / "train2017" / "000000000004.jpg").write_bytes(b"another photo")
    with pytest.raises(SystemExit, match="not what the documented result was trained on"):
        make_coco8.main([*line, "--images", str(source / "train2017")])
    with pytest.raises(SystemExit, match="No such file"):
        make_coco8.main([*line, "--images", str(source)])
    monkeypatch.setattr(make_coco8, "IDS", (4, 8))
    with pytest.raises(SystemExit, match=r"images \[8\] are not in it"):
        make_coco8.main(line)
