"""COCO json files: sound ones load, others end in one line that names file and place."""

import copy
import json
import logging

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from cornernet_d2 import model_zoo
from cornernet_d2.data.coco import check_files, coco_problems, load_dataset, read_coco, repair
from cornernet_d2.data.validation import dataset_problems
from cornernet_d2.engine.evaluation import build_evaluator
from cornernet_d2.tools import command

NAME = "coco_files_test"


def sound() -> dict:
    boxes = [[1, 2, 20, 25], [30, 10.5, 12, 20], [5, 5, 8, 9], [40, 30, 16, 10]]
    return {
        "info": {},
        "images": [{"id": i, "file_name": f"{i}.png", "height": 48, "width": 64} for i in (3, 5)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": 3 + 2 * (i % 2),
                "category_id": 7 + 2 * (i // 2),
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
                "segmentation": [[1, 1, 9, 1, 9, 9]],
            }
            for i, box in enumerate(boxes)
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("coco")
    for i in (3, 5):
        Image.new("RGB", (64, 48), (i, 99, 9)).save(path / f"{i}.png")
    return path


@pytest.fixture
def register(folder):
    json_file = folder / "set.json"

    def write(data: object) -> str:
        json_file.write_text(data if isinstance(data, str) else json.dumps(data))
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop(NAME, None)
        register_coco_instances(NAME, {}, str(json_file), str(folder))
        return str(json_file)

    yield write
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop(NAME, None)


def changed(*path_and_value: object) -> dict:
    """The sound set with the value at a path replaced, or deleted if it is ``...``."""
    *path, last, value = path_and_value
    data = sound()
    parent = data
    for key in path:
        parent = parent[key]
    if value is ...:
        del parent[last]
    else:
        parent[last] = value
    return data


def test_a_sound_file_has_no_problem_and_is_left_alone(register):
    data = sound()
    assert list(coco_problems(data, "x.json")) == [] and data == sound() and repair(data) == []
    register(data)
    dicts, problems = load_dataset(NAME)
    assert problems == [] and [len(d["annotations"]) for d in dicts] == [2, 2]


FAULTS = [
    (("annotations", 1, "image_id", 4), "annotations[1].image_id is 4, which is no image's id"),
    (("annotations", 1, "image_id", "3"), "annotations[1].image_id is '3', which is no image's id "
     "of the same type"),
    (("annotations", 1, "image_id", [3]), "annotations[1].image_id is [3], which"),
    (("annotations", 1, "image_id", ...), "annotations[1].image_id is missing, which"),
    (("annotations", 2, "category_id", 1), "annotations[2].category_id is 1, which is no category"),
    (("annotations", 0, "bbox", [1, 2, 3]), "annotations[0].bbox is [1, 2, 3]; give x, y"),
    (("annotations", 0, "bbox", ["1", 2, 3, 4]), "annotations[0].bbox is"),
    (("annotations", 0, "bbox", [float("nan"), 2, 3, 4]), "annotations[0].bbox is [nan"),
    (("annotations", 0, "bbox", [10**400, 2, 3, 4]), "annotations[0].bbox is [1000"),
    (("annotations", 0, "bbox", ...), "annotations[0].bbox is missing"),
    (("annotations", 3, "iscrowd", "0"), "annotations[3].iscrowd is '0'; give 0 or 1"),
    (("annotations", 3, "ignore", 1), "annotations[3].ignore is set, which Detectron2 refuses"),
    (("annotations", 3, "id", 1), "annotations[3].id 1 is also that of annotations[0]"),
    (("annotations", 3, "id", ...), "annotations[3].id is missing"),
    (("annotations", 3, "segmentation", [1, 2]), "annotations[3].segmentation is [1, 2]"),
    (("annotations", 3, "segmentation", [[1, 2]]), "annotations[3].segmentation has no polygon"),
    (("annotations", 3, "segmentation", {"counts": [9], "size": [48, 64]}), "is no mask"),
    (("annotations", 3, "keypoints", "abc"), "annotations[3].keypoints is 'abc'"),
    (("annotations", 3, 5), "annotations[3] is 5, not an object"),
    (("annotations", []), "'annotations' is empty"),
    (("annotations", {}), "'annotations' is {}, not a list"),
    (("images", 0, "id", 5), "images[1].id 5 is also that of images[0]"),
    (("images", 0, "id", "3"), "ids of images are numbers and strings"),
    (("images", 0, "id", {}), "images[0].id is {}; give a number"),
    (("images", 0, "width", ...), "images[0].width is missing"),
    (("images", 0, "height", "48"), "images[0].height is '48'"),
    (("images", 0, "file_name", ...), "images[0].file_name is missing"),
    (("images", 0, "file_name", "\ud800.png"), "images[0].file_name is '\\ud800.png'"),
    (("images", []), "'images' is empty"),
    (("categories", 0, "name", None), "categories[0].name is missing"),
    (("categories", 0, "id", 9), "categories[1].id 9 is also that of categories[0]"),
    (("categories", ...), "'categories' is missing, not a list"),
]  # fmt: skip


@pytest.mark.parametrize("change, message", FAULTS, ids=[str(change) for change, _ in FAULTS])
def test_faults_are_named_with_their_place(register, change, message):
    json_file = register(changed(*change))
    _, problems = load_dataset(NAME)
    (text,) = (str(p) for p in problems if p.fatal and message in str(p))
    assert text.startswith(json_file) and "\n" not in text
    with pytest.raises(ValueError, match="cannot be trained on"):
        check_files([NAME])


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"images": [,]}', "line 1 column 13: no valid json"),
        ("", "line 1 column 1: no valid json"),
        ("\ufeff" + json.dumps([]), "holds [], not an object with the lists"),
        ("[" * 100_000, "cannot read .*RecursionError"),
        ('{"a": ' + "9" * 5000 + "}", "cannot read .*ValueError"),
    ],
)
def test_what_is_no_json(register, text, message):
    json_file = register(text)
    with pytest.raises(ValueError) as error:
        read_coco(json_file)
    assert message.split(".*")[-1] in str(error.value) and json_file in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "path, values",
    [(("id",), [0, 1, 2, 3]), (("id",), [-1, 5, 6, 7]), (("area",), ["500"] * 4),
     (("area",), [...] * 4), (("iscrowd",), [...] * 4), (("iscrowd",), [None] * 4)],
)  # fmt: skip
def test_perfect_detections_score_one_whatever_was_left_out(
    register, path, values, caplog, tmp_path
):
    """With an annotation id 0 they scored less, without area or iscrowd COCO's code crashed."""
    data = sound()
    for obj, value in zip(data["annotations"], values):
        obj[path[0]] = value
        if value is ...:
            del obj[path[0]]
    register(data)
    with caplog.at_level(logging.WARNING, "cornernet_d2"):
        check_files([NAME])
    assert "can be trained on, but" in caplog.text
    DatasetCatalog.get(NAME)
    evaluator = build_evaluator(model_zoo.get_config("CornerNet-HG104"), NAME, str(tmp_path))
    evaluator.reset()
    evaluator._predictions = [
        {
            "image_id": image_id,
            "instances": [
                {"image_id": image_id, "category_id": (o["category_id"] - 7) // 2,
                 "bbox": o["bbox"], "score": 0.9}
                for o in data["annotations"] if o["image_id"] == image_id
            ],
        }
        for image_id in (3, 5)
    ]  # fmt: skip
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 10), st.floats(), st.text(max_size=3),
    st.just(10**400), st.just({}), st.just([]), st.just({"id": 1}), st.just([[]]), st.just([1, 2]),
    st.just([0, 0, 1e308, 1e308]), st.just("3"), st.just({"counts": "a", "size": [1, 1]}),
)  # fmt: skip


