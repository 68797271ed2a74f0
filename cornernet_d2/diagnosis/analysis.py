"""A model through a dataset once: the causes of its errors, and AP with perfect outputs."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.structures import Boxes, Instances

from ..canvas import Canvas
from ..data import CornerNetDatasetMapper
from ..data.annotations import boxes_xyxy, is_ignored
from ..modeling import CornerNet, InferenceWithTTA
from ..modeling.outputs import CornerMaps
from .causes import diagnose
from .matching import Truth
from .oracle import Oracle
from .stages import trace
from .summary import Summary


class Analysis(NamedTuple):
    """What :func:`analyze` found.

    Attributes:
        name: of the dataset.
        summary: the causes, added up.
        oracle: the evaluator's box metrics, one dict per entry of :data:`.oracle.ROWS`; empty if
            they were not asked for.
    """

    name: str
    summary: Summary
    oracle: list[dict[str, float]]


class TruthMapper:
    """Detectron2's test mapper, which drops the objects, with them in "instances" and "truth"."""

    def __init__(self, cfg: CfgNode) -> None:
        self.mapper = CornerNetDatasetMapper(cfg, is_train=False)

    def __call__(self, dataset_dict: Mapping) -> dict:
        every = dataset_dict["annotations"]
        truth = Truth(
            boxes_xyxy(every),
            np.array([obj["category_id"] for obj in every], dtype=np.int64),
            np.array([is_ignored(obj) for obj in every], dtype=bool),
            np.array([bool(obj.get("iscrowd")) for obj in every], dtype=bool),
        )
        result = self.mapper(dataset_dict)
        height, width = result["image"].shape[-2:]
        scale = np.array([width / result["width"], height / result["height"]] * 2)
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.from_numpy(truth.boxes[~truth.ignored] * scale))
        instances.gt_classes = torch.from_numpy(truth.classes[~truth.ignored])
        return {**result, "instances": instances, "truth": truth}


@torch.no_grad()
def analyze(
    cfg: CfgNode, model: CornerNet, name: str, *, oracle: bool = True, min_score: float = 0.0
) -> Analysis:
    """Diagnose a model on a registered dataset, at one scale and without mirror images.

    Args:
        cfg: the model's config.
        model: in eval mode.
        name: of the dataset.
        oracle: evaluate with perfect outputs, too; takes most of the time.
        min_score: detections below do not count as detections; the oracle does not know of it.

    Raises:
        ValueError: the dataset comes without annotations, or names fewer classes than it has.
    """
    dicts = DatasetCatalog.get(name)
    if not all("annotations" in d for d in dicts):
        raise ValueError(f"{name} has images without 'annotations': there is no truth to put in")
    inference = model.corner_inference
    if isinstance(inference, InferenceWithTTA):
        inference = inference.inference
    table = Oracle(cfg, name, model, inference) if oracle else None
    images = []
    for x, canvas, maps in _maps(cfg, model, dicts):
        stages = trace(inference, model.pairing, maps, canvas, (x["height"], x["width"]))
        lowest = inference.soft_nms["min_score"]
        images.append(diagnose(x["truth"], stages, min_score, lowest, x["file_name"]))
        if table:
            table.add(x, canvas, maps)
    summary = Summary(images, _class_names(cfg, name))
    return Analysis(name, summary, table.results() if table else [])


def _maps(
    cfg: CfgNode, model: CornerNet, dicts: list[dict]
) -> Iterator[tuple[dict, Canvas, CornerMaps]]:
    """Each image's dict with its truth, its canvas and the model's maps."""
    loader = build_detection_test_loader(
        dataset=dicts, mapper=TruthMapper(cfg), num_workers=cfg.DATALOADER.NUM_WORKERS
    )
    for (x,) in loader:
        pixels, canvas = model.preprocess_image([x])
        yield x, canvas, model.last_maps(pixels)


def _class_names(cfg: CfgNode, name: str) -> list[str]:
    names = list(MetadataCatalog.get(name).get("thing_classes", []))
    number = cfg.MODEL.CORNERNET.NUM_CLASSES
    if names and len(names) != number:
        raise ValueError(f"{name} has {len(names)} classes, MODEL.CORNERNET.NUM_CLASSES {number}")
    return names or [str(index) for index in range(number)]
