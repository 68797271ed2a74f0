"""Many files at once: a zip of drawn pictures and one JSON of all detections."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ..predictor.results import Results, select
from ..visualize import draw_instances
from .service import Refused, Service

LISTED = 5  # files that a message names


def write_archive(
    service: Service, files: Sequence[Path], target: Path, min_score: float
) -> tuple[int, list[str]]:
    """Detects in image files, one after the other.

    The zip has NUMBER_NAME.jpg of each image, numbered from 1, and detections.json in COCO's
    result format, see :class:`.predictor.results.Results`.

    Args:
        files: in the order of their numbers.
        target: the zip.
        min_score: of what is drawn and written.

    Returns:
        How many were images, and why each of the others was none, a line each.
    """
    results, errors, number = Results(service.predictor.class_names), [], 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, path in enumerate(files, 1):
            try:
                if path.stat().st_size > service.limits.max_bytes:
                    raise service.too_large()
                picture, found = service.detect(path.read_bytes())
            except (Refused, MemoryError, TimeoutError) as error:
                errors.append(f"{path.name}: {error or 'no answer in time'}")
                continue
            found, _ = select(found, min_score)
            results.add(number, path.name, found)
            rgb = np.ascontiguousarray(picture[..., ::-1])
            drawn = draw_instances(rgb, found, service.predictor.class_names)
            _, data = cv2.imencode(".jpg", drawn[..., ::-1])
            archive.writestr(f"{number}_{path.stem}.jpg", data.tobytes())
        archive.writestr("detections.json", json.dumps(results.rows, indent=1))
    return number - len(errors), errors


def summary(images: int, errors: Sequence[str]) -> str:
    """What became of the files, for people."""
    lines = [f"{images} images"]
    if errors:
        lines += [f"{len(errors)} files were left out:", *errors[:LISTED]]
    if len(errors) > LISTED:
        lines.append(f"and {len(errors) - LISTED} more")
    return "\n\n".join(lines)
