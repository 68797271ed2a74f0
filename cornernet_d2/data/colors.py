"""Changes of colour as Detectron2 ``Augmentation``s: the paper's, and SSD's.

As in augmentation.py, an ``Augmentation`` draws from ``numpy.random`` and a ``Transform`` is
deterministic. Images are HWC in 0..255, in either order of channels; results are float32 and not
clipped.

Sources: Law & Deng, "CornerNet", section 4.1, and the authors' released code; Liu et al., "SSD",
section 2.2, and its released code.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import transforms as T

from .augmentation import contiguous

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
HSV_CODES = {"BGR": ("BGR2HSV", "HSV2BGR"), "RGB": ("RGB2HSV", "HSV2RGB")}


class PixelTransform(T.Transform):
    """A transform that moves nothing."""

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def apply_box(self, box: np.ndarray) -> np.ndarray:
        return box

    def inverse(self) -> T.Transform:
        return T.NoOpTransform()


class ColorTransform(PixelTransform):
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


class DistortionTransform(PixelTransform):
    """SSD's changes of colour for given draws; see :class:`PhotometricDistortion`.

    Args:
        brightness: added, in 0..255; each of the five is None where the step is left out.
        contrast, saturation: factors.
        hue: added, degrees.
        channels: order of the channels of the output.
        contrast_last: contrast changes after saturation and hue instead of before them.
        image_format: "BGR" or "RGB", the order that ``channels`` counts in as well.
    """

    def __init__(
        self,
        brightness: float | None = None,
        contrast: float | None = None,
        saturation: float | None = None,
        hue: float | None = None,
        channels: Sequence[int] | None = None,
        contrast_last: bool = False,
        image_format: str = "BGR",
    ):
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        image = contiguous(img).astype(np.float32)
        if self.brightness is not None:
            image += np.float32(self.brightness)
        if self.contrast is not None and not self.contrast_last:
            image *= np.float32(self.contrast)
        if self.saturation is not None or self.hue is not None:
            image = self._change_hsv(image)
        if self.contrast is not None and self.contrast_last:
            image *= np.float32(self.contrast)
        return image if self.channels is None else image[..., list(self.channels)]

    def _change_hsv(self, image: np.ndarray) -> np.ndarray:
        to, back = (getattr(cv2, f"COLOR_{name}") for name in HSV_CODES[self.image_format])
        hsv = cv2.cvtColor(image, to)  # hue 0..360, saturation 0..1, value as the image
        if self.saturation is not None:
            hsv[..., 1] *= np.float32(self.saturation)
            if self.saturation > 1:
                np.minimum(hsv[..., 1], 1, out=hsv[..., 1])
        if self.hue is not None:
            hsv[..., 0] = (hsv[..., 0] + np.float32(self.hue)) % 360
        return cv2.cvtColor(hsv, back)


class PhotometricDistortion(T.Augmentation):
    """SSD's distortion: each of five steps with probability 1/2, contrast before or after colour.

    Brightness +-32, contrast and saturation times 0.5 to 1.5, hue +-18 degrees, any order of the
    channels.

    Args:
        image_format: "BGR" or "RGB".
    """

    def __init__(self, image_format: str = "BGR"):
        super().__init__()
        if image_format not in HSV_CODES:
            raise ValueError(
                "INPUT.CORNERNET.PHOTOMETRIC_DISTORTION needs INPUT.FORMAT BGR or RGB, got "
                f"{image_format}"
            )
        self.image_format = image_format

    def get_transform(self, image: np.ndarray) -> DistortionTransform:
        contrast_last = bool(np.random.randint(2))
        chosen = np.random.randint(2, size=5)
        ranges = ((-32, 32), (0.5, 1.5), (0.5, 1.5), (-18, 18))
        draws = [*(np.random.uniform(*ends) for ends in ranges), np.random.permutation(3)]
        steps = (draw if taken else None for draw, taken in zip(draws, chosen))
        return DistortionTransform(*steps, contrast_last, self.image_format)
