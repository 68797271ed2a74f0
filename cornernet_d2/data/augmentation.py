"""The paper's training augmentations as Detectron2 ``Augmentation``s.

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

# Principal components of ImageNet's colours (Krizhevsky et al. 2012, section 4.1), one row per
# channel in B, G, R order, and their standard deviations, for pixels in 0..1.
COLOR_EIGENVECTORS = np.array(
    [
        [-0.58752847, -0.69563484, 0.41340352],
        [-0.5832747, 0.00994535, -0.81221408],
        [-0.56089297, 0.71832671, 0.41158938],
    ]
)
COLOR_EIGENVALUES = np.array([0.2141788, 0.01817699, 0.00341571])
GREY_WEIGHTS = np.array([0.114, 0.587, 0.299])  # of B, G, R (ITU-R BT.601)


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
        fill: value outside the image, a number or one per channel.
    """

    def __init__(
        self,
        center: Sequence[int],
        crop_size: Sequence[int],
        output_size: Sequence[int],
        fill: float | Sequence[float] = 0,
    ):
        super().__init__()
        self.center = tuple(map(int, center))
        self.crop_size = tuple(map(int, crop_size))
        self.output_size = tuple(map(int, output_size))
        self.fill = fill

    def _crop(self, image: np.ndarray, fill: float | Sequence[float], interp: int) -> np.ndarray:
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


class RandomScaleCrop(T.Augmentation):
    """Crop of ``size`` times one of ``scales`` around a random point, resized to ``size``.

    The point keeps ``border`` pixels of distance from the image's borders; where the image is too
    small for that, the distance is halved until it fits.

    Raises:
        ValueError: no scale, or one that leaves less than two pixels.
    """

    def __init__(
        self,
        size: Sequence[int],
        scales: Sequence[float],
        border: int = 128,
        fill: float | Sequence[float] = 0,
    ):
        super().__init__()
        if len(size) != 2 or not len(scales) or min(size) * min(scales) < 2:
            raise ValueError(
                "INPUT.CORNERNET.CROP needs SIZE (height, width) and SCALES that leave at least "
                f"2 pixels a side, got {size} and {scales}"
            )
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> ScaleCropTransform:
        scale = np.random.choice(self.scales)
        height, width = image.shape[:2]
        x, y = (
            np.random.randint(low, side - low)
            for side, low in ((side, self.least_distance(side)) for side in (width, height))
        )
        crop_size = [int(side * scale) for side in self.size]
        return ScaleCropTransform((x, y), crop_size, self.size, self.fill)

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


class ColorTransform(T.Transform):
    """Linear change of colour, ``matrix @ pixel + bias``; the result is float32 and not clipped.

    Args:
        matrix: (3, 3).
        bias: (3,), in 0..255.
    """

    ROWS = 64  # converted at once, so that what lies between uint8 and result stays in the cache

    def __init__(self, matrix: np.ndarray, bias: np.ndarray):
        super().__init__()
        self.matrix = np.column_stack([matrix, bias]).astype(np.float32)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        img, output = contiguous(img), np.empty(img.shape, np.float32)
        for row in range(0, len(img), self.ROWS):
            rows = slice(row, row + self.ROWS)
            output[rows] = cv2.transform(img[rows].astype(np.float32), self.matrix)
        return output

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def apply_box(self, box: np.ndarray) -> np.ndarray:
        return box

    def inverse(self) -> T.Transform:
        return T.NoOpTransform()


class ColorJitter(T.Augmentation):
    """Brightness, contrast and saturation in random order, then a shift along the colours' axes.

    Args:
        strength: in [0, 1]; each of the three changes by a factor in 1 +- ``strength``.
        lighting: standard deviation of the draws that the principal components are multiplied
            by, ("PCA lighting").
        image_format: "BGR" or "RGB".
    """

    STEPS = ("brightness", "contrast", "saturation")

    def __init__(self, strength: float = 0.4, lighting: float = 0.1, image_format: str = "BGR"):
        super().__init__()
        if image_format not in ("BGR", "RGB"):
            raise ValueError(
                "INPUT.CORNERNET.COLOR_JITTER and LIGHTING need INPUT.FORMAT BGR or RGB, got "
                f"{image_format}; set both to 0 for others"
            )
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> ColorTransform:
        order = np.random.permutation(self.STEPS)
        factors = np.random.uniform(1 - self.strength, 1 + self.strength, len(order))
        alpha = np.random.normal(scale=self.lighting, size=3)
        return self.transform(image, order, factors, alpha)

    def transform(
        self,
        image: np.ndarray,
        order: Sequence[str],
        factors: Sequence[float],
        alpha: Sequence[float] = (0, 0, 0),
    ) -> ColorTransform:
        """The transform for given draws.

        All steps are linear in the pixel and its grey value, so their product is one matrix. The
        grey values are those of the image before any step.

        Args:
            image: HWC, before any step.
            order: names from ``STEPS``.
            factors: of each of them.
            alpha: what each principal component is multiplied by.
        """
        channels = slice(None, None, 1 if self.image_format == "BGR" else -1)
        grey = GREY_WEIGHTS[channels]
        mean = grey @ cv2.mean(contiguous(image))[:3]
        matrix, bias = np.eye(3), np.zeros(3)
        for name, factor in zip(order, factors):
            matrix, bias = matrix * factor, bias * factor
            if name == "contrast":
                bias = bias + (1 - factor) * mean
            elif name == "saturation":
                matrix = matrix + (1 - factor) * grey
        shift = 255 * COLOR_EIGENVECTORS @ (COLOR_EIGENVALUES * alpha)
        return ColorTransform(matrix, bias + shift[channels])
