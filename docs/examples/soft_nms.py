"""The step that `export --raw` leaves to the host: Gaussian soft-NMS with numpy."""

import numpy as np


def soft_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    sigma: float = 0.5,
    min_score: float = 0.001,
    picks: int = 100,
) -> list[tuple[np.ndarray, float, int]]:
    """(box, score, class) of one image, best first; boxes (P, 4), scores (P,), classes (P,)."""
    left, found = np.where(scores >= min_score, scores, 0.0), []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while len(found) < picks and left.any():
        best = left.argmax()
        found.append((boxes[best], float(left[best]), int(classes[best])))
        corner = np.maximum(boxes[:, :2], boxes[best, :2])
        size = np.clip(np.minimum(boxes[:, 2:], boxes[best, 2:]) - corner, 0, None)
        shared = size.prod(1)
        iou = shared / np.maximum(areas + areas[best] - shared, 1e-9)
        left = left * np.where(classes == classes[best], np.exp(-(iou**2) / sigma), 1.0)
        left[best] = 0.0
        left[left < min_score] = 0.0
    return found
