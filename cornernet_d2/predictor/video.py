"""Videos and cameras: frames in, drawn frames out."""

import logging
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from detectron2.utils.video_visualizer import VideoVisualizer

from .predictor import Predictor
from .results import select
from .tracking import Tracker, draw_tracks

logger = logging.getLogger(__name__)

VIDEO_ENDINGS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
FALLBACK_FPS = 30.0  # for cameras that do not tell
CODEC = "mp4v"  # the one that every OpenCV build can write


def open_capture(source: str | int) -> cv2.VideoCapture:
    """Opens a video file, or the camera of a number.

    Raises:
        ValueError: it cannot be opened.
    """
    camera = isinstance(source, int)
    if not camera and not os.path.isfile(source):
        raise ValueError(f"{source} does not exist")
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise ValueError(f"{'webcam' if camera else 'video'} {source} cannot be opened")
    return capture


def detected_frames(
    capture: cv2.VideoCapture,
    predictor: Predictor,
    min_score: float | Sequence[float],
    classes: Sequence[int] | None = None,
    batch_size: int = 1,
    tracker: Tracker | None = None,
) -> Iterator[tuple[np.ndarray, Instances]]:
    """Yields every frame, (H, W, 3) RGB, and what is found on it.

    Args:
        classes: indices; None: all.
        batch_size: frames that go through the network together.
        tracker: gives what it follows numbers, ``track_ids``; the rest is left out.

    Raises:
        ValueError: a frame does not fit into memory.
    """
    for detected in predictor.stream(_frames(capture), batch_size):
        if detected.error is not None:
            raise ValueError(detected.error)
        found, _ = select(detected.instances, 0.0 if tracker else min_score, classes)
        if tracker is not None:
            found = tracker.update(found)
        yield np.ascontiguousarray(detected.picture[..., ::-1]), found


def drawn_frames(
    frames: Iterable[tuple[np.ndarray, Instances]], names: Sequence[str] | None
) -> Iterator[np.ndarray]:
    """Yields the frames with their detections drawn; colours follow an object."""
    visualizer = VideoVisualizer(Metadata(thing_classes=names) if names else Metadata())
    for picture, found in frames:
        if found.has("track_ids"):
            yield draw_tracks(picture, found, names)
        else:
            yield visualizer.draw_instance_predictions(picture, found).get_image()


def _frames(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while True:
        there, frame = capture.read()
        if not there:
            return
        yield frame


def write_video(target: Path, frames: Iterator[np.ndarray], fps: float) -> int:
    """Writes frames beside their place and moves the whole file there; returns their number.

    All get the size of the first, as a video has one.

    Raises:
        ValueError: this OpenCV cannot write such a file, or some frames could not be written.
    """
    writer, number = None, 0
    with tempfile.TemporaryDirectory(prefix=".predict-", dir=target.parent) as folder:
        partial = str(Path(folder) / target.name)
        try:
            for frame in frames:
                if writer is None:
                    code = cv2.VideoWriter_fourcc(*CODEC)
                    rate = fps if fps > 0 else FALLBACK_FPS
                    writer = cv2.VideoWriter(partial, code, rate, frame.shape[1::-1])
                    if not writer.isOpened():
                        raise ValueError(f"this OpenCV cannot write {target}")
                    size = frame.shape[1::-1]
                if frame.shape[1::-1] != size:  # OpenCV would leave it out in silence
                    frame = cv2.resize(frame, size)
                writer.write(frame[..., ::-1])
                number += 1
        except KeyboardInterrupt:  # the way to end a webcam recording: keep it
            logger.warning("Stopped after %d frames", number)
        if writer is not None:
            writer.release()
            _check_frames(partial, number, target)
            os.replace(partial, target)
    return number


def _check_frames(written: str, number: int, target: Path) -> None:
    """Raises ValueError if a video holds another number of frames: OpenCV does not tell that the
    disk is full."""
    capture = cv2.VideoCapture(written)
    found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    capture.release()
    if found != number:
        raise ValueError(
            f"{target}: {found} of {number} frames could be written; is the disk full?"
        )
