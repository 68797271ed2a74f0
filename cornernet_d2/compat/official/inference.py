"""What the authors' release (princeton-vl/CornerNet) computes, its known bugs included.

Inference follows their ``test/coco.py`` and ``external/nms.pyx``, without the rounding to two
decimals in which they write results to file:

* boxes without area are kept;
* images of another scale are made by OpenCV, in 8 bits, and boxes go back by the nominal scale;
* no more corners and pairs are kept than the config says, for up to 100 detections;
* soft-NMS is :func:`.soft_nms.official_soft_nms`;
* an image keeps all boxes that reach the K-th best score, class by class.

They mirror boxes at the width of the view, ``x -> width - x``, but train with ``width - 1 - x``,
so that theirs come back one pixel to the right. The padding is a setting of the model.
"""

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from ...canvas import Canvas, Size
from ...modeling.decode import REJECTED, Pairs
from ...modeling.inference import INFERENCE_REGISTRY, Candidates, CornerInference
from ...modeling.outputs import CornerMaps
from ...modeling.pairing import Pairing
from .soft_nms import official_soft_nms


class OfficialInference(CornerInference):
    """The authors' test loop."""

    enough_for = 100  # of every config; CornerNet-Squeeze keeps 20 corners a side all the same

    def decode(self, maps: CornerMaps, canvas: Canvas, pairing: Pairing) -> Pairs:
        return self.decode_corners(maps, canvas, pairing, keep_empty=True)

    def to_image(self, pairs: Pairs, canvas: Canvas) -> Pairs:
        return pairs._replace(boxes=canvas.to_image(pairs.boxes))

    def resize(self, image: Tensor, size: Size, device: torch.device) -> Tensor:
        return resize_like_opencv(image, size).to(device, non_blocking=True)

    def factor(self, given: Size, resized: Size, scale: float | None) -> tuple[float, float]:
        return super().factor(given, resized, scale) if scale is None else (scale, scale)

    def suppress(self, candidates: Candidates) -> Candidates:
        boxes, scores, corner_scores, classes, images = _on_cpu(candidates)
        kept = []
        for image in images.unique():
            mine = (images == image) & (scores > REJECTED)
            rows = official_soft_nms(
                boxes[mine],
                scores[mine],
                corner_scores[mine],
                classes[mine],
                **self.soft_nms,
                merge_exponent=self.merge_exponent,
            )
            best = self.best(rows.scores)
            fields = (rows.boxes, rows.scores, corner_scores[mine], rows.classes)
            kept.append([*(field[best] for field in fields), image.expand(len(best))])
        device = candidates.boxes.device
        fields = (torch.cat(field) for field in zip(*kept))
        return Candidates(*(field.to(device, non_blocking=True) for field in fields))

    def best(self, scores: Tensor) -> Tensor:
        """Which boxes of an image are kept: as many more as share the score of the last."""
        if self.max_detections is None or len(scores) <= self.max_detections:
            return torch.arange(len(scores))
        if self.max_detections == 0:
            return torch.arange(0)
        return (scores >= scores.topk(self.max_detections).values[-1]).nonzero().squeeze(1)


def _on_cpu(candidates: Candidates) -> Candidates:
    """In one copy: float64 holds every number of the fields."""
    boxes, scores, corner_scores, classes, images = candidates
    numbers = (boxes, scores[:, None], corner_scores, classes[:, None], images[:, None])
    numbers = torch.cat([field.double() for field in numbers], 1).cpu()
    boxes, scores, corner_scores, classes, images = numbers.split((4, 1, 2, 1, 1), 1)
    return Candidates(
        boxes.float(),
        scores.squeeze(1).float(),
        corner_scores.float(),
        classes.squeeze(1).long(),
        images.squeeze(1).long(),
    )


def resize_like_opencv(image: Tensor, size: Size) -> Tensor:
    """What ``cv2.resize`` gives for the 8-bit image (3, h, w), to the bit, on the CPU.

    Args:
        image: uint8, or float of whole numbers.
        size: (height, width).

    Returns:
        (3, height, width): the image itself if it has that size, else uint8.
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    pixels = image.permute(1, 2, 0).round().clamp(0, 255).to("cpu", torch.uint8).numpy()
    pixels = cv2.resize(np.ascontiguousarray(pixels), (size[1], size[0]))
    return torch.from_numpy(pixels).permute(2, 0, 1)


@INFERENCE_REGISTRY.register()
def official(cfg: CfgNode) -> CornerInference:
    return OfficialInference(cfg)
