"""Draw what a trained model finds on images, folders of images, a video or a webcam.

    cornernet predict model.pth photos/ a.jpg --output drawn/ --json found.json
    cornernet predict model.pth in.mp4 --output out.mp4 --json found.json --track
    cornernet predict model.pth --webcam

The file of a trained model has its config and its class names in it. Without --output and the
other files, pictures are shown in a window. A config may be given in its place.

Names that begin with a dash come last, after "--".
"""

import argparse
import collections
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
from detectron2.structures import Instances

from cornernet_d2.diagnosis.showing import KINDS, Onlooker
from cornernet_d2.predictor import Detected, Predictor
from cornernet_d2.predictor.images import find_images
from cornernet_d2.predictor.results import (
    Results,
    class_indices,
    class_thresholds,
    select,
    write_crops,
    write_picture,
    written_name,
)
from cornernet_d2.predictor.tracking import Tracker
from cornernet_d2.predictor.video import (
    FALLBACK_FPS,
    VIDEO_ENDINGS,
    detected_frames,
    drawn_frames,
    open_capture,
    write_video,
)
from cornernet_d2.tools import check_not_input, check_output
from cornernet_d2.tools.options import add_config, load_predictor
from cornernet_d2.visualize import draw_instances

SILENCE = 5.0  # seconds between two lines about a video
WINDOW = "CornerNet detections"
ESCAPE = 27


def plan_outputs(images: list[Path], output: str, overwrite: bool) -> list[Path]:
    """Says where each drawn picture goes: into a folder, or for one image into a file.

    Raises:
        ValueError: two pictures would get one name, a folder has it, a file would be overwritten
            without ``overwrite``, or an input would be.
    """
    target = Path(output)
    if len(images) == 1 and target.suffix and not target.is_dir() and not output.endswith("/"):
        if written_name(target.name) != target.name:
            raise ValueError(f"--output {target}: no picture can be written as {target.suffix}")
        targets = [target]
    elif target.exists() and not target.is_dir():
        raise ValueError(f"--output {target} must be a folder for {len(images)} images")
    else:
        targets = [target / written_name(image.name) for image in images]
    if len(set(targets)) < len(targets):
        raise ValueError("images of equal names from several folders: give one folder at a time")
    for image, path in zip(images, targets):
        check_not_input(image, path)
        check_output(path, overwrite)
    return targets


def run_images(args: argparse.Namespace) -> None:
    """Draws on images, to files or in a window.

    Raises:
        ValueError: see :func:`.find_images` and :func:`plan_outputs`; or, at the end, some images
            could not be read or did not fit into memory.
    """
    images = find_images(args.inputs)
    targets = plan_outputs(images, args.output, args.overwrite) if args.output else None
    for path in filter(None, (args.json, args.csv)):
        check_output(path, args.overwrite)
    predictor = load_predictor(args)
    onlooker = Onlooker(predictor.model) if args.show else None
    if onlooker is not None:
        predictor.model, args.batch_size = onlooker.model, 1
    chosen, least = _wanted(args, predictor)

    def choose(every: Instances) -> Instances:
        return select(every, least, chosen)[0]

    results, failed, start = Results(predictor.class_names), [], time.perf_counter()
    try:
        for number, detected in enumerate(predictor.stream(images, args.batch_size, args.tile), 1):
            left = (time.perf_counter() - start) / number * (len(images) - number)
            place = f"[{number}/{len(images)}{f', {_clock(left)} left' if left else ''}]"
            if detected.error is not None:
                failed.append(detected.error)
                print(f"{place} {detected.error}", flush=True)
                continue
            found, reason = select(detected.instances, least, chosen)
            detected = detected._replace(instances=found)
            results.add(number, str(detected.source), found)
            target = targets[number - 1] if targets else None
            where = f", {target}" if target else f" ({reason})" if reason else ""
            where += f" ({reason})" if target and reason else ""
            print(f"{place} {detected.source}: {len(found)} objects{where}", flush=True)
            if _deliver(args, detected, target, predictor, onlooker, choose):
                break
    finally:
        _write_tables(args, results)
    if failed:
        raise ValueError(f"{len(failed)} of {len(images)} images failed: {'; '.join(failed)}")


def _wanted(
    args: argparse.Namespace, predictor: Predictor
) -> tuple[list[int] | None, float | list[float]]:
    """Classes and scores, as :func:`.select` takes them."""
    names, least = predictor.class_names, args.confidence_threshold
    if args.thresholds:
        least = class_thresholds(args.thresholds, names, least)
    return class_indices(args.classes, names) if args.classes else None, least


def _deliver(
    args: argparse.Namespace,
    detected: Detected,
    target: Path | None,
    predictor: Predictor,
    onlooker: Onlooker | None,
    choose: Callable[[Instances], Instances],
) -> bool:
    """Writes or shows one image's detections; returns whether the user has seen enough."""
    picture, found, names = detected.picture, detected.instances, predictor.class_names
    if args.crops:
        write_crops(args.crops, Path(detected.source).stem, picture, found, names)
    if target is None and (args.json or args.csv or args.crops):
        return False
    rgb = np.ascontiguousarray(picture[..., ::-1])
    if onlooker is not None:
        drawn = onlooker.show(predictor.to_input(picture), rgb, args.show, choose, names)
    else:
        drawn = draw_instances(rgb, found, names)
    if target is None:
        return _show(drawn, wait=0)
    write_picture(target, drawn[..., ::-1])
    return False


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"


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


