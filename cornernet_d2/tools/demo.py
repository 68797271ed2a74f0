"""Draw what a trained model finds on images, folders of images, a video or a webcam.

    python -m cornernet_d2.tools.demo --config-file CornerNet-HG104 --input photos/ a.jpg \\
        --output drawn/ --opts MODEL.WEIGHTS model_final.pth
    python -m cornernet_d2.tools.demo --config-file my.yaml --video-input in.mp4 --output out.mp4
    python -m cornernet_d2.tools.demo --config-file my.yaml --webcam

Without --output, pictures are shown in a window. The flags are those of Detectron2's own demo.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.engine import DefaultPredictor
from detectron2.structures import Instances
from detectron2.utils.video_visualizer import VideoVisualizer

from cornernet_d2.data.reading import read_file
from cornernet_d2.predictor import build_predictor, class_names, load_config
from cornernet_d2.tools import check_output
from cornernet_d2.visualize import draw_instances

IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
WINDOW = "CornerNet detections"
ESCAPE = 27
FALLBACK_FPS = 30.0  # for cameras that do not tell
CODEC = "mp4v"  # the one that every OpenCV build can write


def find_images(inputs: list[str]) -> list[Path]:
    """Lists files as given, and the images directly inside folders by name.

    Raises:
        ValueError: something does not exist, or a folder has no image.
    """
    images = []
    for path in map(Path, inputs):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_ENDINGS)
            if not inside:
                raise ValueError(f"{path} holds no image ({' '.join(IMAGE_ENDINGS)})")
            images += inside
        elif path.is_file():
            images.append(path)
        else:
            raise ValueError(f"{path} does not exist")
    return images


def plan_outputs(images: list[Path], output: str, overwrite: bool) -> list[Path]:
    """Says where each drawn picture goes: into a folder, or for one image into a file.

    Raises:
        ValueError: two pictures would get one name, a file would be overwritten without
            ``overwrite``, or an input would be.
    """
    target = Path(output)
    if len(images) == 1 and target.suffix.lower() in IMAGE_ENDINGS and not target.is_dir():
        targets = [target]
    elif target.exists() and not target.is_dir():
        raise ValueError(f"--output {target} must be a folder for {len(images)} images")
    else:
        targets = [target / image.name for image in images]
    if len(set(targets)) < len(targets):
        raise ValueError("images of equal names from several folders: give one folder at a time")
    for image, path in zip(images, targets):
        _check_not_input(image, path)
        check_output(path, overwrite)
    return targets


def _check_not_input(source: Path, target: Path) -> None:
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"--output would overwrite the input {source}")


def load(args: argparse.Namespace) -> tuple[DefaultPredictor, list[str] | None]:
    """Builds the predictor and finds the class names of the config's dataset."""
    cfg = load_config(args.config_file, args.opts)
    return build_predictor(cfg), class_names(cfg)


def run_images(args: argparse.Namespace) -> None:
    """Draws on images, to files or in a window.

    Raises:
        ValueError: see :func:`find_images` and :func:`plan_outputs`; or, at the end, some images
            could not be read.
    """
    images = find_images(args.input)
    targets = plan_outputs(images, args.output, args.overwrite) if args.output else None
    predictor, names = load(args)
    unreadable = []
    for index, image in enumerate(images):
        try:
            picture = read_file(str(image), "BGR")
        except ValueError as error:
            unreadable.append(str(error))
            continue
        start = time.perf_counter()
        found = _confident(predictor(picture)["instances"], args.confidence_threshold)
        seconds = time.perf_counter() - start
        drawn = draw_instances(np.ascontiguousarray(picture[..., ::-1]), found, names)
        where = f", {targets[index]}" if targets else ""
        print(f"{image}: {len(found)} objects in {seconds:.2f} s{where}", flush=True)
        if targets:
            _write(targets[index], drawn)
        elif _show(drawn, wait=0):
            break
    if unreadable:
        raise ValueError("; ".join(unreadable))


def _confident(instances: Instances, threshold: float) -> Instances:
    instances = instances.to("cpu")
    return instances[instances.scores >= threshold]


