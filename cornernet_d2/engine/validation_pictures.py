"""The same images of the test set at every evaluation, so that progress can be watched."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.engine import HookBase
from detectron2.evaluation.evaluator import inference_context
from torch import nn

from ..modeling import CornerNet
from ..modeling.monitoring import draw_example
from .validation_loss import validation_mapper

IMAGES = 8


class ValidationPictures(HookBase):
    """Put a picture of each of :data:`IMAGES` images in the storage at every evaluation.

    They are spread evenly over the first of DATASETS.TEST, prepared as in a test, seen at one scale
    and not mirrored. For the main process alone; models other than CornerNet are left out.

    Args:
        cfg: of the run.
        evaluated_model: gives the model.
    """

    def __init__(self, cfg: CfgNode, evaluated_model: Callable[[], nn.Module]) -> None:
        self.period = cfg.TEST.EVAL_PERIOD
        self.evaluated_model = evaluated_model
        self.mapper = validation_mapper(cfg)
        name = cfg.DATASETS.TEST[0]
        self.dicts = evenly(get_detection_dataset_dicts(name, filter_empty=False), IMAGES)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or self.period > 0 and done % self.period == 0:
            model = self.evaluated_model()
            if isinstance(model, CornerNet):
                for number, picture in enumerate(self.draw(model)):
                    picture = picture.transpose(2, 0, 1)
                    self.trainer.storage.put_image(f"validation/{number}", picture)

    @torch.no_grad()
    def draw(self, model: CornerNet) -> list[np.ndarray]:
        """A picture (H, W, 3) uint8 RGB of each image that has annotations."""
        pictures = []
        with inference_context(model):
            for dataset_dict in self.dicts:
                if "annotations" not in dataset_dict:
                    continue
                x = self.mapper(dataset_dict)
                pixels, canvas = model.preprocess_image([x])
                (targets,) = model.corner_targets([x], canvas)
                maps = model.last_maps(pixels)
                inference = model.corner_inference.one_view
                (detections,) = inference.detect(maps, canvas, model.pairing)
                pictures.append(draw_example(model, x, maps, targets, detections))
        return pictures


def evenly(items: Sequence[dict], number: int) -> list[dict]:
    """At most ``number`` of them, from the first to the last."""
    chosen = np.linspace(0, len(items) - 1, min(number, len(items))).round().astype(int)
    return [items[index] for index in chosen]
