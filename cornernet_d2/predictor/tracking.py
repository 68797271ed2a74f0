"""Numbers that stay with objects from frame to frame: ByteTrack, of the package trackers.

Zhang et al., "ByteTrack: Multi-Object Tracking by Associating Every Detection Box", ECCV 2022.
"""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.structures import Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer

HINT = "--track needs the package trackers: pip install trackers"
LOWEST = 0.1  # score of detections that can keep a track alive
_COLOURS = colormap(rgb=True, maximum=1)


class Tracker:
    """Follows objects, each class apart.

    Args:
        fps: of the video.
        min_score: of a detection that begins a track; weaker ones continue some.

    Raises:
        ValueError: the package is not installed.
    """

    def __init__(self, fps: float, min_score: float) -> None:
        try:
            from supervision import Detections
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise ValueError(HINT) from error
        self._detections = Detections
        self._make = lambda: ByteTrackTracker(
            frame_rate=fps,
            track_activation_threshold=min_score,
            high_conf_det_threshold=min_score,
        )
        self._trackers: dict[int, ByteTrackTracker] = {}
        self._numbers: dict[tuple[int, int], int] = {}  # (class, its tracker's) -> from 1

    def update(self, instances: Instances) -> Instances:
        """The detections of the next frame that are followed.

        Args:
            instances: of one frame, on the CPU, of all scores.

        Returns:
            Some of them, in their order, with track_ids (M,) int64.
        """
        classes = instances.pred_classes.numpy()
        numbers = np.full(len(instances), -1)
        for index in sorted({*self._trackers, *classes.tolist()}):
            if index not in self._trackers:
                self._trackers[index] = self._make()
            rows = ((classes == index) & (instances.scores.numpy() >= LOWEST)).nonzero()[0]
            followed = self._trackers[index].update(
                self._detections(
                    xyxy=instances.pred_boxes.tensor.numpy()[rows].reshape(-1, 4),
                    confidence=instances.scores.numpy()[rows],
                    data={"row": rows},
                )
            )
            for row, number in zip(followed.data.get("row", ()), followed.tracker_id):
                if number >= 0:
                    key = (index, int(number))
                    numbers[row] = self._numbers.setdefault(key, len(self._numbers) + 1)
        kept = instances[torch.from_numpy((numbers >= 0).nonzero()[0])]
        kept.track_ids = torch.from_numpy(numbers[numbers >= 0])
        return kept


def draw_tracks(picture: np.ndarray, found: Instances, names: Sequence[str] | None) -> np.ndarray:
    """(H, W, 3) RGB with boxes in the colour of their number, which the label says."""
    visualizer = Visualizer(picture)
    rows = zip(found.track_ids.tolist(), found.pred_classes.tolist(), found.scores.tolist())
    labels, colours = [], []
    for number, index, score in rows:
        labels.append(f"#{number} {names[index] if names else index} {score:.0%}")
        colours.append(_COLOURS[number % len(_COLOURS)])
    if labels:
        boxes = found.pred_boxes.tensor.numpy()
        visualizer.overlay_instances(boxes=boxes, labels=labels, assigned_colors=colours)
    return visualizer.output.get_image()
