"""What one forward pass saw, to be decoded again with other settings.

Letters: H, W picture (pixels), C classes, h, w map (cells).
"""

import copy
import threading
from collections import OrderedDict
from typing import NamedTuple

import cv2
import numpy as np
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances

from ..canvas import Canvas
from ..diagnosis import CornerNetVisualizer
from ..modeling.decode import Candidates
from ..modeling.outputs import CORNERS, CornerMaps
from ..predictor import Predictor
from ..visualize import MIN_SIDE, draw_heatmap, draw_instances

LONGEST = 1280  # pictures are shown at most so long, pixels


class Look(NamedTuple):
    """One picture as the network saw it.

    Attributes:
        picture: (H, W, 3) uint8 RGB, as it is shown: its longer side at most LONGEST.
        maps: what decoding needs of them.
        canvas: of the one image.
    """

    picture: np.ndarray
    maps: CornerMaps
    canvas: Canvas

    @property
    def nbytes(self) -> int:
        return self.picture.nbytes + sum(
            x.nbytes for side in self.maps.values() for x in side.values()
        )


class Explorer:
    """Looks at pictures, and draws what is found in them with any settings.

    Scales and mirror images of test-time augmentation are left out.

    Args:
        predictor: of a CornerNet.
        lock: held while the network runs.
    """

    def __init__(self, predictor: Predictor, lock: threading.Lock) -> None:
        self.predictor, self.lock = predictor, lock
        model = predictor.model
        self.inference, self.pairing = model.corner_inference.one_view, model.pairing

    @property
    def threshold(self) -> float | None:
        """The largest distance of embeddings that pair; None where pairs have another rule."""
        return getattr(self.pairing, "threshold", None)

    def look(self, picture: np.ndarray) -> Look:
        """Runs the network on an (H, W, 3) uint8 BGR picture.

        Raises:
            MemoryError: it would not fit.
        """
        x, model = self.predictor.to_input(picture), self.predictor.model
        self.predictor.check_memory([tuple(x["image"].shape[-2:])])
        with self.lock, torch.no_grad():
            pixels, canvas = model.preprocess_image([x])
            maps = model.last_maps(pixels)
        needed = ("heatmap", "offset", *self.pairing.decoded)
        maps = {name: {key: side[key] for key in needed} for name, side in maps.items()}
        factor = min(1.0, LONGEST / max(picture.shape[:2]))
        size = [max(1, round(side * factor)) for side in picture.shape[1::-1]]
        shown = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        return Look(np.ascontiguousarray(shown[..., ::-1]), maps, canvas)

    @torch.no_grad()
    def detect(self, look: Look, top_k: int, threshold: float | None = None) -> Instances:
        """What is found with these settings, best first.

        Args:
            top_k: corners of a side.
            threshold: see :attr:`threshold`; None: the model's.

        Returns:
            Instances on the CPU: pred_boxes (pixels of ``look.picture``), scores, pred_classes and
            corner_scores (M, 2).
        """
        inference, pairing, canvas = copy.copy(self.inference), self.pairing, look.canvas
        inference.decoding = {**inference.decoding, "top_k": top_k}
        if threshold is not None and self.threshold is not None:
            pairing = copy.copy(pairing)
            pairing.threshold = threshold
        pairs = inference.to_image(inference.decode(look.maps, canvas, pairing), canvas)
        found = inference.suppress(Candidates.of(pairs, pairs.classes.new_zeros(1)))
        size = look.picture.shape[:2]
        found = inference.to_output(found, canvas.image_sizes, [size])
        found = found.take(found.images == 0)
        result = Instances(size)
        result.pred_boxes, result.scores = Boxes(found.boxes), found.scores
        result.pred_classes, result.corner_scores = found.classes, found.corner_scores
        return result.to("cpu")

    def boxes(self, look: Look, found: Instances) -> np.ndarray:
        """The picture with labelled boxes, (H, W, 3) RGB, small ones enlarged."""
        return draw_instances(look.picture, found, self.predictor.class_names)

    def pairs(self, look: Look, found: Instances) -> np.ndarray:
        """The picture with corners and their scores, and a line that joins each pair."""
        visualizer = CornerNetVisualizer(look.picture, Metadata())
        visualizer.draw_corners(found)
        return visualizer.draw_pairs(found).get_image()

    def heat(self, look: Look, index: int | None = None) -> list[np.ndarray]:
        """The heat maps of top-left and of bottom-right corners over the picture.

        Args:
            index: of the class; None: the highest of all in each cell.
        """
        (height, width), canvas = look.canvas.image_sizes[0], look.canvas
        factor = min(max(1.0, MIN_SIDE / min(height, width)), LONGEST / max(height, width))
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        seen = cv2.resize(look.picture, size)
        origin = tuple(round(side * factor) for side in canvas.borders[0])
        drawn = []
        for corner in CORNERS:
            heat = look.maps[corner]["heatmap"][0].float().sigmoid()
            heat = heat if index is None else heat[index]
            stride = factor / canvas.cells_per_pixel[0]
            drawn.append(draw_heatmap(seen, heat.cpu().numpy(), stride, origin))
        return drawn


class Looks:
    """The last look of each session; the longest unused are forgotten.

    Args:
        max_bytes: of all together; the newest is kept in any case.
    """

    def __init__(self, max_bytes: int = 2**30) -> None:
        self.max_bytes, self._lock = max_bytes, threading.Lock()
        self._looks: OrderedDict[str, Look] = OrderedDict()

    def put(self, session: str, look: Look) -> None:
        with self._lock:
            self._looks.pop(session, None)
            self._looks[session] = look
            while len(self._looks) > 1 and self.nbytes > self.max_bytes:
                self._looks.popitem(last=False)

    def get(self, session: str) -> Look | None:
        with self._lock:
            if session in self._looks:
                self._looks.move_to_end(session)
            return self._looks.get(session)

    def drop(self, session: str) -> None:
        with self._lock:
            self._looks.pop(session, None)

    @property
    def nbytes(self) -> int:
        return sum(look.nbytes for look in self._looks.values())