def _write(path: Path, picture: np.ndarray) -> None:
    if not cv2.imwrite(str(path), picture[..., ::-1]):
        raise ValueError(f"{path} could not be written")


def _show(picture: np.ndarray, wait: int) -> bool:
    """Shows an RGB picture; returns whether Escape was pressed (within ``wait`` ms, 0: ever)."""
    try:
        cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL)
        cv2.imshow(WINDOW, picture[..., ::-1])
        return cv2.waitKey(wait) == ESCAPE
    except cv2.error as error:
        raise ValueError(
            "no window can be opened here (no display, or opencv-python-headless): give --output"
        ) from error


def open_capture(args: argparse.Namespace) -> cv2.VideoCapture:
    """Opens the video file or the webcam.

    Raises:
        ValueError: it cannot be opened.
    """
    source = args.camera if args.webcam else args.video_input
    if not args.webcam and not os.path.isfile(source):
        raise ValueError(f"{source} does not exist")
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise ValueError(f"{'webcam' if args.webcam else 'video'} {source} cannot be opened")
    return capture


def drawn_frames(
    capture: cv2.VideoCapture,
    predictor: DefaultPredictor,
    threshold: float,
    names: list | None,
) -> Iterator[np.ndarray]:
    """Yields every frame, (H, W, 3) RGB, with its detections; colours follow an object."""
    visualizer = VideoVisualizer(Metadata(thing_classes=names) if names else Metadata())
    while True:
        there, frame = capture.read()
        if not there:
            return
        found = _confident(predictor(frame)["instances"], threshold)
        drawn = visualizer.draw_instance_predictions(np.ascontiguousarray(frame[..., ::-1]), found)
        yield drawn.get_image()


def run_video(args: argparse.Namespace) -> None:
    """Draws on a video or the webcam, to a file or in a window.

    Raises:
        ValueError: the video cannot be read, or the output is not free.
    """
    target = _video_target(args) if args.output else None
    capture = open_capture(args)
    predictor, names = load(args)
    frames = drawn_frames(capture, predictor, args.confidence_threshold, names)
    try:
        if target is None:
            number = 0
            for number, frame in enumerate(frames, 1):
                if _show(frame, wait=1):
                    break
        else:
            number = _write_video(target, frames, capture.get(cv2.CAP_PROP_FPS))
    finally:
        capture.release()
    if not number:
        raise ValueError(f"{args.video_input or 'the webcam'} gave no frame")
    print(f"{number} frames{f', {target}' if target else ''}", flush=True)


def _video_target(args: argparse.Namespace) -> Path:
    target = Path(args.output)
    if target.is_dir():
        name = Path(args.video_input).stem if args.video_input else "webcam"
        target = target / f"{name}.mp4"
    if target.suffix.lower() != ".mp4":
        raise ValueError(f"--output {target} must end in .mp4 or be a folder")
    if args.video_input:
        _check_not_input(Path(args.video_input), target)
    check_output(target, args.overwrite)
    return target


def _write_video(target: Path, frames: Iterator[np.ndarray], fps: float) -> int:
    """Writes frames beside their place and moves the whole file there; returns their number."""
    writer, number = None, 0
    with tempfile.TemporaryDirectory(prefix=".demo-", dir=target.parent) as folder:
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
            print("stopped", flush=True)
        if writer is not None:
            writer.release()
            os.replace(partial, target)
    return number


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="path, or name of a shipped config")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", help="images and folders of images")
    source.add_argument("--video-input", help="a video file")
    source.add_argument("--webcam", action="store_true", help="take frames from a webcam")
    parser.add_argument("--camera", type=int, default=0, help="number of the webcam [0]")
    parser.add_argument("--output", help="file or folder; without it, a window is opened")
    parser.add_argument("--overwrite", action="store_true", help="replace files at --output")
    parser.add_argument("--confidence-threshold", type=float, default=0.4, help="[%(default)s]")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="config KEY VALUE pairs, at the end"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Command line; see the head of this file."""
    args = parse(argv)
    try:
        (run_images if args.input else run_video)(args)
    except ValueError as error:
        sys.exit(f"demo: {error}")


if __name__ == "__main__":
    main()
