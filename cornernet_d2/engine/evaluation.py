"""The evaluator of a dataset, by the ``evaluator_type`` in its metadata."""

import copy
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from typing import Any
from unittest import mock

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    LVISEvaluator,
    PascalVOCDetectionEvaluator,
    coco_evaluation,
)
from detectron2.utils import comm
from torch import distributed as dist
from torch import nn

from ..data.coco import repair
from ..modeling import CornerNet
from ..prepare import prepare_for_inference


class FasterCOCOEvaluator(COCOEvaluator):
    """COCOEvaluator that counts with the package faster-coco-eval, to the same numbers."""

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        from faster_coco_eval import COCOeval_faster

        # The name by which Detectron2 knows its own fast implementation, on all versions.
        with mock.patch.object(coco_evaluation, "COCOeval_opt", COCOeval_faster):
            return super().evaluate(*args, **kwargs)


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluator:
    """VOC and LVIS sets get their own evaluator, everything else COCO's on boxes.

    COCO's is counted by compiled code where there is some: Detectron2's or faster-coco-eval's.

    Args:
        cfg: uses OUTPUT_DIR and TEST.DETECTIONS_PER_IMAGE.
        dataset_name: a registered dataset.
        output_folder: where predictions are written; by default OUTPUT_DIR/inference/NAME.
    """
    output_folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference", dataset_name)
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
    if evaluator_type == "pascal_voc":
        return PascalVOCDetectionEvaluator(dataset_name)
    if evaluator_type == "lvis":
        return LVISEvaluator(dataset_name, tasks=("bbox",), output_dir=output_folder)
    compiled = _has_compiled_detectron2()
    faster = not compiled and find_spec("faster_coco_eval") is not None
    evaluator = (FasterCOCOEvaluator if faster else COCOEvaluator)(
        dataset_name,
        tasks=("bbox",),
        output_dir=output_folder,
        max_dets_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        use_fast_impl=compiled or faster,
    )
    truth = evaluator._coco_api
    notes = repair(truth.dataset)
    if notes:
        truth.createIndex()
        logging.getLogger(__name__).warning("%s: %s", dataset_name, "; ".join(notes))
    return evaluator


def tested_model(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """What is evaluated for ``model``: with MODEL.CORNERNET.TEST.FAST a prepared copy of it."""
    if cfg.MODEL.CORNERNET.TEST.FAST and isinstance(model, CornerNet):
        return prepare_for_inference(model)
    return model


@contextmanager
def printed_to_log() -> Iterator[None]:
    """What is printed inside goes to the log when it is over."""
    with redirect_stdout(io.StringIO()) as printed:
        yield
    logging.getLogger("detectron2.evaluation").info("Printed:\n%s", printed.getvalue())


def same_everywhere(model: nn.Module, device: torch.device) -> nn.Module:
    """``model`` or a copy of it, on ``device`` and the same in all processes; a collective call."""
    if next(model.parameters()).device != device:  # MODEL_EMA.DEVICE
        model = copy.deepcopy(model).to(device)
    if comm.get_world_size() > 1:
        # Running statistics differ between processes; the checkpoint has those of rank 0.
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
    return model


def _has_compiled_detectron2() -> bool:
    """Detectron2's fast COCO evaluation needs its extension; a Python stand-in does not count."""
    spec = find_spec("detectron2._C")
    return spec is not None and (spec.origin or "").endswith(tuple(EXTENSION_SUFFIXES))
