"""What MMDetection computes: 3.x, and where it differs 2.x, whose config tests mirror images.

Inference:

* corners left of or above the image are moved onto its edge before they are paired;
* nothing is clipped at the right and bottom edges, not even in the results;
* a mirror image is the mirrored canvas, from which the border of the image as given is taken off;
  boxes are clipped at 0 there and go back by the width of the image. Of an even width they come
  one pixel too far left (the right border is one pixel wider), and may start left of 0.
* images of another scale are made by OpenCV, in 8 bits.

Its soft-NMS sets classes apart by adding to the coordinates, whose float32 then round: scores of 80
classes differ by up to 1e-4 from ours. The padding is a setting of the model.
"""

import dataclasses

import torch
from detectron2.config import CfgNode
from torch import Tensor

from ...canvas import Canvas, Size
from ...modeling.decode import Pairs
from ...modeling.inference import INFERENCE_REGISTRY, CornerInference
from ...modeling.outputs import CornerMaps
from ...modeling.pairing import Pairing
from ..official import resize_like_opencv


class MMDetInference(CornerInference):
    """``CornerHead.predict``, and of 2.x ``CornerNet.aug_test``."""

    clips_end = False

    def decode(self, maps: CornerMaps, canvas: Canvas, pairing: Pairing) -> Pairs:
        origin = _unmirrored(canvas).origin(maps["tl"]["heatmap"].device)
        return self.decode_corners(maps, canvas, pairing, origin=origin)

    def to_image(self, pairs: Pairs, canvas: Canvas) -> Pairs:
        boxes = _unmirrored(canvas).to_image(pairs.boxes, clip_end=False)
        if any(canvas.mirrored):
            views = [(w, m) for (_, w), m in zip(canvas.image_sizes, canvas.mirrored)]
            views = torch.tensor(views, dtype=torch.float32).to(boxes.device, non_blocking=True)
            width, mirrored = views[:, :1], views[:, 1:, None] > 0
            x0, y0, x1, y1 = boxes.unbind(-1)
            boxes = torch.where(mirrored, torch.stack((width - x1, y0, width - x0, y1), -1), boxes)
        return pairs._replace(boxes=boxes)

    def resize(self, image: Tensor, size: Size, device: torch.device) -> Tensor:
        return resize_like_opencv(image, size).to(device, non_blocking=True)


def _unmirrored(canvas: Canvas) -> Canvas:
    return dataclasses.replace(canvas, mirrored=(False,) * len(canvas.mirrored))


@INFERENCE_REGISTRY.register()
def mmdet(cfg: CfgNode) -> CornerInference:
    return MMDetInference(cfg)
