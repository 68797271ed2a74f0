"""Files of images: which there are, and the size that the network sees them in."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
from detectron2.data import transforms as T
from PIL import Image

from ..data.reading import read_file

IMAGE_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


def find_images(inputs: Sequence[str | PathLike]) -> list[Path]:
    """Lists files as given, and the images directly inside folders by name.

    Raises:
        ValueError: something does not exist, or a folder has no image.
    """
    images = []
    for path in map(Path, inputs):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_ENDINGS)
            if not inside:
                raise ValueError(f"{path} holds no image ({' '.join(IMAGE_ENDINGS)})")
            images += inside
        elif path.is_file():
            images.append(path)
        else:
            raise ValueError(f"{path} does not exist")
    return images


def read_picture(source: str | PathLike | np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 BGR of a file, the first of its frames, or of an array in that form.

    Raises:
        ValueError: no image can be read, or another kind of array.
    """
    if not isinstance(source, np.ndarray):
        return read_file(str(source), "BGR")
    if source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8 or not source.size:
        raise ValueError(
            f"an image must be (H, W, 3) uint8 in BGR order, got {source.shape} {source.dtype}"
        )
    return source


def network_size(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """(height, width) after INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST, in pixels, each at least 1.

    As Detectron2's ResizeShortestEdge, of which a 1x3000 image may come out with no row.
    """
    if not min_size:
        return height, width
    new_height, new_width = T.ResizeShortestEdge.get_output_shape(height, width, min_size, max_size)
    return max(1, new_height), max(1, new_width)


def resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """As Detectron2 resizes images in tests."""
    height, width = picture.shape[:2]
    if (height, width) == size:
        return picture
    return T.ResizeTransform(height, width, *size, Image.BILINEAR).apply_image(picture)
