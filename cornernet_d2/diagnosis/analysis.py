"""A model through a dataset once: the causes of its errors, and AP with perfect outputs."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader
from detectron2.structures import Boxes, Instances

from ..data import CornerNetDatasetMapper
from ..modeling import CornerNet
from .causes import diagnose
from .heat import heat_in_image
from .oracle import Oracle
from .pairing_view import PairingView
from .saved_maps import load_maps, save_maps
from .settings import Settings
from .stages import trace
from .summary import Summary
from .truth import truth_of


class Analysis(NamedTuple):
    """What :func:`analyze` found.

    Attributes:
        name: of the dataset.
        summary: the causes, added up.
        oracle: which outputs were perfect (:data:`.oracle.ROWS`) -> the evaluator's box metrics;
            empty if they were not asked for.
        settings: key of MODEL.CORNERNET.TEST -> value -> AP at an IoU of 0.5, in [0, 1]; likewise.
        used: the value in use of each of these keys.
        pairing: what the pairing says of the true corners.
    """

    name: str
    summary: Summary
    oracle: dict[tuple[str, ...], dict[str, float]]
    settings: dict[str, dict[float, float]]
    used: dict[str, float]
    pairing: PairingView


class TruthMapper:
    """Detectron2's test mapper, which drops the objects, with them in "instances" and "truth"."""

    def __init__(self, cfg: CfgNode) -> None:
        self.mapper = CornerNetDatasetMapper(cfg, is_train=False)

    def __call__(self, dataset_dict: Mapping) -> dict:
        truth = truth_of(dataset_dict["annotations"])
        result = self.mapper(dataset_dict)
        height, width = result["image"].shape[-2:]
        scale = np.array([width / result["width"], height / result["height"]] * 2)
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.from_numpy(truth.boxes[~truth.ignored] * scale))
        instances.gt_classes = torch.from_numpy(truth.classes[~truth.ignored])
        return {**result, "instances": instances, "truth": truth}


@torch.no_grad()
def analyze(
    cfg: CfgNode,
    model: CornerNet,
    name: str,
    *,
    oracle: bool = True,
    settings: bool = False,
    min_score: float = 0.0,
    save_to: Path | None = None,
    load_from: Path | None = None,
    heat: bool = True,
) -> Analysis:
    """Diagnose a model on a registered dataset, at one scale and without mirror images.

    Args:
        cfg: the model's config.
        model: in eval mode.
        name: of the dataset.
        oracle: evaluate with perfect outputs, too; takes six decodings an image, nine with centres.
        settings: try those of :data:`.settings.VALUES`, too; takes 17 decodings an image.
        min_score: detections below do not count; oracle and settings do not know of it.
        save_to: folder to write the network's maps to.
        load_from: folder that they were written to: the network is not run.
        heat: keep each image's heat maps, for the examples of a page.

    Raises:
        ValueError: the dataset comes without annotations or names another number of classes than
            the model, or maps are missing.
    """
    dicts = DatasetCatalog.get(name)
    if not all("annotations" in d for d in dicts):
        raise ValueError(f"{name} has images without 'annotations': there is no truth to put in")
    names = _class_names(cfg, name)
    inference = model.corner_inference.one_view
    table = Oracle(cfg, name, model, inference) if oracle else None
    trials = Settings(inference, model.pairing, len(names)) if settings else None
    images, pairing = [], PairingView(model.pairing.limit)
    for number, x in enumerate(_loader(cfg, dicts)):
        pixels, canvas = model.preprocess_image([x])
        maps = load_maps(load_from, number, x, model.device) if load_from else None
        maps = maps or model.last_maps(pixels)
        if save_to:
            save_maps(save_to, number, x, maps)
        size = x["height"], x["width"]
        stages = trace(inference, model.pairing, maps, canvas, size)
        lowest = inference.soft_nms["min_score"]
        image = diagnose(x["truth"], stages, min_score, lowest, x["file_name"])
        images.append(image._replace(heat=heat_in_image(maps, canvas)) if heat else image)
        pairing.add(model, x, maps, canvas)
        if table:
            table.add(x, canvas, maps)
        if trials:
            trials.add(x["truth"], maps, canvas, size)
    return Analysis(
        name,
        Summary(images, names),
        table.results() if table else {},
        trials.results() if trials else {},
        trials.used if trials else {},
        pairing,
    )


def _loader(cfg: CfgNode, dicts: list[dict]) -> Iterator[dict]:
    """Each image's dict with its truth."""
    workers = cfg.DATALOADER.NUM_WORKERS
    mapper = TruthMapper(cfg)
    for (x,) in build_detection_test_loader(dataset=dicts, mapper=mapper, num_workers=workers):
        yield x


def _class_names(cfg: CfgNode, name: str) -> list[str]:
    names = list(MetadataCatalog.get(name).get("thing_classes", []))
    number = cfg.MODEL.CORNERNET.NUM_CLASSES
    if names and len(names) != number:
        raise ValueError(f"{name} has {len(names)} classes, MODEL.CORNERNET.NUM_CLASSES {number}")
    return names or [str(index) for index in range(number)]
