"""Own data in one line: every layout reads the same, and a run needs nothing else afterwards."""

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from own_sets import BOXES, CLASSES, LAYOUTS, SIZE, coco, voc_set, yolo_set
from tiny_run import TINY_NETWORK

from cornernet_d2 import model_zoo
from cornernet_d2.checkpoint import load_torch_file
from cornernet_d2.data.annotations import boxes_xyxy
from cornernet_d2.data.files import add_files, register_files
from cornernet_d2.data.recipe import Machine, Statistics, measure, recipe
from cornernet_d2.data.sources import find_data
from cornernet_d2.tools import command


@pytest.fixture(autouse=True)
def catalogs():
    """Names registered by a test are gone after it, and loggers write to no closed terminal."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)
    for name in ("detectron2", "fvcore", "cornernet_d2"):
        logging.getLogger(name).handlers.clear()


def load(files: dict) -> dict[str, list[dict]]:
    add_files(model_zoo.get_config("CornerNet-Small"), files)
    return {name: DatasetCatalog.get(name) for name in files}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_reads_the_same(layout: str, tmp_path: Path) -> None:
    root = LAYOUTS[layout](tmp_path / "my cards", range(3), range(3, 5))
    files = find_data(str(root))
    assert list(files) == ["my_cards_train", "my_cards_val"]
    for dicts, numbers in zip(load(files).values(), (range(3), range(3, 5))):
        assert [Path(d["file_name"]).name for d in dicts] == [f"{i}.png" for i in numbers]
        for d in dicts:
            assert (d["height"], d["width"]) == SIZE and Path(d["file_name"]).is_file()
            np.testing.assert_allclose(boxes_xyxy(d["annotations"]), BOXES, atol=1e-9)
            assert [obj["category_id"] for obj in d["annotations"]] == [0, 1]
    assert all(MetadataCatalog.get(name).thing_classes == list(CLASSES) for name in files)


def test_a_tenth_is_held_out_where_no_validation_set_is(tmp_path: Path) -> None:
    coco(tmp_path / "all.json", tmp_path / "pictures", range(20))
    with pytest.raises(ValueError, match="all.json: 0.png is not found; give --images FOLDER"):
        find_data(str(tmp_path / "all.json"))
    files = find_data(str(tmp_path / "all.json"), images=str(tmp_path / "pictures"))
    train, val = ([d["image_id"] for d in dicts] for dicts in load(files).values())
    assert val == [9, 19] and sorted(train + val) == list(range(20))


def test_val_names_another_json(tmp_path: Path) -> None:
    coco(tmp_path / "a.json", tmp_path, range(3))
    coco(tmp_path / "b.json", tmp_path, range(3, 5))
    files = find_data(str(tmp_path / "a.json"), val=str(tmp_path / "b.json"))
    assert [len(dicts) for dicts in load(files).values()] == [3, 2]


def test_faults_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no dataset of a known kind"):
        find_data(str(tmp_path))
    (tmp_path / "data.yaml").write_text("train: [")
    with pytest.raises(ValueError, match="data.yaml is no yaml file"):
        find_data(str(tmp_path))
    file = yolo_set(tmp_path / "yolo", range(2), range(2, 3))
    label = tmp_path / "yolo" / "train" / "labels" / "1.txt"
    for line, reason in (("7 0 0 0 0", "2 classes"), ("0 a", "not all numbers"), ("0 1", "give")):
        label.write_text(line)
        with pytest.raises(ValueError, match=f"1.txt, line 1: .*{reason}"):
            load(find_data(str(file)))
    label.write_text("0 0 0 0.5 0 0.5 0.25")  # a polygon
    dicts = load(find_data(str(file)))["yolo_train"]
    np.testing.assert_allclose(boxes_xyxy(dicts[1]["annotations"]), [[0, 0, 64, 24]])
    root = voc_set(tmp_path / "voc", range(2), range(2, 3))
    files = find_data(str(root))
    (root / "Annotations" / "0.xml").write_text("<annotation>")
    with pytest.raises(ValueError, match="cannot read .*0.xml"):
        load(files)


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"FORMAT": "coco", "IMAGES": "x"}, "has no ANNOTATIONS"),
        ({"FORMAT": "tar", "IMAGES": "x"}, "FORMAT is 'tar'"),
        ({"FORMAT": "coco", "IMAGE": "x"}, "DATASETS.FILES.mine is"),
    ],
)
def test_wrong_entries_of_a_config(entry: dict, message: str) -> None:
    cfg = model_zoo.get_config("CornerNet-Small")
    cfg.DATASETS.FILES["mine"] = entry
    with pytest.raises(ValueError, match=message):
        register_files(cfg)


PHOTOS = Statistics(
    images=205,
    height=480,
    width=640,
    turned=False,
    small_side=80,
    log_half_side=3.88,
    most_objects=30,
    alike=15,
)
CPU = Machine("cpu", 8 * 2**30)


def test_recipe_of_the_blood_cells() -> None:
    """The sizes that CornerNet-BCCD was given by hand."""
    values = recipe(PHOTOS, CPU, 64)
    by_hand = model_zoo.get_config("CornerNet-BCCD")
    assert values["INPUT.CORNERNET.CROP.SIZE"] == by_hand.INPUT.CORNERNET.CROP.SIZE
    assert values["INPUT.MIN_SIZE_TEST"] == by_hand.INPUT.MIN_SIZE_TEST
    assert values["INPUT.MAX_SIZE_TEST"] == by_hand.INPUT.MAX_SIZE_TEST
    assert values["MODEL.CORNERNET.LOSS.EMBEDDING_IMAGES"] == 50
    assert values["SOLVER.IMS_PER_BATCH"] == by_hand.SOLVER.IMS_PER_BATCH
    centripetal = model_zoo.get_config("CornerNet-BCCD-centripetal")
    assert values["SOLVER.MAX_ITER"] == centripetal.SOLVER.MAX_ITER
    log_size = values["MODEL.CORNERNET.CENTRIPETAL.LOG_SIZE"]
    assert log_size == pytest.approx(centripetal.MODEL.CORNERNET.CENTRIPETAL.LOG_SIZE, abs=0.01)
    assert np.median(values["INPUT.CORNERNET.CROP.SCALES"]) == 2.0


@pytest.mark.parametrize(
    "change, key, value",
    [
        ({"small_side": 24}, "INPUT.MAX_SIZE_TEST", 427),  # 16 px for small objects
        ({"small_side": 2}, "INPUT.MAX_SIZE_TEST", 480),  # at most 1.5 times
        ({"height": 96, "width": 128}, "INPUT.MAX_SIZE_TEST", 128),  # never enlarged
        ({"turned": True}, "INPUT.CORNERNET.CROP.SIZE", [319, 319]),
        ({"images": 8}, "SOLVER.IMS_PER_BATCH", 2),
        ({"images": 8}, "SOLVER.MAX_ITER", 1500),
        ({"images": 118_287}, "SOLVER.MAX_ITER", 177_500),  # 12 epochs
        ({"most_objects": 200}, "TEST.DETECTIONS_PER_IMAGE", 300),
        ({"alike": 2}, "MODEL.CORNERNET.LOSS.EMBEDDING_IMAGES", 5.0),
    ],
)
def test_recipe_follows_the_data(change: dict, key: str, value: object) -> None:
    assert recipe(dataclasses.replace(PHOTOS, **change), CPU, 64)[key] == value


def test_recipe_follows_the_machine() -> None:
    assert recipe(PHOTOS, Machine("cpu", 2**30), 64)["SOLVER.IMS_PER_BATCH"] == 4
    on_gpu = recipe(PHOTOS, Machine("cuda", 16 * 2**30), 64)
    assert on_gpu["INPUT.MAX_SIZE_TEST"] == 512 and on_gpu["SOLVER.IMS_PER_BATCH"] > 8
    assert on_gpu["MODEL.DEVICE"] == "cuda"


def test_statistics(tmp_path: Path) -> None:
    root = LAYOUTS["coco"](tmp_path / "set", range(4), range(4, 5))
    dicts = load(find_data(str(root)))["set_train"]
    # of the objects, half have a side of 40 pixels, the others of 54.8
    found = measure(dicts)
    assert found.log_half_side == pytest.approx(np.log([20, 20, 25, 30]).mean())
    assert found == Statistics(4, *SIZE, False, 40, found.log_half_side, 2, 1)
    with pytest.raises(ValueError, match="no object in any image"):
        measure([{**d, "annotations": []} for d in dicts])


def test_a_wrong_key_is_one_line(tmp_path: Path, capsys) -> None:
    root = LAYOUTS["coco"](tmp_path / "set", range(4), range(4, 5))
    assert command.main(["train", "--data", str(root), "MODEL.TYPO", "1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "Non-existent key: MODEL.TYPO" in line and "--debug" not in line


SHORT = ("SOLVER.MAX_ITER", 4, "SOLVER.WARMUP_ITERS", 1, "TEST.EVAL_PERIOD", 2)
SHORT += ("MODEL.CORNERNET.TEST.FLIP", False, "SOLVER.CHECKPOINT_PERIOD", 2, "SOLVER.BASE_LR", 1e-3)


def _transfer(weights: str, capsys: pytest.CaptureFixture) -> None:
    """To classes of which the weights know one: one line, and the other class starts anew."""
    coco(Path("pets/train.json"), Path("pets/images"), range(4))
    text = Path("pets/train.json").read_text()
    Path("pets/train.json").write_text(text.replace('"king"', '"queen"'))
    line = ["train", "--data", "pets", "--from", weights, "SOLVER.MAX_ITER", "1"]
    capsys.readouterr()
    assert command.main([*line, "SOLVER.WARMUP_ITERS", "0"]) == 0
    printed = capsys.readouterr().out
    assert "1 of 2" in printed and "classes initialised                queen" in printed
    old, new = (load_torch_file(path)["model"] for path in (weights, "output/pets/start.pth"))
    for key, value in old.items():
        if ".heatmap.1." in key:
            assert torch.equal(value[0], new[key][0]) and not torch.equal(value[1], new[key][1])
        else:
            assert torch.equal(value, new[key])
    saved = yaml.safe_load(Path("output/pets/config.yaml").read_text())
    assert list(saved["DATASETS"]["FILES"]) == ["pets_train", "pets_val"]
    assert saved["MODEL"]["WEIGHTS"] == "output/pets/start.pth"
    assert command.main(["train", "--from", weights, "--config-file", "CornerNet-Small"]) == 1
    assert "--from FILE goes with --data" in capsys.readouterr().err
    assert command.main(["train", "--data", "pets", "--from", "nothing.pth"]) == 1
    assert "nothing.pth does not exist" in capsys.readouterr().err


def test_the_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Train, go on, evaluate, analyze and predict: after the first line nobody names the data."""
    monkeypatch.chdir(tmp_path)
    LAYOUTS["voc beside"](Path("cards"), range(12), range(12, 15))
    network = [*TINY_NETWORK[:-2], *SHORT]  # the classes are those of the data
    assert command.main(["train", "--data", "cards", *map(str, network)]) == 0
    console = capsys.readouterr().out
    head = console[: console.index("Saving checkpoint")].splitlines()
    assert len(head) <= 20 and "12 images, 2 classes" in console
    assert "cornernet predict output/cards/model_best.pth IMAGES" in console
    assert "Running with full config" not in console and "Average Precision" not in console
    log = Path("output/cards/log.txt").read_text()
    assert "Running with full config" in log and "Loading and preparing results" in log
    saved = yaml.safe_load(Path("output/cards/config.yaml").read_text())
    assert saved["DATASETS"]["FILES"]["cards_val"]["CLASSES"] == list(CLASSES)
    assert saved["INPUT"]["CORNERNET"]["CROP"]["SIZE"] == [95, 127]

    for name in ("cards_train", "cards_val"):  # a new process knows nothing
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)
    config = "output/cards/config.yaml"
    more = ["train", "--config-file", config, "--resume", "SOLVER.MAX_ITER", "5"]
    assert command.main(more) == 0
    assert "Starting training from iteration 4" in Path("output/cards/log.txt").read_text()
    # The truth that was converted for evaluation is made anew: the data may have changed.
    converted = Path("output/cards/inference/cards_val/cards_val_coco_format.json")
    assert len(json.loads(converted.read_text())["images"]) == 3
    for path in Path("cards/images/test").glob("14.*"):
        path.unlink()
    weights = "output/cards/model_final.pth"
    assert command.main(["eval", weights]) == 0
    assert len(json.loads(converted.read_text())["images"]) == 2
    assert command.main(["analyze", weights]) == 0
    assert "heatmap, offset" in capsys.readouterr().out
    picture = "cards/images/test/12.png"
    line = ["predict", weights, picture, "--output", "drawn", "--confidence-threshold", "0"]
    assert command.main(line) == 0
    assert Path("drawn/12.png").is_file()
    assert command.main(["check", "--data", "cards"]) == 0
    assert "ceiling" in capsys.readouterr().out
    _transfer(weights, capsys)
    shutil.rmtree("output")
