"""`predict` and the contact sheet on an untrained model, whose detections are many and known."""

import csv
import errno
import json
import os
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from make_shapes import Settings, make_shapes
from PIL import Image
from tiny_run import tiny_network

from cornernet_d2 import build_predictor, class_names, load, load_config, model_zoo
from cornernet_d2.checkpoint import CornerNetCheckpointer
from cornernet_d2.modeling import CornerNet
from cornernet_d2.predictor.results import class_thresholds, select
from cornernet_d2.tools import command, contact_sheet, predict
from cornernet_d2.visualize import draw_instances

CONFIG = "CornerNet-Shapes"


def _main(module: ModuleType, name: str, arguments: list[str]) -> None:
    """`cornernet NAME ARGUMENTS`, whose error ends the program with its text."""
    args = command.parse(module, name, arguments)
    try:
        module.run(args)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{name}: {error}") from error


# Drawing takes the time; numbers of all machines alike.
FEW = ("TEST.DETECTIONS_PER_IMAGE", "8", "MODEL.CORNERNET.TEST.FAST", "False")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    DetectionCheckpointer(model_zoo.get(CONFIG, device="cpu"), str(folder)).save("model")
    return str(folder / "model.pth")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures of different sizes and kinds, and a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "a.png"), rng.integers(0, 256, (64, 96, 3), np.uint8))
    cv2.imwrite(str(folder / "b.jpg"), rng.integers(0, 256, (90, 50), np.uint8))
    cv2.imwrite(str(folder / "c.PNG"), rng.integers(0, 256, (40, 40, 4), np.uint8))
    (folder / "notes.txt").write_text("not an image")
    return folder


def _run(*arguments: object, weights: str, config: str = CONFIG) -> None:
    flags = ["--config-file", config, *map(str, arguments)]
    _main(
        predict, "predict", [*flags, "--confidence-threshold", "0", "MODEL.WEIGHTS", weights, *FEW]
    )


def load_instances(scores: list[float], classes: list[int]) -> Instances:
    found = Instances((9, 9), pred_boxes=Boxes(torch.zeros(len(scores), 4)))
    found.scores, found.pred_classes = torch.tensor(scores), torch.tensor(classes)
    return found


def _make_video(path: Path, frames: int = 3) -> None:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 5.0, (96, 64))
    for index in range(frames):
        frame = np.full((64, 96, 3), 40, np.uint8)
        cv2.rectangle(frame, (10 + 5 * index, 10), (50 + 5 * index, 50), (0, 0, 255), -1)
        writer.write(frame)
    writer.release()


def test_an_image_shows_what_the_model_finds(photos: Path, tmp_path: Path, weights: str) -> None:
    _run("--input", photos / "a.png", "--output", tmp_path / "out.png", weights=weights)
    cfg = load_config(CONFIG, ["MODEL.WEIGHTS", weights, *FEW])
    picture = cv2.imread(str(photos / "a.png"))
    found = DefaultPredictor(cfg)(picture)["instances"]
    assert len(found) == 8
    expected = draw_instances(np.ascontiguousarray(picture[..., ::-1]), found, class_names(cfg))
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out.png"))[..., ::-1], expected)


def test_a_folder_is_drawn_whole_and_other_files_are_skipped(
    photos: Path, tmp_path: Path, weights: str, capsys: pytest.CaptureFixture
) -> None:
    _run("--input", photos, "--output", tmp_path / "new" / "out", weights=weights)
    written = sorted(path.name for path in (tmp_path / "new" / "out").iterdir())
    assert written == ["a.png", "b.jpg", "c.PNG"]
    model, *lines = capsys.readouterr().out.splitlines()
    assert model == f"{weights}: 4 classes: ellipse, rectangle, triangle, cross"
    assert [line.split()[0] for line in lines] == ["[1/3,", "[2/3,", "[3/3]"]
    assert all(": 8 objects, " in line for line in lines)


