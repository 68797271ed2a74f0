"""The overfit check: which images it takes, and that it trains and scores on them."""

import json

import cv2
import numpy as np
import pytest
from tiny_run import TINY_NETWORK

from cornernet_d2 import load_config
from cornernet_d2.tools import command, overfit

TINY = list(map(str, TINY_NETWORK[:-2]))  # the classes are those of the data
TINY += ["INPUT.MIN_SIZE_TRAIN", "(0,)", "INPUT.MIN_SIZE_TEST", "0"]
TINY += ["SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "0"]


@pytest.fixture
def dataset(tmp_path):
    """Four images; the first shows nothing, the second only a crowd."""
    rng = np.random.RandomState(0)
    images, annotations = [], []
    for i in range(4):
        name = f"{i}.png"
        cv2.imwrite(str(tmp_path / name), rng.randint(0, 255, (32, 48, 3), np.uint8))
        images.append({"id": i, "file_name": name, "height": 32, "width": 48})
        if i:
            box = {"bbox": [4, 4, 20, 20], "area": 400, "iscrowd": int(i == 1)}
            annotations.append({"id": i, "image_id": i, "category_id": 7, **box})
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 7, "name": "thing"}]
    path = tmp_path / f"{tmp_path.name}.json"
    path.write_text(json.dumps(content))
    return path


def test_trains_on_the_first_images_with_objects(dataset, tmp_path, capsys):
    arguments = ["overfit", "--data", str(dataset), "--number", "2"]
    assert command.main([*arguments, "OUTPUT_DIR", str(tmp_path / "output"), *TINY]) == 0
    assert "on the 2 training images" in capsys.readouterr().out
    assert (tmp_path / "output" / "model_final.pth").is_file()


def test_images_without_objects_are_refused(monkeypatch):
    monkeypatch.setattr(overfit.DatasetCatalog, "get", lambda name: [{"annotations": []}])
    with pytest.raises(ValueError, match="no image with an object"):
        overfit.register_first("empty", 8)


def test_config_trains_without_chance():
    cfg = load_config("CornerNet-Overfit.yaml")
    assert cfg.INPUT.RANDOM_FLIP == "none" and not cfg.INPUT.CORNERNET.CROP.ENABLED
    assert cfg.INPUT.CORNERNET.COLOR_JITTER == cfg.INPUT.CORNERNET.LIGHTING == 0
