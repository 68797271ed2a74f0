"""The report on a dataset, and the data benchmark, on sets whose numbers are known."""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from cornernet_d2.diagnosis.dataset import look_alikes
from cornernet_d2.tools import command
from tests.benchmarks import check as check_benchmark
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
    parts = (part.split() for part in line.split(": ")[1].split(", "))
    return {name: float("nan") if value == "none" else float(value) for name, value in parts}


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
    assert math.isnan(values["APl"])  # there are no large objects


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


def _checked(make_set, tmp_path, boxes, *arguments, categories=("cat", "dog")):
    """Exit status, numbers and page of a check with reports."""
    files = tmp_path / "report.html", tmp_path / "report.json"
    report = ["--html", str(files[0]), "--json", str(files[1]), "--overwrite"]
    status = check(*make_set(boxes, categories), *report, *arguments)
    return status, json.loads(files[1].read_text()), files[0].read_text()


def test_report_holds_the_numbers_and_advice(make_set, tmp_path):
    crowd = [(8 + 12 * i, 8, 10, 10, 1, 0) for i in range(8)]
    boxes = [[*crowd, (8, 9, 60, 60, 2, 0)], [(0, 0, 40, 40, 2, 0), (5, 50, 40, 40, 2, 1)], []]
    arguments = ["INPUT.MIN_SIZE_TEST", "64", "MODEL.CORNERNET.TEST.TOP_K", "4"]
    status, content, page = _checked(make_set, tmp_path, boxes, *arguments)
    assert status == 0
    found = content["set0_train"]
    assert (found["images"], found["objects"], found["ignored"]) == (3, 10, 1)
    assert found["images_without_objects"] == 1
    # At half the size, the first cat and the large dog share the cell of their top-left corners.
    assert found["classes"]["cat"] == {"objects": 8, "share_a_corner_cell": 1}
    assert found["classes"]["dog"] == {"objects": 2, "share_a_corner_cell": 1}
    assert list(found["ceilings"]) == ["0.5", "1", "1.5", "2"]
    keys = {key: value for each in found["advice"] for key, value in each["keys"].items()}
    assert keys["MODEL.CORNERNET.TEST.TOP_K"] == keys["TEST.DETECTIONS_PER_IMAGE"] == 50
    assert keys["MODEL.CORNERNET.PAIRING"] == "centripetal"
    # 10 pixels, halved, are 1.25 cells: 2 cells are wanted, of which 64 becomes 102.
    assert keys["INPUT.MIN_SIZE_TEST"] == 102 and keys["INPUT.MAX_SIZE_TEST"] == 128
    text = " ".join(each["text"] for each in found["advice"])
    assert "2 classes have fewer than 20 objects: cat, dog" in text and "9% of the boxes" in text
    assert "MODEL.CORNERNET.TEST.TOP_K &quot;50&quot;" in page
    assert page.count("<img") == page.count("data:image/") >= 5
    assert page.index("Faults") < page.index("Advice")


def test_faults_come_first_and_alone_where_nothing_else_can_be_said(make_set, tmp_path):
    status, content, page = _checked(make_set, tmp_path, [[(10, 10, -5, 5, 1, 0)]] * 2)
    assert status == 1 and "<img" not in page
    assert len(content["set0_train"]["problems"]["cannot_be_trained_on"]) == 2
    assert "0.png (image id 1), annotation 0" in page


def test_strict_ends_with_1_for_any_fault(make_set, capsys):
    arguments = make_set([[(10, 10, 40, 50, 1, 0)] * 2])
    assert check(*arguments) == 0 and check(*arguments, "--strict") == 1
    assert "same box and class" in capsys.readouterr().out


def test_annotations_alone_need_no_file(make_set, tmp_path):
    arguments = make_set([[(10, 10, 40, 50, 1, 0)]])
    (tmp_path / "0.png").unlink()
    assert check(*arguments) == 1
    page = tmp_path / "a.html"
    assert check(*arguments, "--no-images", "--html", str(page)) == 0
    assert "Images were not looked at" in page.read_text()


def test_files_are_not_overwritten(make_set, tmp_path, capsys):
    (tmp_path / "a.html").write_text("mine")
    assert check(*make_set([[(10, 10, 40, 50, 1, 0)]]), "--html", str(tmp_path / "a.html")) == 1
    assert "a.html exists" in capsys.readouterr().err


def test_images_that_look_alike_are_found_in_one_set_and_in_two(tmp_path):
    pytest.importorskip("imagehash")
    rng = np.random.default_rng(0)
    pictures = [np.kron(rng.integers(0, 256, (6, 8)), np.ones((20, 20))) for _ in range(4)]
    noisy = (pictures[1] + rng.normal(0, 3, pictures[1].shape)).clip(0, 255)
    brighter = (pictures[2] + 40).clip(0, 255)  # of a like hash, and another picture
    files = {}
    for i, picture in enumerate(
        [*pictures, noisy, brighter, np.zeros((9, 9)), np.full((9, 9), 99)]
    ):
        files[i] = str(tmp_path / f"{i}.png")
        Image.fromarray(picture.astype(np.uint8)).save(files[i])
    gone = str(tmp_path / "gone.png")
    sets = {"a": [gone, files[0], files[1], files[4], files[6]], "b": [files[2], files[5]]}
    sets["b"] += [files[7], files[0]]
    found = look_alikes(sets)
    assert found.looked_at == 8
    assert found.within == [("a", 2, 3)] and found.between == [("a", 1, "b", 3)]


def test_the_benchmark_of_the_check_measures_it(capfd):
    assert check_benchmark.run(argparse.Namespace(images=40, objects=200)) == 0
    assert "40 images, 200 objects" in capfd.readouterr().out
