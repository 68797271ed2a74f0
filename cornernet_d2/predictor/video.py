"""Videos and cameras: frames in, drawn frames out."""

import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.utils.video_visualizer import VideoVisualizer

from .predictor import Predictor
from .results import select

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


def drawn_frames(
    capture: cv2.VideoCapture,
    predictor: Predictor,
    min_score: float | Sequence[float],
    classes: Sequence[int] | None = None,
    batch_size: int = 1,
) -> Iterator[np.ndarray]:
    """Yields every frame, (H, W, 3) RGB, with its detections; colours follow an object.

    Raises:
        ValueError: a frame does not fit into memory.
    """
    names = predictor.class_names
    visualizer = VideoVisualizer(Metadata(thing_classes=names) if names else Metadata())
    for detected in predictor.stream(_frames(capture), batch_size):
        if detected.error is not None:
            raise ValueError(detected.error)
        found, _ = select(detected.instances, min_score, classes)
        rgb = np.ascontiguousarray(detected.picture[..., ::-1])
        yield visualizer.draw_instance_predictions(rgb, found).get_image()


def _frames(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while True:
        there, frame = capture.read()
        if not there:
            return
        yield frame


def write_video(target: Path, frames: Iterator[np.ndarray], fps: float) -> int:
    """Writes frames beside their place and moves the whole file there; returns their number.

    Raises:
        ValueError: this OpenCV cannot write such a file.
    """
    writer, number = None, 0
    with tempfile.TemporaryDirectory(prefix=".predict-", dir=target.parent) as folder:
        partial = str(Path(folder) / target.name)
        try:
            for number, frame in enumerate(frames, 1):
                if writer is None:
                    code = cv2.VideoWriter_fourcc(*CODEC)
                    rate = fps if fps > 0 else FALLBACK_FPS
                    writer = cv2.VideoWriter(partial, code, rate, frame.shape[1::-1])
                    if not writer.isOpened():
                        raise ValueError(f"this OpenCV cannot write {target}")
                writer.write(frame[..., ::-1])
        except KeyboardInterrupt:  # the way to end a webcam recording: keep it
            logger.warning("Stopped after %d frames", number)
        if writer is not None:
            writer.release()
            os.replace(partial, target)
    return number
