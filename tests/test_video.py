"""Videos: as many frames out as in, tables, numbers that stay with objects, damaged files."""

import csv
import itertools
import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from tiny_run import tiny_network

from cornernet_d2.checkpoint import CornerNetCheckpointer
from cornernet_d2.predictor import tracking, video
from cornernet_d2.predictor.video import write_video
from cornernet_d2.tools import command, predict

SIZE = (96, 64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    keys = ("MODEL.CORNERNET.NUM_CLASSES", 4, "INPUT.MIN_SIZE_TEST", 0)
    cfg = tiny_network("CornerNet-Shapes", *keys, "TEST.DETECTIONS_PER_IMAGE", 8)
    CornerNetCheckpointer(build_model(cfg), str(folder), cfg=cfg).save("model")
    return str(folder / "model.pth")


def make_video(path: Path, frames: int) -> list[np.ndarray]:
    """Frame i is grey, 30 + 16 i bright; compression twice over takes up to 6."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 12.5, SIZE)
    made = [np.full((*SIZE[::-1], 3), (30 + 16 * i) % 256, np.uint8) for i in range(frames)]
    for frame in made:
        writer.write(frame)
    writer.release()
    return made


def run(*arguments: object) -> int:
    return command.main(["predict", *map(str, arguments)])


@pytest.mark.parametrize("batch", [1, 4])
def test_every_frame_once_and_in_order(
    model: str, tmp_path: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make_video(tmp_path / "in.mp4", 14)
    monkeypatch.setattr(
        predict, "drawn_frames", lambda frames, _: (picture for picture, _ in frames)
    )
    files = ("--output", tmp_path / "out.mp4", "--json", tmp_path / "a.json")
    assert run(model, tmp_path / "in.mp4", *files, "--batch-size", batch) == 0
    capture = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == 12.5
    for frame in made:
        there, found = capture.read()
        assert there and abs(found.mean() - frame.mean()) < 8
    assert not capture.read()[0]


def test_tables_without_a_picture(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_video(tmp_path / "in.mp4", 5)
    monkeypatch.setattr(predict, "SILENCE", 0.0)
    files = ("--json", tmp_path / "a.json", "--csv", tmp_path / "a.csv")
    assert run(model, tmp_path / "in.mp4", *files, "--confidence-threshold", 0) == 0
    rows = json.loads((tmp_path / "a.json").read_text())
    assert {row["image_id"] for row in rows} <= set(range(1, 6)) and len(rows) > 5
    table = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [float(row["score"]) for row in table] == [row["score"] for row in rows]
    _, *lines, last = capsys.readouterr().out.splitlines()
    assert last == "5 frames" and len(lines) == 5
    assert (
        re.match(r"\[1/5, \d+:\d\d left\] ", lines[0]) and lines[4] == f"[5] {tmp_path / 'in.mp4'}"
    )


def test_a_video_without_its_end_is_named(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    make_video(tmp_path / "whole.mp4", 24)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:1500])
    assert run(model, tmp_path / "cut.mp4", "--output", tmp_path / "out.mp4") == 1
    assert "cut.mp4 cannot be opened" in capsys.readouterr().err
    assert not (tmp_path / "out.mp4").exists()


def test_frames_of_other_sizes_and_frames_that_are_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV's writer leaves out, in silence, what has another size or does not fit the disk."""
    frames = [np.full((*size, 3), 90, np.uint8) for size in ((64, 96), (32, 48), (64, 96))]
    assert write_video(tmp_path / "a.mp4", iter(frames), 10) == 3
    assert int(cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FRAME_COUNT)) == 3
    monkeypatch.setattr(video.cv2, "resize", lambda frame, size: frame)
    with pytest.raises(ValueError, match="b.mp4: 2 of 3 frames could be written"):
        write_video(tmp_path / "b.mp4", iter(frames), 10)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_without_the_package_one_line_says_what_to_install(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    make_video(tmp_path / "in.mp4", 2)
    monkeypatch.setitem(sys.modules, "trackers", None)
    assert run(model, tmp_path / "in.mp4", "--output", tmp_path / "out.mp4", "--track") == 1
    assert capsys.readouterr().err == f"cornernet predict: {tracking.HINT}\n"
    assert run(model, tmp_path, "--output", tmp_path / "out", "--track") == 1
    assert "--track is for a video" in capsys.readouterr().err


def moving(frame: int) -> Instances:
    """Two objects of one class that pass each other, one of another class at the same place as the
    first, a weak one that never begins a track; in frame 6 the first is hardly seen."""
    boxes = [[10 + 4 * frame, 10, 30 + 4 * frame, 30], [90 - 4 * frame, 40, 110 - 4 * frame, 60]]
    boxes += [boxes[0], [0, 70, 9, 79]]
    result = Instances((80, 120))
    result.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    result.scores = torch.tensor([0.2 if frame == 6 else 0.9, 0.8, 0.7, 0.2])
    result.pred_classes = torch.tensor([0, 0, 1, 0])
    return result


def test_numbers_stay_with_objects() -> None:
    pytest.importorskip("trackers")
    tracker = tracking.Tracker(30.0, 0.5)
    frames = [tracker.update(moving(frame)) for frame in range(12)]
    for frame, found in itertools.islice(enumerate(frames), 2, None):
        assert found.pred_boxes.tensor[:, 0].tolist() == [10 + 4 * frame, 90 - 4 * frame] + [
            10 + 4 * frame
        ]
        assert sorted(found.track_ids.tolist()) == [1, 2, 3]
        assert found.track_ids.tolist() == frames[2].track_ids.tolist()
    assert len(tracker.update(moving(0)[[]])) == 0
    drawn = tracking.draw_tracks(np.zeros((80, 120, 3), np.uint8), frames[5], None)
    assert drawn.shape == (80, 120, 3) and drawn.any()


def test_numbers_in_the_tables(model: str, tmp_path: Path) -> None:
    pytest.importorskip("trackers")
    make_video(tmp_path / "in.mp4", 6)
    files = ("--output", tmp_path / "out.mp4", "--json", tmp_path / "a.json")
    tables = (*files, "--csv", tmp_path / "a.csv")
    assert run(model, tmp_path / "in.mp4", *tables, "--track", "--confidence-threshold", 0.1) == 0
    rows = json.loads((tmp_path / "a.json").read_text())
    assert rows and all(row["track_id"] >= 1 for row in rows)
    table = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert [int(row["track_id"]) for row in table] == [row["track_id"] for row in rows]
