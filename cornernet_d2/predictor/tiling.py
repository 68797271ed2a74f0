"""Pictures much larger than the network's input: overlapping tiles, and the whole made small.

An object that fits into the overlap lies whole in one tile at least. What touches an inner edge of
its tile is cut, and dropped; larger objects come from a pass over the whole picture.

Letters: M boxes, T tiles; boxes are ``x0 y0 x1 y1`` in pixels of the picture.
"""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..modeling.soft_nms import batched_soft_nms

OVERLAP = 0.25  # of a tile's side
EDGE = 2.0  # pixels: a box that ends so near an inner edge is cut

Detect = Callable[[Sequence[np.ndarray]], list[Instances]]


def tile_boxes(height: int, width: int, tile: int) -> Tensor:
    """(T, 4) tiles of ``tile`` pixels a side or less that cover a picture, row after row."""
    rows, columns = _starts(height, tile), _starts(width, tile)
    size = torch.tensor([min(width, tile), min(height, tile)])
    corners = torch.tensor([(x, y) for y in rows for x in columns])
    return torch.cat([corners, corners + size], dim=1)


def detect_tiled(picture: np.ndarray, tile: int, detect: Detect, cfg: CfgNode) -> Instances:
    """Detect objects in a picture tile by tile.

    Args:
        picture: (H, W, 3).
        tile: side of a tile in pixels of the picture.
        detect: pictures -> Instances of each in its own pixels, on the CPU.
        cfg: for soft-NMS across tiles, MODEL.CORNERNET.TEST.SOFT_NMS.
    """
    height, width = picture.shape[:2]
    tiles = tile_boxes(height, width, tile)
    found = []
    for x0, y0, x1, y1 in tiles.tolist():
        (part,) = detect([np.ascontiguousarray(picture[y0:y1, x0:x1])])
        boxes = part.pred_boxes.tensor + torch.tensor([x0, y0, x0, y0])
        whole = ~_cut(boxes, (x0, y0, x1, y1), (height, width))
        found.append((boxes[whole], part.scores[whole], part.pred_classes[whole]))
    overlap = OVERLAP * tile
    found.append(_large_objects(picture, tile, overlap, detect))
    boxes, scores, classes = (torch.cat(parts) for parts in zip(*found))
    boxes, scores, classes = _merge(boxes, scores, classes, tiles, overlap, cfg)
    result = Instances((height, width))
    result.pred_boxes, result.scores, result.pred_classes = Boxes(boxes), scores, classes
    return result


def _starts(side: int, tile: int) -> list[int]:
    if side <= tile:
        return [0]
    step = tile - math.ceil(OVERLAP * tile)
    number = 1 + math.ceil((side - tile) / step)
    return [round(i * (side - tile) / (number - 1)) for i in range(number)]


def _cut(boxes: Tensor, tile: tuple, size: tuple[int, int]) -> Tensor:
    """(M,) bool: which boxes of a tile end at an edge that is not the picture's."""
    x0, y0, x1, y1 = tile
    cut = torch.zeros(len(boxes), dtype=torch.bool)
    for axis, low, high, end in ((0, x0, x1, size[1]), (1, y0, y1, size[0])):
        if low > 0:
            cut |= boxes[:, axis] < low + EDGE
        if high < end:
            cut |= boxes[:, axis + 2] > high - EDGE
    return cut


def _longer_side(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)


def _large_objects(
    picture: np.ndarray, tile: int, overlap: float, detect: Detect
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and classes of what is larger than the overlap, from the picture made small."""
    height, width = picture.shape[:2]
    factor = tile / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    (found,) = detect([cv2.resize(picture, size, interpolation=cv2.INTER_AREA)])
    scale = torch.tensor([width / size[0], height / size[1]]).repeat(2)
    boxes = found.pred_boxes.tensor * scale
    large = _longer_side(boxes) > overlap - 2 * EDGE
    return boxes[large], found.scores[large], found.pred_classes[large]


def _merge(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    tiles: Tensor,
    overlap: float,
    cfg: CfgNode,
) -> tuple[Tensor, Tensor, Tensor]:
    """Soft-NMS among boxes that can have been found twice; all, sorted by score.

    The others have been through soft-NMS with their tile, and would be lowered a second time.
    """
    corners = torch.maximum(boxes[:, None, :2], tiles[None, :, :2])
    ends = torch.minimum(boxes[:, None, 2:], tiles[None, :, 2:])
    seen = (ends > corners).all(dim=2).sum(dim=1)
    twice = (seen > 1) | (_longer_side(boxes) > overlap - 2 * EDGE)
    settings = cfg.MODEL.CORNERNET.TEST.SOFT_NMS
    keep, lowered = batched_soft_nms(
        boxes[twice],
        scores[twice],
        classes[twice],
        settings.METHOD,
        settings.SIGMA,
        settings.IOU_THRESHOLD,
        settings.MIN_SCORE,
    )
    index = torch.cat([(~twice).nonzero()[:, 0], twice.nonzero()[:, 0][keep]])
    scores = torch.cat([scores[~twice], lowered.to(scores.dtype)])
    order = scores.sort(descending=True, stable=True).indices
    return boxes[index][order], scores[order], classes[index][order]