def run_video(args: argparse.Namespace) -> None:
    """Draws on a video or the webcam, to a file or in a window, and writes tables.

    Raises:
        ValueError: the video cannot be read, or the output is not free.
    """
    target = _video_target(args) if args.output else None
    for path in filter(None, (args.json, args.csv)):
        check_output(path, args.overwrite)
    capture = open_capture(args.camera if args.webcam else args.video_input)
    promised = 0 if args.webcam else int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    fps = capture.get(cv2.CAP_PROP_FPS)
    predictor = load_predictor(args)
    names, shown = predictor.class_names, target is None and not (args.json or args.csv)
    chosen, least = _wanted(args, predictor)
    tracker = Tracker(fps or FALLBACK_FPS, args.confidence_threshold) if args.track else None
    batch_size = 1 if args.webcam or shown else args.batch_size
    results, stopped = Results(names), False
    frames = detected_frames(capture, predictor, least, chosen, batch_size, tracker)
    frames = _noted(frames, results, args.video_input or "webcam", promised)
    try:
        if target is not None:
            write_video(target, drawn_frames(frames, names), fps)
        elif shown:
            for frame in drawn_frames(frames, names):
                if stopped := _show(frame, wait=1):
                    break
        else:
            collections.deque(frames, maxlen=0)
    finally:
        capture.release()
        _write_tables(args, results)
    if not results.images:
        raise ValueError(f"{args.video_input or 'the webcam'} gave no frame")
    print(f"{results.images} frames{f', {target}' if target else ''}", flush=True)
    if results.images < promised and not stopped:
        print(f"{args.video_input} ends early: it says {promised} frames", flush=True)


def _noted(
    frames: Iterable[tuple[np.ndarray, Instances]], results: Results, name: str, promised: int
) -> Iterator[tuple[np.ndarray, Instances]]:
    """The same frames; what is found becomes rows, and every few seconds a line says how far."""
    start = said = time.perf_counter()
    for number, (picture, found) in enumerate(frames, 1):
        results.add(number, name, found)
        now = time.perf_counter()
        if now - said >= SILENCE:
            left = (now - start) / number * (promised - number)
            place = f"{number}/{promised}, {_clock(left)} left" if left > 0 else f"{number}"
            print(f"[{place}] {name}", flush=True)
            said = now
        yield picture, found


def _write_tables(args: argparse.Namespace, results: Results) -> None:
    if args.json:
        results.write_json(args.json)
    if args.csv:
        results.write_csv(args.csv)


def _video_target(args: argparse.Namespace) -> Path:
    target = Path(args.output)
    if target.is_dir():
        name = Path(args.video_input).stem if args.video_input else "webcam"
        target = target / f"{name}.mp4"
    if target.suffix.lower() != ".mp4":
        raise ValueError(f"--output {target} must end in .mp4 or be a folder")
    if args.video_input:
        check_not_input(Path(args.video_input), target)
    check_output(target, args.overwrite)
    return target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="file of a trained model, or its folder")
    add("inputs", nargs="*", metavar="INPUT", help="images and folders of images, or one video")
    add_config(parser)
    add("--input", nargs="+", default=[], help="the same as INPUT")
    add("--video-input", help="a video file")
    add("--webcam", action="store_true", help="take frames from a webcam")
    add("--camera", type=int, default=0, help="number of the webcam [0]")
    add("--output", help="folder, or file for one image or a video; default: a window")
    add("--overwrite", action="store_true", help="replace files that are there")
    add("--json", type=Path, metavar="FILE", help="detections in COCO's result format")
    add("--csv", type=Path, metavar="FILE", help="detections, one a line")
    add("--crops", type=Path, metavar="FOLDER", help="what is inside each box, by class")
    add("--classes", type=lambda text: text.split(","), help="these classes alone: a,b,c")
    add("--confidence-threshold", type=float, default=0.4, help="in [0, 1] [%(default)s]")
    add(
        "--thresholds",
        type=Path,
        metavar="FILE",
        help="scores of best F1 of each class, of `cornernet analyze MODEL --json FILE`",
    )
    add("--show", choices=KINDS, help="detect at one scale, not mirrored, and draw this")
    add("--batch-size", type=int, default=4, help="images at a time [%(default)s]")
    add("--track", action="store_true", help="number the objects of a video (ByteTrack)")
    add("--tile", type=int, help="see larger images in tiles of so many pixels a side")
    add("--device", default="auto", help="cpu, cuda, ... [a GPU if there is one]")


def run(args: argparse.Namespace) -> int:
    """Draw on images or a video, and write the tables that are asked for."""
    args.inputs += args.input
    if args.config_file is None and args.model is None:
        raise ValueError("the file of a trained MODEL is needed, or --config-file")
    videos = [name for name in args.inputs if Path(name).suffix.lower() in VIDEO_ENDINGS]
    if videos and len(args.inputs) == 1 and not args.video_input and not args.webcam:
        args.video_input, args.inputs = args.inputs[0], []
    if bool(args.inputs) + bool(args.video_input) + args.webcam != 1:
        raise ValueError("give images and folders, or one video, or --webcam")
    if not 0 <= args.confidence_threshold <= 1:
        raise ValueError(f"--confidence-threshold {args.confidence_threshold} is not in [0, 1]")
    if args.batch_size < 1 or (args.tile is not None and args.tile < 32):
        raise ValueError("--batch-size must be at least 1, --tile at least 32")
    if not args.inputs and (args.crops or args.tile or args.show):
        raise ValueError("--crops, --tile and --show are for images")
    if args.tile and args.show:
        raise ValueError("--show draws what is found in the whole image: leave out --tile")
    if args.track and (args.inputs or args.thresholds):
        raise ValueError("--track is for a video, and for one threshold for all classes")
    (run_images if args.inputs else run_video)(args)
    return 0
