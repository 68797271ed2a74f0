"""The report on a dataset, and the data benchmark, on sets whose numbers are known."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from cornernet_d2.tools import command
from tests.benchmarks import data as benchmark


@pytest.fixture
def make_set(tmp_path):
    paths = []

    def make(boxes_per_image, categories=("cat", "dog")):
        images, annotations = [], []
        for i, boxes in enumerate(boxes_per_image):
            name = f"{i}.png"
            Image.fromarray(np.full((128, 160, 3), i, np.uint8)).save(tmp_path / name)
            images.append({"id": i + 1, "file_name": name, "height": 128, "width": 160})
            for x, y, w, h, category, crowd in boxes:
                annotations.append(
                    dict(id=len(annotations) + 1, image_id=i + 1, category_id=category,
                         bbox=[x, y, w, h], area=w * h, iscrowd=crowd)  # fmt: skip
                )
        path = tmp_path / f"set{len(paths)}.json"
        path.write_text(
            json.dumps(
                {
                    "images": images,
                    "annotations": annotations,
                    "categories": [{"id": i + 1, "name": n} for i, n in enumerate(categories)],
                }
            )
        )
        paths.append(str(path))
        return ["--data", str(path), "--images", str(tmp_path)]

    yield make
    for path in paths:
        name = Path(path).stem + "_train"
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)


def check(*arguments: str) -> int:
    return command.main(["check", *arguments])


def ceiling(output: str) -> dict[str, float]:
    line = next(line for line in output.splitlines() if line.startswith("ceiling"))
    return {k: float(v) for k, v in (part.split() for part in line.split(": ")[1].split(", "))}


def test_clean_set_reaches_one(make_set, capsys):
    boxes = [
        [(10, 10, 40, 50, 1, 0), (60, 20, 90, 100, 2, 0)],
        [(3.3, 5.7, 20, 20.5, 1, 0), (80, 80, 30, 3, 1, 0), (0, 60, 50, 50, 2, 1)],
        [],
    ]
    assert check(*make_set(boxes), "--read-images") == 0
    output = capsys.readouterr().out
    assert "objects: 4, and 1 crowd or ignored regions; per image 0 to 2" in output
    assert "images without: 1" in output
    assert "image width: 160 to 160" in output
    assert "classes: 2, without an object: 0" in output and "cat " in output
    assert "of 4 objects in 3 images: 0 share a corner cell" in output
    assert "1 have a side below 4 px" in output
    values = ceiling(output)
    assert values["AP"] == values["AR100"] == 1.0


def test_collisions_lower_the_ceiling(make_set, capsys):
    # The first two share their top-left cell, the last two have one cell each.
    boxes = [
        (8, 8, 40, 40, 1, 0), (9, 9, 80, 80, 1, 0), (100, 8, 30, 30, 1, 0), (100, 60, 30, 30, 1, 0)
    ]  # fmt: skip
    assert check(*make_set([boxes], ("cat",))) == 0
    output = capsys.readouterr().out
    assert "of 4 objects in 1 images: 2 share a corner cell" in output
    values = ceiling(output)
    assert values["AR100"] == pytest.approx(0.75)
    assert values["AP"] == pytest.approx(0.75, abs=0.01)


def test_more_objects_than_corners_lower_the_ceiling(make_set, capsys):
    boxes = [(8 + 20 * i, 8, 10, 10, 1, 0) for i in range(4)]
    arguments = [*make_set([boxes], ("cat",)), "MODEL.CORNERNET.TEST.TOP_K", "2"]
    assert check(*arguments) == 0
    output = capsys.readouterr().out
    assert "1 images have more than TOP_K 2" in output
    assert ceiling(output)["AR100"] == pytest.approx(0.5)


def test_faults_end_with_status_1(make_set, capsys):
    assert check(*make_set([[(10, 10, -5, 5, 1, 0)]] * 30)) == 1
    output = capsys.readouterr().out
    assert "cannot be trained on: 30 problems" in output and "and 10 more" in output
    assert "0.png (image id 1), annotation 0" in output and "ceiling" not in output


def test_class_count_of_the_config_is_checked(make_set, capsys):
    arguments = [*make_set([[(10, 10, 5, 5, 1, 0)]]), "MODEL.CORNERNET.NUM_CLASSES", "80"]
    assert check(*arguments) == 1
    assert "has 2 classes (cat, dog), the model 80" in capsys.readouterr().out


def test_set_without_objects_is_refused(make_set, capsys):
    assert check(*make_set([[], []])) == 1
    assert "set0.json: 'annotations' is empty" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["{", "[]", '{"images": []}', None])
def test_no_coco_file_is_one_line(tmp_path, content, capsys):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    assert check("--data", str(path)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "a.json" in line


def test_what_is_put_right_on_loading_is_said(make_set, capsys):
    arguments = make_set([[(10, 10, 40, 50, 1, 0), (60, 20, 90, 100, 2, 0)]])
    path = Path(arguments[1])
    data = json.loads(path.read_text())
    for i, obj in enumerate(data["annotations"]):
        obj["id"] = i
        del obj["area"], obj["iscrowd"]
    path.write_text(json.dumps(data))
    assert check(*arguments) == 0
    output = capsys.readouterr().out
    for note in ("COCO's evaluation takes 0 for no match", "have no number as area", "no iscrowd"):
        assert f"{path}: " in output and note in output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere"], "cornernet check: no dataset 'nowhere' is registered"),
        ([], "cornernet check: give --data"),
        (["a", "--data", "b"], "not both"),
    ],
)
def test_what_is_not_there_is_one_line(arguments, message, capsys):
    assert check(*arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_benchmark_compares_the_same_work(capsys):
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    arguments = parser.parse_args(["--images", "6", "--batch-size", "2", "--repeats", "1"])
    assert benchmark.run(arguments) == 0
    output = capsys.readouterr().out
    names = ("paper's sampler", "CornerNetDatasetMapper", "ratio")
    rows = {name: row.split() for row in output.splitlines() for name in names if name in row}
    assert float(rows["paper's sampler"][-1]) > 5 * float(rows["CornerNetDatasetMapper"][-1])
    assert all(float(rows[name][-2]) > 0 for name in names[:2])


def test_benchmark_baseline_draws_what_the_targets_draw():
    boxes = np.array([[10.0, 20, 100, 200, 3], [0, 0, 510, 510, 7], [50, 60, 55, 63, 3]])
    output = {
        "heat": np.zeros((2, 80, 128, 128), np.float32),
        "tags": np.zeros((2, 128), np.int64),
        "offsets": np.zeros((2, 128, 2), np.float32),
        "mask": np.zeros(128, np.uint8),
    }
    benchmark._draw_targets(boxes, output)
    generator = benchmark.CornerNetDatasetMapper(benchmark._config(), True).target_generator
    targets = generator(boxes[:, :4], boxes[:, 4], (511, 511))
    np.testing.assert_array_equal(targets.cells.T, output["tags"][:, :3])
    np.testing.assert_allclose(targets.dense_heatmaps(), output["heat"], atol=1e-6)