def test_a_config_may_be_given_by_path(photos: Path, tmp_path: Path, weights: str) -> None:
    path = model_zoo.get_config_file(CONFIG)
    arguments = ("--input", photos / "a.png", "--output", tmp_path / "out.png")
    _run(*arguments, weights=weights, config=path)
    assert (tmp_path / "out.png").is_file()


def test_a_video_becomes_a_video_of_as_many_frames(tmp_path: Path, weights: str) -> None:
    _make_video(tmp_path / "in.mp4")
    _run("--video-input", tmp_path / "in.mp4", "--output", tmp_path / "out.mp4", weights=weights)
    before, after = (cv2.VideoCapture(str(tmp_path / name)) for name in ("in.mp4", "out.mp4"))
    assert after.get(cv2.CAP_PROP_FPS) == 5.0
    for _ in range(3):
        (_, plain), (there, drawn) = before.read(), after.read()
        assert there and drawn.shape == (64, 96, 3)
        assert (np.abs(plain.astype(int) - drawn).max(2) > 40).mean() > 0.02  # boxes and labels
    assert not after.read()[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_webcam_frames_are_shown_until_escape(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, weights: str
) -> None:
    _make_video(tmp_path / "in.mp4")
    capture, shown = cv2.VideoCapture(str(tmp_path / "in.mp4")), []
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: capture if source == 2 else None)
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, frame: shown.append(frame))
    monkeypatch.setattr(cv2, "waitKey", lambda _: predict.ESCAPE if len(shown) == 2 else -1)
    _run("--webcam", "--camera", 2, weights=weights)
    assert [frame.shape for frame in shown] == [(64, 96, 3)] * 2


def test_without_a_window_the_message_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, photos: Path, weights: str
) -> None:
    def refuse(*_: object) -> None:
        raise cv2.error("The function is not implemented")

    monkeypatch.setattr(cv2, "namedWindow", refuse)
    with pytest.raises(SystemExit, match="give --output"):
        _run("--input", photos / "a.png", weights=weights)


def test_nothing_is_overwritten_unasked(photos: Path, tmp_path: Path, weights: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "b.jpg").write_text("precious")
    with pytest.raises(SystemExit, match="b.jpg exists.*--overwrite"):
        _run("--input", photos, "--output", out, weights=weights)
    assert [path.name for path in out.iterdir()] == ["b.jpg"]
    assert (out / "b.jpg").read_text() == "precious"
    _run("--input", photos, "--output", out, "--overwrite", weights=weights)
    assert cv2.imread(str(out / "b.jpg")) is not None


@pytest.mark.parametrize("kind", ["image", "video"])
def test_an_input_is_never_its_own_output(
    kind: str, photos: Path, tmp_path: Path, weights: str
) -> None:
    _make_video(tmp_path / "in.mp4")
    source = photos if kind == "image" else tmp_path / "in.mp4"
    before = (tmp_path / "in.mp4").read_bytes(), (photos / "a.png").read_bytes()
    flag = "--input" if kind == "image" else "--video-input"
    with pytest.raises(SystemExit, match="overwrite the input"):
        _run(flag, source, "--output", source, "--overwrite", weights=weights)
    assert before == ((tmp_path / "in.mp4").read_bytes(), (photos / "a.png").read_bytes())