def places(value: object, path: tuple = ()) -> list[tuple]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, child in items:
        found.append((*path, key))
        if isinstance(child, (dict, list)):
            found += places(child, (*path, key))
    return found


PLACES = places(sound())


@st.composite
def mutated(draw: st.DrawFn) -> dict:
    data = sound()
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(PLACES))
        parent = data
        try:
            for key in path:
                parent = parent[key]
            old = parent[last]
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
        kind = draw(st.sampled_from(["replace", "delete", "repeat", "rename"]))
        if kind == "replace":
            parent[last] = draw(JUNK)
        elif kind == "delete":
            del parent[last]
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(old))
        else:
            parent[f"{last}s"] = parent.pop(last)
    return data


@settings(
    derandomize=True,
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(mutated())
def test_no_malformed_file_ends_in_a_traceback(register, folder, data):
    json_file = register(data)
    dicts, problems = load_dataset(NAME)
    fatal = [str(p) for p in problems if p.fatal]
    assert all(text.startswith(json_file) and "\n" not in text for text in fatal)
    if not fatal:  # then Detectron2 and pycocotools drop nothing
        assert sum(len(d["annotations"]) for d in dicts) == len(COCO(json_file).anns)
        classes = MetadataCatalog.get(NAME).thing_classes
        found = list(dataset_problems(dicts, len(classes), classes, check_sizes=True))
        assert all("\n" not in str(p) for p in found)


@pytest.mark.parametrize("seed", range(12))
def test_the_report_survives_what_the_mutations_leave(folder, seed, capsys):
    rng = np.random.RandomState(seed)
    data = sound()
    for _ in range(2):
        *path, last = PLACES[rng.randint(len(PLACES))]
        parent = data
        for key in path:
            parent = parent[key] if isinstance(parent, (dict, list)) else {}
        if isinstance(parent, dict) and last in parent:
            parent[last] = [1, "x", None, -5.5][rng.randint(4)]
    (folder / "report.json").write_text(json.dumps(data))
    arguments = ["--data", str(folder / "report.json"), "--images", str(folder)]
    assert command.main(["check", *arguments]) in (0, 1)
    output = capsys.readouterr()
    assert "report" in output.out + output.err and output.err.count("cornernet check: ") <= 1
    assert "--debug" not in output.err  # that would be an error of ours
