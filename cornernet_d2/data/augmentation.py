"""The paper's crop and mirror as Detectron2 ``Augmentation``s; colours are in colors.py.

An ``Augmentation`` draws from ``numpy.random``, as Detectron2's own do, so its worker seeds and
random states apply. What was drawn is passed to a ``Transform``, which is deterministic: give a
transform the draws yourself to repeat a case. Images are HWC in 0..255, sizes (height, width),
points (x, y).

Sources: Law & Deng, "CornerNet", section 4.1, and the authors' released code.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import transforms as T


def contiguous(image: np.ndarray) -> np.ndarray:
    """``np.ascontiguousarray``, ten times as fast for the mirrored view that flips return."""
    if image.ndim == 3 and image.strides[1] < 0:
        return cv2.flip(np.ascontiguousarray(image[:, ::-1]), 1).reshape(image.shape)
    return np.ascontiguousarray(image)


class ScaleCropTransform(T.Transform):
    """Cut a window around a point, fill what lies outside the image, and resize it.

    Args:
        center: (x, y) pixel that becomes the middle of the window.
        crop_size: size of the window, pixels of the input. Of an odd side the window covers one
            pixel less, as in the authors' code; the last row or column is fill.
        output_size: size of the output, pixels.
        fill: value outside the image, a number or one per channel. With a fraction, the output
            is float32.
        patch: ``x0 y0 x1 y1``, pixels of the input: boxes whose centre does not lie inside come
            out empty, which drops them. None keeps all.
    """

    def __init__(
        self,
        center: Sequence[int],
        crop_size: Sequence[int],
        output_size: Sequence[int],
        fill: float | Sequence[float] = 0,
        patch: Sequence[int] | None = None,
    ):
        super().__init__()
        self.patch = patch
        self.center = tuple(map(int, center))
        self.crop_size = tuple(map(int, crop_size))
        self.output_size = tuple(map(int, output_size))
        self.fill = fill
        self.fill_is_fraction = bool(np.mod(fill, 1).any()) if fill else False

    def _crop(self, image: np.ndarray, fill: float | Sequence[float], interp: int) -> np.ndarray:
        if fill is self.fill and self.fill_is_fraction and image.dtype == np.uint8:
            image = image.astype(np.float32)
        inside, onto = [], []
        for position, side, limit in zip(self.center[::-1], self.crop_size, image.shape):
            low, high = max(position - side // 2, 0), min(position + side // 2, limit)
            inside.append(slice(low, high))
            onto.append(slice(low - position + side // 2, high - position + side // 2))
        window = image[tuple(inside)]
        if window.shape[:2] != self.crop_size:
            canvas = np.empty((*self.crop_size, *image.shape[2:]), image.dtype)
            canvas[:] = fill
            canvas[tuple(onto)] = window
            window = canvas
        output = cv2.resize(window, self.output_size[::-1], interpolation=interp)
        return output.reshape(*self.output_size, *image.shape[2:])  # cv2 drops a single channel

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Cut and resize, bilinear unless a cv2 interpolation flag says otherwise."""
        return self._crop(img, self.fill, cv2.INTER_LINEAR if interp is None else interp)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self._crop(segmentation, 0, cv2.INTER_NEAREST)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        shift = [side // 2 - x for side, x in zip(self.crop_size[::-1], self.center)]
        scale = [out / side for out, side in zip(self.output_size, self.crop_size)][::-1]
        return (coords + shift) * scale

    def apply_box(self, box: np.ndarray) -> np.ndarray:
        output = super().apply_box(box)
        if self.patch is not None:
            outside = ~self.holds_center(box)
            output[outside, 2:] = output[outside, :2]
        return output

    def holds_center(self, boxes: np.ndarray) -> np.ndarray:
        """(M,) bool, which boxes (M, 4), pixels of the input, have their centre in the patch."""
        center = (boxes[:, :2] + boxes[:, 2:]) / 2
        return ((center > self.patch[:2]) & (center < self.patch[2:])).all(axis=1)


class RandomScaleCrop(T.Augmentation):
    """Crop of ``size`` times one of ``scales`` around a random point, resized to ``size``.

    The point keeps ``border`` pixels of distance from the image's borders; where the image is too
    small for that, the distance is halved until it fits.

    Args:
        size: (height, width) of the output, pixels.
        scales: to draw from.
        border, fill: pixels; see :class:`ScaleCropTransform`.
        center_inside: drop objects whose centre is not in the crop, and draw a crop that holds no
            centre of the image's objects again: TRIES points, then another scale, as often at most.

    Raises:
        ValueError: no scale, or one that leaves less than two pixels.
    """

    TRIES = 50

    def __init__(
        self,
        size: Sequence[int],
        scales: Sequence[float],
        border: int = 128,
        fill: float | Sequence[float] = 0,
        center_inside: bool = False,
    ):
        super().__init__()
        if len(size) != 2 or not len(scales) or min(size) * min(scales) < 2:
            raise ValueError(
                "INPUT.CORNERNET.CROP needs SIZE (height, width) and SCALES that leave at least "
                f"2 pixels a side, got {size} and {scales}"
            )
        self._init(locals())

    def get_transform(
        self, image: np.ndarray, boxes: np.ndarray | None = None
    ) -> ScaleCropTransform:
        for _ in range(self.TRIES):
            scale = np.random.choice(self.scales)
            for _ in range(self.TRIES):
                crop = self._draw_point(image.shape[:2], scale)
                if not self.center_inside or boxes is None or not len(boxes):
                    return crop
                if crop.holds_center(boxes).any():
                    return crop
        return crop

    def _draw_point(self, image_size: Sequence[int], scale: float) -> ScaleCropTransform:
        height, width = image_size
        x, y = (
            np.random.randint(low, side - low)
            for side, low in ((side, self.least_distance(side)) for side in (width, height))
        )
        crop_size = [int(side * scale) for side in self.size]
        patch = None
        if self.center_inside:
            (top, bottom), (left, right) = (
                (max(point - side // 2, 0), min(point + side // 2, limit))
                for point, side, limit in zip((y, x), crop_size, image_size)
            )
            patch = (left, top, right, bottom)
        return ScaleCropTransform((x, y), crop_size, self.size, self.fill, patch)

    def least_distance(self, side: int) -> int:
        """Pixels that the point keeps from both ends of a side of that many pixels."""
        divisor = 1
        while side - self.border // divisor <= self.border // divisor:
            divisor *= 2
        return self.border // divisor


class PixelFlipTransform(T.HFlipTransform):
    """Mirror that sends x to ``width - 1 - x``, as the authors' code does.

    It takes coordinates for indices of pixels; Detectron2's, ``width - x``, for points between.
    """

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords[:, 0] = self.width - 1 - coords[:, 0]
        return coords


class RandomPixelFlip(T.RandomFlip):
    """Detectron2's horizontal ``RandomFlip`` with :class:`PixelFlipTransform`."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        transform = super().get_transform(image)
        if isinstance(transform, T.HFlipTransform):
            return PixelFlipTransform(transform.width)
        return transform