def test_a_corrupt_image_is_named_and_the_others_are_drawn(
    photos: Path, tmp_path: Path, weights: str
) -> None:
    (photos / "b.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(SystemExit, match="cannot read .*b.jpg"):
        _run("--input", photos, "--output", tmp_path / "out", weights=weights)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.PNG"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--input", "nothing.png", "--output", "out"), "nothing.png does not exist"),
        (("--input", ".", "--output", "out"), "holds no image"),
        (("--video-input", "nothing.mp4", "--output", "out.mp4"), "nothing.mp4 does not exist"),
        (("--video-input", "in.mp4", "--output", "out.avi"), "must end in .mp4"),
        (("--video-input", "text.mp4", "--output", "out.mp4"), "cannot be opened"),
    ],
)
def test_wrong_arguments_are_explained(
    arguments: tuple, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(SystemExit, match=message):
        _run(*arguments, weights=weights)


@pytest.mark.parametrize("value", ["", "nowhere.pth"])
def test_a_model_without_weights_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="MODEL.WEIGHTS"):
        build_predictor(load_config(CONFIG, ["MODEL.WEIGHTS", value]))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder, name = tmp_path_factory.mktemp("data") / "shapes", "contact_sheet_test"
    make_shapes(folder, Settings(train=1, val=5, size=32))
    register_coco_instances(name, {}, str(folder / "annotations/val.json"), str(folder / "images"))
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def _sheet(*arguments: object, dataset: str, weights: str = "") -> None:
    flags = ["--config-file", CONFIG, "--dataset", dataset, *map(str, arguments)]
    _main(contact_sheet, "contact-sheet", [*flags, "MODEL.WEIGHTS", weights, *FEW])


def test_contact_sheet_pairs_truth_with_the_results_of_the_evaluator(
    dataset: str, tmp_path: Path
) -> None:
    """Fed the ground truth as results, both sides of a pair differ in the labels alone."""
    items = DatasetCatalog.get(dataset)
    to_id = {
        v: k for k, v in MetadataCatalog.get(dataset).thing_dataset_id_to_contiguous_id.items()
    }
    results = [
        {
            "image_id": item["image_id"],
            "category_id": to_id[annotation["category_id"]],
            "bbox": annotation["bbox"],
            "score": score,
        }
        for item in items
        for score in (0.9, 0.1)
        for annotation in item["annotations"]
    ]
    results = [r if r["score"] > 0.5 else r | {"bbox": [0, 0, 32, 32]} for r in results]
    path, out = tmp_path / "results.json", tmp_path / "sheet.png"
    path.write_text(json.dumps(results))
    _sheet("--predictions", path, "--output", out, "--number", 4, "--columns", 2, dataset=dataset)
    sheet = cv2.imread(str(out)).astype(int)
    assert sheet.shape == (2 * 320 + 4, 4 * 320 + 3 * 4, 3)
    left, right = sheet[:320, :320], sheet[:320, 324:644]
    assert (np.abs(left - right).max(2) > 20).mean() < 0.2


def test_contact_sheet_runs_a_model(dataset: str, tmp_path: Path, weights: str) -> None:
    out = tmp_path / "new" / "sheet.png"
    _sheet("--output", out, "--number", 99, "--columns", 1, dataset=dataset, weights=weights)
    assert cv2.imread(str(out)).shape == (5 * 320 + 4 * 4, 644, 3)
    with pytest.raises(SystemExit, match="exists.*--overwrite"):
        _sheet("--output", out, dataset=dataset, weights=weights)


@pytest.mark.parametrize("content", ["no json", '{"a": 1}', '[{"category_id": 77}]'])
def test_contact_sheet_refuses_files_that_hold_no_results(
    content: str, dataset: str, tmp_path: Path
) -> None:
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(SystemExit, match="results.json holds no COCO results"):
        _sheet("--predictions", path, "--output", tmp_path / "sheet.png", dataset=dataset)


def test_contact_sheet_names_an_unknown_data_set(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="'nowhere' is not registered"):
        _sheet("--output", tmp_path / "sheet.png", dataset="nowhere")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    cfg = tiny_network("CornerNet-Shapes", *FEW, "MODEL.CORNERNET.NUM_CLASSES", 4)
    CornerNetCheckpointer(build_model(cfg), str(folder), cfg=cfg).save("model")
    return str(folder / "model.pth")


