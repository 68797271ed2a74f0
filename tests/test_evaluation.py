"""Each dataset gets its own evaluator, and that one scores what the trainer detects."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator, LVISEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from tiny_run import make_dataset, tiny_config

from cornernet_d2.engine import CornerNetTrainer, evaluation

CLASSES = ["cat", "dog"]
# Class and box (x0 y0 x1 y1, pixels) of the objects of each image.
OBJECTS = [[(0, [4, 6, 30, 40]), (1, [20, 10, 60, 44])], [(1, [8, 8, 40, 36])]]
XML = """<annotation><size><width>64</width><height>48</height></size>{}</annotation>"""
XML_OBJECT = """<object><name>{}</name><pose>Left</pose><truncated>0</truncated>
<difficult>0</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax>
</bndbox></object>"""


@pytest.fixture
def voc(tmp_path: Path) -> Iterator[str]:
    """A dataset in VOC's folders, read without Detectron2 0.6's ``np.str``."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    dicts: list[dict[str, Any]] = []
    for i, objects in enumerate(OBJECTS):
        image = tmp_path / "JPEGImages" / f"{i}.jpg"
        cv2.imwrite(str(image), np.full((48, 64, 3), 90, np.uint8))
        # Pixels are counted from 1 in the files, and the last one belongs to the box.
        rows = [XML_OBJECT.format(CLASSES[c], x0 + 1, y0 + 1, *xy) for c, (x0, y0, *xy) in objects]
        (tmp_path / "Annotations" / f"{i}.xml").write_text(XML.format("".join(rows)))
        annotations = [
            {"category_id": c, "bbox": box, "bbox_mode": BoxMode.XYXY_ABS} for c, box in objects
        ]
        shape = {"image_id": str(i), "height": 48, "width": 64}
        dicts.append({"file_name": str(image), "annotations": annotations, **shape})
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("0\n1\n")
    DatasetCatalog.register("voc_tiny", lambda: dicts)
    MetadataCatalog.get("voc_tiny").set(
        thing_classes=CLASSES,
        dirname=str(tmp_path),
        split="val",
        year=2012,
        evaluator_type="pascal_voc",
    )
    yield "voc_tiny"
    DatasetCatalog.remove("voc_tiny")
    MetadataCatalog.remove("voc_tiny")


class Oracle(torch.nn.Module):
    """Detects what is there, except for ``missed`` of the classes."""

    def __init__(self, missed: list[int]) -> None:
        super().__init__()
        self.missed = missed

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        return [{"instances": self.detect(OBJECTS[int(x["image_id"])])} for x in batched_inputs]

    def detect(self, objects: list[Any]) -> Instances:
        found = [(c, box) for c, box in objects if c not in self.missed]
        instances = Instances((48, 64))
        instances.pred_boxes = Boxes(torch.tensor([box for _, box in found]).reshape(-1, 4))
        instances.pred_classes = torch.tensor([c for c, _ in found], dtype=torch.long)
        instances.scores = torch.full((len(found),), 0.9)
        return instances


@pytest.mark.parametrize("missed, ap", [([], 100.0), ([0], 50.0)])
def test_pascal_voc(voc: str, tmp_path: Path, missed: list[int], ap: float) -> None:
    cfg = tiny_config(str(tmp_path), "DATASETS.TEST", (voc,))
    results = CornerNetTrainer.test(cfg, Oracle(missed))
    assert results["bbox"]["AP"] == pytest.approx(ap)


def test_coco_and_lvis(tmp_path: Path) -> None:
    make_dataset(str(tmp_path))
    cfg = tiny_config(str(tmp_path))
    assert isinstance(CornerNetTrainer.build_evaluator(cfg, "tiny"), COCOEvaluator)
    metadata = MetadataCatalog.get("tiny_lvis")
    metadata.set(evaluator_type="lvis", json_file=str(tmp_path / "tiny.json"))
    try:
        evaluator = CornerNetTrainer.build_evaluator(cfg, "tiny_lvis")
        assert isinstance(evaluator, LVISEvaluator)
    except ModuleNotFoundError as error:  # the lvis package is an option
        assert error.name == "lvis"


class NearlyRight(torch.nn.Module):
    """The boxes of "tiny", moved a little, and as many that are wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.truth = {d["image_id"]: d["annotations"] for d in DatasetCatalog.get("tiny")}
        self.draw = torch.Generator().manual_seed(0)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        return [{"instances": self.detect(x["image_id"])} for x in batched_inputs]

    def detect(self, image_id: int) -> Instances:
        boxes = torch.tensor([obj["bbox"] for obj in self.truth[image_id]], dtype=torch.float32)
        boxes[:, 2:] += boxes[:, :2]
        boxes = torch.cat([boxes, boxes + 9])
        instances = Instances((16, 16))
        instances.pred_boxes = Boxes(boxes + torch.rand(boxes.shape, generator=self.draw))
        instances.pred_classes = torch.zeros(len(boxes), dtype=torch.long)
        instances.scores = torch.rand(len(boxes), generator=self.draw)
        return instances


def test_faster_coco_eval_gives_the_same_numbers(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("faster_coco_eval")
    make_dataset(str(tmp_path))
    cfg = tiny_config(str(tmp_path))
    monkeypatch.setattr(evaluation, "_has_compiled_detectron2", lambda: False)
    results = []
    for there in (True, False):
        monkeypatch.setattr(evaluation, "find_spec", lambda name, there=there: there or None)
        evaluator = CornerNetTrainer.build_evaluator(cfg, "tiny")
        assert isinstance(evaluator, evaluation.FasterCOCOEvaluator) == there
        results.append(CornerNetTrainer.test(cfg, NearlyRight(), [evaluator])["bbox"])
    assert results[0] == pytest.approx(results[1], nan_ok=True)
    assert 5 < results[0]["AP"] < 95
