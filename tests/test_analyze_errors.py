"""The error analysis: perfect maps decode to the truth, imperfect ones to what the model finds."""

import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances
from tiny_run import TINY_NETWORK

from cornernet_d2 import load_config
from cornernet_d2.engine import CornerNetTrainer
from cornernet_d2.modeling.target_batch import TargetBatch
from cornernet_d2.tools import analyze_errors
from cornernet_d2.tools.analyze_errors import ROWS, perfect_maps

NAME = "errors"
BOXES = [[8, 12, 30, 28], [30, 20, 25, 40], [50, 4, 12, 12]]  # x, y, width, height, pixels


@pytest.fixture
def cfg(tmp_path):
    """An untrained network, its weights in a file, and two images enlarged by 4/3 to test on."""
    rng = np.random.RandomState(0)
    images, annotations = [], []
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"{i}.png"), rng.randint(0, 255, (72, 96, 3), np.uint8))
        images.append({"id": i, "file_name": f"{i}.png", "height": 72, "width": 96})
        for k, box in enumerate(BOXES[i:]):
            row = {"id": len(annotations) + 1, "image_id": i, "category_id": k % 2 + 1}
            row.update(bbox=box, area=box[2] * box[3], iscrowd=0)
            annotations.append(row)
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    register_coco_instances(NAME, {}, str(tmp_path / "truth.json"), str(tmp_path))
    cfg = load_config(
        "CornerNet-Shapes",
        [*TINY_NETWORK, "MODEL.CORNERNET.NUM_CLASSES", 2, "INPUT.MIN_SIZE_TEST", 96]
        + ["INPUT.MAX_SIZE_TEST", 128, "DATASETS.TEST", (NAME,), "DATALOADER.NUM_WORKERS", 0]
        + ["OUTPUT_DIR", str(tmp_path / "output")],
    )
    torch.manual_seed(0)
    model = CornerNetTrainer.build_model(cfg).eval()
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    yield cfg
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_rows(cfg, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(cfg.dump())
    assert analyze_errors.main(["--config-file", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()[-len(ROWS) :]
    table = {line[:40].strip(): [float(value) for value in line[40:].split()] for line in lines}
    assert list(table) == ["nothing"] + [", ".join(row) for row in ROWS[1:]]
    assert table["heatmap, offset, pairing"] == [100.0, 100.0, 100.0]
    assert table["nothing"][0] < 5 and table["heatmap"][1] > table["nothing"][1]
    assert not (tmp_path / "output" / "inference").exists()


def test_nothing_is_the_models_own_result(cfg):
    cfg.MODEL.CORNERNET.TEST.FLIP = False
    model = CornerNetTrainer.build_model(cfg).eval()
    CornerNetTrainer.load_weights(cfg, model)
    expected = CornerNetTrainer.test(cfg, model)["bbox"]
    found = analyze_errors.analyze(cfg, model, NAME)[0]
    assert found["AP"] == pytest.approx(expected["AP"], abs=1e-9)
    assert found["AP50"] == pytest.approx(expected["AP50"], abs=1e-9)


def test_perfect_maps():
    cfg = load_config("CornerNet-Shapes")
    model = CornerNetTrainer.build_model(cfg)
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 33.0, 30.0], [16.0, 8.0, 50.0, 47.0]]))
    instances.gt_classes = torch.tensor([0, 2])
    targets = model.corner_targets([{"instances": instances}], model.canvas([(64, 64)]))
    predicted = {c: {"offset": torch.full((1, 2, 16, 16), 7.0)} for c in ("tl", "br")}
    maps = perfect_maps(TargetBatch.join(targets, torch.device("cpu")), predicted)["tl"]
    embedding = maps["embedding"][0, 0]
    # Corners in columns 2 and 4 of row 2: the one between belongs to the first, 2 cells reach.
    assert embedding[2, :8].nan_to_num(-1).tolist() == [0, 0, 0, 0, 1, 1, 1, -1]
    assert embedding[5].isnan().all() and embedding[4, 2] == 0
    assert maps["offset"][0, :, 2, 2].tolist() == [0, 0] and (maps["offset"][0, :, 9] == 7).all()
    peaks = (maps["heatmap"].sigmoid() > 0.99).nonzero().tolist()
    assert peaks == [[0, 0, 2, 2], [0, 2, 2, 4]]


def test_needs_the_truth(cfg):
    DatasetCatalog.remove(NAME)
    DatasetCatalog.register(NAME, lambda: [{"file_name": "0.png"}])
    with pytest.raises(ValueError, match="errors has images without 'annotations'"):
        analyze_errors.analyze(cfg, None, NAME)
