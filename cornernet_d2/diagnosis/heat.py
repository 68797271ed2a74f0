"""Heat maps as pictures of a report need them: small, and of the image alone.

Letters: h, w cells that an image covers, H, W image (pixels).
"""

import math

import cv2
import numpy as np
import torch

from ..canvas import Canvas
from ..modeling.outputs import CORNERS, CornerMaps

GAMMA = 0.5  # that they are drawn with: a score of 0.04 looks like 0.2


def heat_in_image(maps: CornerMaps, canvas: Canvas) -> np.ndarray:
    """(2, h, w) uint8 of the one image: the highest class of each cell, 255 for 1; top-left first.

    Args:
        maps: (1, C, ., .) logits.
    """
    highest = torch.stack([maps[corner]["heatmap"][0].amax(0) for corner in CORNERS])
    heat = (highest.float().sigmoid() * 255).byte().cpu().numpy()
    (top, left), (height, width) = canvas.borders[0], canvas.image_sizes[0]
    across, down = canvas.cells_per_pixel
    rows = slice(int(top * down), math.ceil((top + height) * down))
    return heat[:, rows, int(left * across) : math.ceil((left + width) * across)]


def at_pixels(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 in [0, 1] of one corner's (h, w) uint8; ``size`` is (H, W)."""
    pixels = cv2.resize(heat, size[::-1], interpolation=cv2.INTER_LINEAR)
    return pixels.astype(np.float32) / 255
