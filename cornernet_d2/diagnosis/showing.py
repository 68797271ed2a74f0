"""A detection drawn with what it was made of: its corners, its pair, the heat maps."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances
from torch import nn

from ..modeling import CornerNet
from ..modeling.outputs import CornerMaps
from ..visualize import CornerNetVisualizer, side_by_side, titled
from .heat import GAMMA, at_pixels, heat_in_image
from .matching import overlaps
from .stages import PairTable, Stages, trace

KINDS = ("corners", "heatmaps", "pairs")


class Onlooker:
    """A model at one scale and without mirror images, whose last maps are kept to be drawn.

    Args:
        model: stays as it is; in eval mode.

    Attributes:
        model: a copy that shares the weights, to detect with, one image at a time.
    """

    def __init__(self, model: CornerNet) -> None:
        self.model = copy.copy(model)
        self.model.corner_inference = model.corner_inference.one_view
        self.maps: CornerMaps | None = None
        self.model.head[-1].register_forward_hook(self._keep)

    def _keep(self, head: nn.Module, args: tuple, maps: CornerMaps) -> None:
        self.maps = maps

    def show(self, x: Mapping, *args: Any) -> np.ndarray:
        """:func:`show` of the image that the model saw last; the network does not run again."""
        return show(self.model, x, *args, maps=self.maps)


@torch.no_grad()
def show(
    model: CornerNet,
    x: Mapping,
    picture: np.ndarray,
    kind: str,
    choose: Callable[[Instances], Instances] = lambda found: found,
    class_names: Sequence[str] | None = None,
    maps: CornerMaps | None = None,
) -> np.ndarray:
    """Detect at one scale and without mirror images, and draw.

    Args:
        model: in eval mode.
        x: a dict as the model takes it: "image", "height", "width".
        picture: (height, width, 3) uint8 RGB.
        kind: one of :data:`KINDS`. "corners": each with its score; "pairs": the line between them,
            and the distance that the pairing gives it; "heatmaps": those of both corners, the
            highest class of each cell, its square root.
        choose: which detections are drawn.
        class_names: by class index.
        maps: what the network made of ``x`` alone; None: it runs.

    Returns:
        (H', W', 3) uint8 RGB; enlarged where the picture is small.
    """
    inference = model.corner_inference.one_view
    pixels, canvas = model.preprocess_image([x])
    maps = maps or model.last_maps(pixels)
    stages = trace(inference, model.pairing, maps, canvas, (x["height"], x["width"]))
    found = choose(explained(stages, picture.shape[:2]))
    metadata = Metadata(thing_classes=list(class_names)) if class_names else None
    labels = [_label(*pair, class_names) for pair in zip(found.pred_classes, found.scores)]

    def visualizer() -> CornerNetVisualizer:
        return CornerNetVisualizer(picture, metadata)

    if kind == "heatmaps":
        drawn = []
        for title, heat in zip(("top-left", "bottom-right"), heat_in_image(maps, canvas)):
            each = visualizer()
            each.draw_heatmap(at_pixels(heat, picture.shape[:2]), stride=1, gamma=GAMMA)
            each.draw_boxes(found.pred_boxes, labels)
            drawn.append(titled(each.get_output().get_image(), f"{title} corners"))
        return side_by_side(drawn)
    each = visualizer()
    if kind == "corners":
        each.draw_corners(found)
    else:
        each.draw_boxes(found.pred_boxes, labels)
        each.draw_pairs(found, model.pairing.limit or 1.0)
    return each.get_output().get_image()


def explained(stages: Stages, size: tuple[int, int]) -> Instances:
    """The detections of one image with ``corner_scores`` (M, 2) and, if the pairing gives any,
    ``pair_distances`` (M,) of the accepted pair that each of them is."""
    found, pairs = stages.detections, stages.pairs
    result = Instances(size)
    result.pred_boxes = Boxes(torch.from_numpy(found.boxes).float().reshape(-1, 4))
    result.scores = torch.from_numpy(found.scores).float()
    result.pred_classes = torch.from_numpy(found.classes)
    if not len(found.boxes):
        return result
    best = _pairs_of(found.boxes, found.classes, pairs)
    corners = pairs.corners[best]
    scores = np.stack((stages.tl.scores[corners[:, 0]], stages.br.scores[corners[:, 1]]), axis=1)
    result.corner_scores = torch.from_numpy(scores)
    if pairs.distances is not None:
        result.pair_distances = torch.from_numpy(pairs.distances[best])
    return result


def _pairs_of(boxes: np.ndarray, classes: np.ndarray, pairs: PairTable) -> np.ndarray:
    """The pair of each detection: of its class, accepted, and of most overlap."""
    overlap = overlaps(boxes, pairs.boxes)
    overlap[classes[:, None] != pairs.classes] = -1
    overlap[:, ~pairs.kept] = -1
    return overlap.argmax(axis=1)


def _label(index: torch.Tensor, score: torch.Tensor, names: Sequence[str] | None) -> str:
    return f"{names[index] if names else int(index)} {float(score):.0%}"