class TestFiles:
    """The command on a file that holds its config."""

    def run(self, *arguments: object) -> None:
        _main(predict, "predict", [*map(str, arguments)])

    def test_json_table_and_crops_of_chosen_classes(
        self, photos: Path, tmp_path: Path, model: str
    ) -> None:
        found, table, crops = tmp_path / "found.json", tmp_path / "found.csv", tmp_path / "crops"
        files = ("--json", found, "--csv", table, "--crops", crops)
        self.run(model, photos, *files, "--confidence-threshold", 0)
        rows = json.loads(found.read_text())
        assert {row["image_id"] for row in rows} == {1, 2, 3} and len(rows) == 24
        predictor = load(model, device="cpu")
        instances = predictor(photos / "a.png")
        for row, box, score in zip(rows, instances.pred_boxes.tensor, instances.scores):
            assert row["file_name"] == str(photos / "a.png")
            x, y, width, height = row["bbox"]
            assert [x, y, x + width, y + height] == pytest.approx(box.tolist(), abs=2e-3)
            assert row["score"] == pytest.approx(float(score), abs=1e-6)
            assert row["category_name"] == predictor.class_names[row["category_id"]]
        lines = list(csv.DictReader(table.open()))
        assert [float(line["width"]) for line in lines] == [row["bbox"][2] for row in rows]
        for name in {row["category_name"] for row in rows}:
            pictures = list((crops / name).glob("*.png"))
            assert len(pictures) == sum(row["category_name"] == name for row in rows)
        wanted = rows[0]["category_name"]
        more = ("--overwrite", "--confidence-threshold", 0, "--classes", wanted)
        self.run(model, photos / "a.png", "--json", found, *more)
        expected = [row for row in rows if row["category_name"] == wanted and row["image_id"] == 1]
        assert json.loads(found.read_text()) == expected
        with pytest.raises(SystemExit, match="no class is called horse; there are ellipse"):
            self.run(model, photos, "--json", found, "--overwrite", "--classes", "horse")

    def test_nothing_above_the_threshold_is_explained(
        self, photos: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture
    ) -> None:
        best = float(load(model, device="cpu")(photos / "a.png").scores.max())
        arguments = ("--output", tmp_path / "out", "--confidence-threshold", 1)
        self.run(model, photos / "a.png", *arguments)
        line = f"(best score {best:.2f} is below the threshold 1.00)"
        assert capsys.readouterr().out.splitlines()[1].endswith(line)

    def test_names_with_a_dash_and_gifs(
        self, photos: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(photos)
        Image.open("a.png").save("-film.gif", save_all=True, append_images=[Image.open("b.jpg")])
        self.run(model, "a.png", "--output", tmp_path / "out", "--", "-film.gif")
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["-film.png", "a.png"]

    def test_one_broken_or_huge_image_does_not_end_a_batch(
        self, photos: Path, tmp_path: Path, model: str
    ) -> None:
        (photos / "a.png").write_bytes((photos / "a.png").read_bytes()[:500])
        Image.new("1", (20000, 20000)).save(photos / "bomb.png")
        with pytest.raises(SystemExit, match="2 of 4 images failed.*a.png.*bomb.png") as error:
            self.run(model, photos, "--output", tmp_path / "out")
        assert "\n" not in str(error.value)
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b.jpg", "c.PNG"]

    def test_a_folder_is_no_output_file(self, photos: Path, tmp_path: Path, model: str) -> None:
        (tmp_path / "out" / "b.jpg").mkdir(parents=True)
        for flags in (("--output", tmp_path / "out"), ("--json", tmp_path / "out" / "b.jpg")):
            with pytest.raises(SystemExit, match="b.jpg is a folder"):
                self.run(model, photos, "--overwrite", *flags)

    def test_a_full_disk_is_an_error(
        self, photos: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(SystemExit, match="predict: .*No space left"):
            self.run(model, photos, "--output", tmp_path / "out")
        assert not list((tmp_path / "out").iterdir())

    def test_tiles(self, photos: Path, tmp_path: Path, model: str) -> None:
        arguments = ("--confidence-threshold", 0, "--tile", 48, "--json", tmp_path / "found.json")
        self.run(model, photos / "b.jpg", *arguments)  # 50 x 90 pixels: 2 x 3 tiles and the whole
        assert len(json.loads((tmp_path / "found.json").read_text())) > 8

    def test_a_video_needs_no_flag(self, tmp_path: Path, model: str) -> None:
        _make_video(tmp_path / "in.mp4", frames=7)
        self.run(model, tmp_path / "in.mp4", "--output", tmp_path / "out.mp4", "--batch-size", 3)
        capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
        assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 7

    def test_a_video_that_ends_early_is_reported(
        self, tmp_path: Path, model: str, capsys: pytest.CaptureFixture
    ) -> None:
        path = tmp_path / "in.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5.0, (96, 64))
        rng = np.random.default_rng(0)
        for _ in range(7):
            writer.write(rng.integers(0, 256, (64, 96, 3), np.uint8))
        writer.release()
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        self.run(model, path, "--output", tmp_path / "out.mp4")
        *_, written, early = capsys.readouterr().out.splitlines()
        frames = int(written.split()[0])
        assert 0 < frames < 7 and early == f"{path} ends early: it says 7 frames"

    @pytest.mark.parametrize(
        "arguments",
        [
            ("model.pth",),
            ("model.pth", "a.png", "--webcam"),
            ("model.pth", "a.png", "--confidence-threshold", "7"),
            ("model.pth", "a.png", "--batch-size", "0"),
            ("model.pth", "a.mp4", "--json", "found.json"),
            ("--input", "a.png"),
            ("model.pth", "a.png", "--unknown"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, arguments: tuple[str, ...]) -> None:
        with pytest.raises(SystemExit) as error:
            _main(predict, "predict", list(arguments))
        assert error.value.code == 2 or str(error.value).startswith("predict: ")


def test_show_runs_the_network_once(
    photos: Path, tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --show tables, too, have what one view gives: what is drawn is what is written."""
    seen, last_maps = [], CornerNet.last_maps

    def count(model: CornerNet, pixels: torch.Tensor) -> dict:
        seen.append(len(pixels))
        return last_maps(model, pixels)

    monkeypatch.setattr(CornerNet, "last_maps", count)
    flags = ("--input", photos, "--output", tmp_path / "out", "--show", "corners")
    assert load_config(CONFIG).MODEL.CORNERNET.TEST.FLIP
    _run(*flags, "--json", tmp_path / "found.json", weights=weights)
    assert seen == [1, 1, 1]
    cfg = load_config(CONFIG, ["MODEL.WEIGHTS", weights, *FEW, "MODEL.CORNERNET.TEST.FLIP", False])
    found = build_predictor(cfg)(cv2.imread(str(photos / "a.png")))
    rows = json.loads((tmp_path / "found.json").read_text())
    scores = [row["score"] for row in rows if row["image_id"] == 1]
    assert scores == pytest.approx(found["instances"].scores.tolist(), abs=1e-6) and scores


def test_show_and_thresholds_of_classes(photos: Path, tmp_path: Path, weights: str) -> None:
    """The command draws what --show says, of the detections that reach their class's score."""
    report = tmp_path / "report.json"
    image = str(photos / "a.png")
    plain, shown = tmp_path / "plain.png", tmp_path / "shown.png"
    _run("--input", image, "--output", plain, weights=weights)
    _run("--input", image, "--output", shown, "--show", "pairs", weights=weights)
    assert cv2.imread(str(plain)).shape == cv2.imread(str(shown)).shape
    assert (cv2.imread(str(plain)) != cv2.imread(str(shown))).any()
    report.write_text(json.dumps({"set": {"classes": {"x": {"best_threshold": 0.5}}}}))
    assert class_thresholds(report, ["x", "y"], 0.3) == [0.5, 0.3]
    every = load_instances([0.6, 0.4, 0.4], [0, 0, 1])
    assert select(every, [0.5, 0.3])[0].scores.tolist() == pytest.approx([0.6, 0.4])
    kept, reason = select(every[1:2], [0.5, 0.3])
    assert not len(kept) and "below the threshold of its class" in reason
    with pytest.raises(SystemExit, match="--show draws what is found in the whole image"):
        _run("--input", image, "--output", shown, "--show", "pairs", "--tile", 64, weights=weights)
