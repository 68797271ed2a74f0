"""A dataset as columns of numbers, from which every statistic of it is a few array operations.

Letters: N images, M objects of all images, C classes. Boxes are ``x0 y0 x1 y1``.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...data.annotations import boxes_xyxy, is_ignored
from ...data.reading import image_size


class Contents(NamedTuple):
    """Images and annotations in their order.

    Attributes:
        sizes: (N, 2) int64, height and width of each image, pixels.
        boxes: (M, 4) float64, image pixels.
        classes: (M,) int64.
        images: (M,) int64, the image of each annotation, ascending.
        ignored: (M,) bool: crowds and the like, which are nobody's object.
        class_names: C names.
    """

    sizes: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    images: np.ndarray
    ignored: np.ndarray
    class_names: Sequence[str]

    @classmethod
    def of(cls, dicts: Sequence[Mapping], class_names: Sequence[str]) -> "Contents":
        """Of Detectron2's dataset dicts that have been found sound.

        Raises:
            ValueError: an image is without size, and its file cannot be read.
        """
        rows = [obj for d in dicts for obj in d["annotations"]]
        counts = [len(d["annotations"]) for d in dicts]
        return cls(
            np.array([image_size(d) for d in dicts], dtype=np.int64).reshape(-1, 2),
            boxes_xyxy(rows),
            np.array([obj["category_id"] for obj in rows], dtype=np.int64),
            np.repeat(np.arange(len(dicts)), counts),
            np.array([is_ignored(obj) for obj in rows], dtype=bool),
            list(class_names),
        )

    def take(self, chosen: np.ndarray) -> "Contents":
        """The annotations that a mask of M says; all images stay."""
        fields = (x[chosen] for x in (self.boxes, self.classes, self.images, self.ignored))
        return Contents(self.sizes, *fields, self.class_names)

    @property
    def objects(self) -> "Contents":
        """Without what is ignored."""
        return self.take(~self.ignored)

    @property
    def counts(self) -> np.ndarray:
        """(N,) annotations of each image."""
        return np.bincount(self.images, minlength=len(self.sizes))

    @property
    def extents(self) -> np.ndarray:
        """(M, 2) width and height, pixels."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @property
    def sides(self) -> np.ndarray:
        """(M,) root of the area, pixels."""
        return np.sqrt(self.extents.clip(min=0).prod(axis=1))

    def zoom(self, min_size: int, max_size: int) -> np.ndarray:
        """(N,) what Detectron2's resizing for a test multiplies the images' sides by.

        Args:
            min_size, max_size: INPUT.MIN_SIZE_TEST, of which 0 leaves images as they are, and
                INPUT.MAX_SIZE_TEST.
        """
        if not min_size:
            return np.ones(len(self.sizes))
        short, long = self.sizes.min(axis=1), self.sizes.max(axis=1)
        return np.minimum(min_size / short, max_size / long)

    def sharing(self, zoom: np.ndarray, stride: int) -> np.ndarray:
        """(M,) bool: a corner lies in the cell of another object's, same corner and image.

        Args:
            zoom: (N,) as of :meth:`zoom`; images lie at the top left of their canvas.
            stride: pixels of what the network sees, per cell.
        """
        scale = zoom[self.images]
        limit = np.ceil(self.sizes[self.images][:, ::-1] * scale[:, None] / stride) - 1
        shared = np.zeros(len(self.boxes), dtype=bool)
        for side in (0, 2):
            cells = np.floor(self.boxes[:, side : side + 2] * scale[:, None] / stride)
            cells = cells.clip(0, limit).astype(np.int64)
            keys = (self.images << 40) + (cells[:, 1] << 20) + cells[:, 0]
            _, inverse, number = np.unique(keys, return_inverse=True, return_counts=True)
            shared |= number[inverse.reshape(-1)] > 1
        return shared
