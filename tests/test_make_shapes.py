"""The synthetic dataset: what it promises, checked on files it wrote."""

import json
from pathlib import Path

import cv2
import make_shapes as module
import numpy as np
import pytest
from make_shapes import CATEGORIES, Settings, draw_image, main, make_shapes

SMALL = Settings(train=12, val=4, size=64)


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "shapes"
    assert make_shapes(folder, SMALL)
    return folder


def test_equal_settings_give_equal_files_and_other_seeds_other_files(
    shapes: Path, tmp_path: Path
) -> None:
    make_shapes(tmp_path / "again", SMALL)
    assert _files(tmp_path / "again") == _files(shapes)
    make_shapes(tmp_path / "other", Settings(train=12, val=4, size=64, seed=1))
    assert _files(tmp_path / "other")["images/val_00000.png"] != (
        (shapes / "images" / "val_00000.png").read_bytes()
    )


def test_number_of_images_does_not_change_those_before(shapes: Path, tmp_path: Path) -> None:
    make_shapes(tmp_path / "fewer", Settings(train=3, val=1, size=64))
    fewer, all_of_them = _files(tmp_path / "fewer"), _files(shapes)
    pictures = [name for name in fewer if name.endswith(".png")]
    assert len(pictures) == 4
    assert all(fewer[name] == all_of_them[name] for name in pictures)


def test_detectron2_loads_it(shapes: Path) -> None:
    from detectron2.data.datasets import load_coco_json

    for split, number in (("train", 12), ("val", 4)):
        annotations = str(shapes / "annotations" / f"{split}.json")
        dicts = load_coco_json(annotations, str(shapes / "images"), f"make_shapes_test_{split}")
        assert len(dicts) == number
        for item in dicts:
            picture = cv2.imread(str(item["file_name"]))
            assert picture.shape == (item["height"], item["width"], 3) == (64, 64, 3)
            assert item["annotations"]
            for annotation in item["annotations"]:
                x, y, width, height = annotation["bbox"]
                assert min(x, y) >= 0 and min(width, height) > 0
                assert max(x + width, y + height) <= 64
                assert 0 <= annotation["category_id"] < len(CATEGORIES)


def test_boxes_enclose_exactly_what_is_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a black background without noise the picture itself tells where one object is."""

    class Quiet:
        """A generator whose noise is zero."""

        def __init__(self, seed: int) -> None:
            self._rng = np.random.default_rng(seed)

        def __getattr__(self, name: str):
            return getattr(self._rng, name)

        def normal(self, mean: float, std: float, shape: tuple) -> np.ndarray:
            return np.zeros(shape)

    monkeypatch.setattr(module, "_background", lambda rng, size: np.zeros((size, size, 3)))
    for seed in range(30):
        picture, (item,) = draw_image(Quiet(seed), 64, 1)
        ys, xs = np.nonzero(picture.max(2) > 0)
        x, y, width, height = item["bbox"]
        low, high = (x, y), (x + width, y + height)
        # a pixel counts as touched from any share on; faint shares may round to black
        assert 0 <= xs.min() - np.floor(low[0]) <= 1 and 0 <= ys.min() - np.floor(low[1]) <= 1
        assert 0 <= np.ceil(high[0]) - 1 - xs.max() <= 1
        assert 0 <= np.ceil(high[1]) - 1 - ys.max() <= 1
        assert item["area"] == width * height


def test_default_set_has_every_class_size_and_overlap() -> None:
    boxes, classes, overlapping = [], set(), 0
    for index in range(60):
        _, items = draw_image(np.random.default_rng((0, 0, index)), 128, 6)
        corners = [(x, y, x + w, y + h) for x, y, w, h in (item["bbox"] for item in items)]
        overlapping += any(
            a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
            for i, a in enumerate(corners)
            for b in corners[:i]
        )
        boxes += [item["area"] for item in items]
        classes |= {item["category_id"] for item in items}
    assert classes == set(range(1, len(CATEGORIES) + 1))
    assert min(boxes) < 32**2 and max(boxes) > 96**2
    assert overlapping > 20


def test_reuses_its_own_and_refuses_everything_else(shapes: Path, tmp_path: Path) -> None:
    before = _files(shapes)
    assert not make_shapes(shapes, SMALL)
    with pytest.raises(ValueError, match="other settings"):
        make_shapes(shapes, Settings(train=13, val=4, size=64))
    foreign = tmp_path / "mine"
    (foreign / "images").mkdir(parents=True)
    (foreign / "images" / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(ValueError, match="choose another --output"):
        make_shapes(foreign, SMALL)
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ValueError, match="choose another --output"):
        make_shapes(tmp_path / "file", SMALL)
    assert _files(foreign) == {"images/holiday.jpg": b"precious"}
    assert _files(shapes) == before


def test_a_stopped_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "draw_image", stop)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "data" / "shapes", SMALL)
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("flag", ["--train=0", "--val=-1", "--size=8", "--objects=0"])
def test_impossible_settings_are_refused(flag: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([f"--output={tmp_path / 'shapes'}", flag])
    assert not (tmp_path / "shapes").exists()


def test_command_line_writes_under_detectron2_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    for word in ("wrote", "reusing"):
        main(["--train=2", "--val=1", "--size=32"])
        assert capsys.readouterr().out.startswith(word)
    data = json.loads((tmp_path / "shapes" / "annotations" / "val.json").read_text())
    assert len(data["images"]) == 1
