"""The page that a training leaves: curves, AP of each class, worst images, how to go on.

It takes the run's metrics.json and the detections of its last evaluation: no network is run.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from . import pictures
from .causes import FITS, ImageDiagnosis, false_causes
from .html import code, document, figure, heading, paragraph, table
from .matching import Found, match
from .page import class_parts, gallery_parts, part_tables
from .summary import Summary
from .truth import truth_of

logger = logging.getLogger(__name__)

NAME = "report.html"
RESULTS = "coco_instances_results.json"
GALLERY = 6  # worst images of a dataset
LOST = "missed"  # why is known to `cornernet analyze` alone
# A plot each, of the metrics that begin so.
CURVES = {"loss": ("loss_", "total_loss"), "loss on the test set": ("validation/",)}


def write_report(cfg: CfgNode) -> Path | None:
    """Write OUTPUT_DIR/report.html; None, and a line in the log, where there is nothing to say.

    Whatever goes wrong here is logged: a training does not fail for want of its report.

    Args:
        cfg: of the run; TEST.REPORT turns it off.
    """
    if not cfg.TEST.REPORT:
        return None
    path = Path(cfg.OUTPUT_DIR) / NAME
    try:
        path.write_text(training_page(cfg), "utf-8")
    except Exception as error:  # of files of any kind that a run may leave
        logger.warning("%s was not written: %s: %s", path, type(error).__name__, error)
        return None
    logger.info("What was learnt, on one page: %s", path)
    return path


def training_page(cfg: CfgNode) -> str:
    """The page of the run in OUTPUT_DIR.

    Raises:
        OSError, ValueError: it left no metrics, or results cannot be read.
    """
    folder = Path(cfg.OUTPUT_DIR)
    metrics = read_metrics(folder / "metrics.json")
    parts = [*_how(folder), *_curves(metrics)]
    for name in cfg.DATASETS.TEST:
        results = folder / "inference" / name / RESULTS
        if results.is_file():
            summary = summarise(name, results)
            parts += [heading(name, 2), *_evaluations(metrics), *class_parts(summary)]
            parts += [*part_tables(summary), *gallery_parts(summary, GALLERY)]
    return document(f"Training in {folder}", parts)


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Name -> (iteration, value) of what a run has written; later values replace earlier ones."""
    rows: dict[str, dict[int, float]] = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        for name, value in record.items():
            if isinstance(value, (int, float)):
                rows.setdefault(name, {})[int(record["iteration"])] = float(value)
    return {name: sorted(values.items()) for name, values in rows.items()}


def read_results(path: Path, name: str) -> dict[object, Found]:
    """Image id -> detections, best first, of what COCOEvaluator wrote for a loaded dataset."""
    to_class = MetadataCatalog.get(name).get("thing_dataset_id_to_contiguous_id")
    rows: dict[object, list[tuple]] = {}
    for item in json.loads(path.read_text()):
        x, y, w, h = item["bbox"]
        index = to_class[item["category_id"]] if to_class else item["category_id"]
        row = (x, y, x + w, y + h, item["score"], index)
        rows.setdefault(item["image_id"], []).append(row)
    return {image: _found(each) for image, each in rows.items()}


def summarise(name: str, results: Path) -> Summary:
    """Objects found or missed, and what false detections are, of a registered dataset.

    Args:
        results: what COCOEvaluator wrote for it.
    """
    images = []
    dicts = DatasetCatalog.get(name)  # which tells Detectron2 the ids of a json's categories
    every = read_results(results, name)
    for d in dicts:
        truth, found = truth_of(d["annotations"]), every.get(d["image_id"], _found([]))
        matches = match(found, truth, FITS)
        lost = (matches.objects < 0) & ~truth.ignored
        false, confused = false_causes(truth, found, matches)
        missed = tuple(LOST if each else "" for each in lost)
        image = ImageDiagnosis(truth, found, matches, missed, false, confused, d["file_name"])
        images.append(image)
    names = MetadataCatalog.get(name).get("thing_classes")
    number = 1 + max((int(x.truth.classes.max(initial=0)) for x in images), default=0)
    return Summary(images, names or [str(i) for i in range(number)])


def _found(rows: list[tuple]) -> Found:
    array = np.array(rows, dtype=np.float64).reshape(-1, 6)
    array = array[np.argsort(-array[:, 4], kind="stable")]
    return Found(array[:, :4], array[:, 4], array[:, 5].astype(np.int64))


def _how(folder: Path) -> list[str]:
    best = next((n for n in ("model_best.pth", "model_final.pth") if (folder / n).is_file()), "")
    weights = os.path.join(folder, best)
    commands = [
        f"cornernet predict {weights} IMAGES --output drawn/",
        f"cornernet analyze {weights} --html analysis.html --json analysis.json",
        f"cornernet predict {weights} IMAGES --output drawn/ --thresholds analysis.json",
    ]
    text = "To use it, to see why it misses what it misses, and to draw with the best thresholds:"
    return [paragraph(text), code("\n".join(commands))] if best else []


def _curves(metrics: Mapping[str, list[tuple[int, float]]]) -> Iterator[str]:
    groups = {
        **CURVES,
        "AP": tuple(name for name in metrics if name in ("bbox/AP", "bbox/AP50", "bbox/AP75")),
        "learning rate": ("lr",),
    }
    for title, starts in groups.items():
        lines = {n: v for n, v in metrics.items() if starts and n.startswith(starts) and v}
        if lines:
            if title == "AP":
                lines = {n.removeprefix("bbox/"): v for n, v in lines.items() if n in starts}
            yield figure(pictures.curves(lines, title), f"{title} over the iterations")


def _evaluations(metrics: Mapping[str, list[tuple[int, float]]]) -> list[str]:
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    known = [name for name in names if metrics.get(f"bbox/{name}")]
    iterations = [i for i, _ in metrics.get("bbox/AP", ())][-10:]
    rows = []
    for iteration in iterations:
        values = (dict(metrics[f"bbox/{name}"]).get(iteration, float("nan")) for name in known)
        rows.append((iteration, *(f"{value:.1f}" for value in values)))
    return [table(("iteration", *known), rows)] if rows else []
