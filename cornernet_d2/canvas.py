"""The one coordinate system: where images lie on the canvas that the network sees, and its map.

Letters: N images, K boxes of each, H, W canvas (pixels), h, w map (cells). Boxes are
``x0 y0 x1 y1``; pairs of numbers are (x, y) in tensors and (height, width) or (top, left) in
tuples. Only this file converts between image pixels, canvas pixels and cells.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

Size = tuple[int, int]

PADDINGS = ("bottom_right", "center_black", "center_mean")


def map_size(canvas_size: Sequence[int], stride: int) -> Size:
    """(h, w) of the map of a canvas (H, W): a cell for every begun ``stride`` pixels."""
    return math.ceil(canvas_size[0] / stride), math.ceil(canvas_size[1] / stride)


def cells_per_pixel(canvas_size: Sequence[int], stride: int) -> tuple[float, float]:
    """(x, y): 1 / stride for multiples of it, and 128 / 511 for the authors' canvas of 511."""
    height, width = map_size(canvas_size, stride)
    return width / canvas_size[1], height / canvas_size[0]


@dataclasses.dataclass(frozen=True)
class Canvas:
    """One canvas for N images, and the place of each on it. Equal numbers make equal canvases.

    Attributes:
        size: (H, W) in pixels.
        stride: canvas pixels per cell of the map.
        padding: one of PADDINGS; the two centred ones differ only in what surrounds the images.
        image_sizes: (height, width) of each image, pixels.
        borders: (top, left) of each image on the canvas, pixels, before any mirroring.
        training: centred images keep their last row and column when they fill the canvas.
        is_mirrored: the images are seen mirrored; boxes come back unmirrored.
    """

    size: Size
    stride: int
    padding: str
    image_sizes: tuple[Size, ...]
    borders: tuple[Size, ...]
    training: bool = False
    is_mirrored: bool = False

    @classmethod
    def fit(
        cls,
        image_sizes: Sequence[Sequence[int]],
        divisibility: int,
        stride: int,
        padding: str = "bottom_right",
        *,
        training: bool = False,
    ) -> "Canvas":
        """The smallest canvas that every image fits on.

        Args:
            image_sizes: (height, width) of N >= 1 images, pixels.
            divisibility: d: sides become multiples of d ("bottom_right"), or ``side | (d - 1)``
                as in the authors' test code, one short of a multiple (d must be a power of two).
            stride: canvas pixels per cell.
            padding: one of PADDINGS.
            training: one image alone gets a canvas of two tiles of ``divisibility`` at least: of a
                single tile the innermost level sees one value, from which batch norm cannot learn.

        Raises:
            ValueError: a size, divisibility or stride below 1, an unknown padding, or a centred
                one with a divisibility that is no power of two.
        """
        sizes = tuple((int(height), int(width)) for height, width in image_sizes)
        if padding not in PADDINGS:
            raise ValueError(f"padding must be one of {PADDINGS}, got {padding!r}")
        if min(divisibility, stride, *(side for size in sizes for side in size)) < 1:
            raise ValueError(
                f"image sizes {list(sizes)}, divisibility {divisibility} or stride {stride} below 1"
            )
        if padding != "bottom_right" and divisibility & (divisibility - 1):
            raise ValueError(f"padding {padding!r} needs a power of two, got {divisibility}")

        def enlarge(side: int) -> int:
            if padding == "bottom_right":
                return -(-side // divisibility) * divisibility
            return side | (divisibility - 1)

        height, width = (enlarge(max(size[axis] for size in sizes)) for axis in (0, 1))
        if training and len(sizes) == 1 and max(height, width) <= divisibility:
            width = enlarge(divisibility + 1)
        if padding == "bottom_right":
            borders = ((0, 0),) * len(sizes)
        else:
            borders = tuple((height // 2 - h // 2, width // 2 - w // 2) for h, w in sizes)
        return cls((height, width), stride, padding, sizes, borders, training)

    @property
    def map_size(self) -> Size:
        """(h, w) in cells."""
        return map_size(self.size, self.stride)

    @property
    def cells_per_pixel(self) -> tuple[float, float]:
        """(x, y); see :func:`cells_per_pixel`."""
        return cells_per_pixel(self.size, self.stride)

    def mirrored(self) -> "Canvas":
        """The same canvas for mirror images; :meth:`to_image` turns their boxes back.

        "bottom_right" pads mirror images at the same sides; the centred paddings mirror the whole
        canvas, as the authors and MMDetection do.
        """
        return dataclasses.replace(self, is_mirrored=not self.is_mirrored)

    def paste(self, images: Sequence[Tensor], pixel_mean: Tensor, pixel_std: Tensor) -> Tensor:
        """Normalise images and place them on the canvas.

        Padding "bottom_right" and "center_mean" is 0 after normalising, "center_black" before. The
        authors and MMDetection test on an image only up to the canvas' last row and column: one
        that fills the canvas loses its own. They train on crops that they do not pad.

        Args:
            images: N tensors (3, height, width) in 0..255, any dtype, on one device, not mirrored.
            pixel_mean, pixel_std: (3, 1, 1) float32, on the same device.

        Returns:
            (N, 3, H, W) float32.
        """
        fill = torch.zeros_like(pixel_mean)
        if self.padding == "center_black":
            fill = -pixel_mean / pixel_std
        batch = fill.expand(len(images), -1, *self.size).clone()
        in_place = self.is_mirrored and self.padding == "bottom_right"
        unused = 0 if self.training or self.padding == "bottom_right" else 1
        for pixels, image, (top, left) in zip(batch, images, self.borders):
            image = image.flip(-1) if in_place else image
            image = image[:, : self.size[0] - top - unused, : self.size[1] - left - unused]
            area = pixels[:, top : top + image.shape[-2], left : left + image.shape[-1]]
            area.copy_((image - pixel_mean) / pixel_std)
        return batch.flip(-1) if self.is_mirrored and not in_place else batch

    def place(self, boxes: Tensor, image: int) -> Tensor:
        """Boxes (M, 4) in pixels of an image, not mirrored, in pixels of the canvas."""
        top, left = self.borders[image]
        return boxes + boxes.new_tensor((left, top, left, top))

    def origin(self, device: torch.device | str = "cpu") -> Tensor:
        """(N, 2) float32 x, y, the images' top-left corners as the network sees them, cells."""
        border, size, axis, ratio = self._numbers(device)
        if self.is_mirrored:
            left = axis - border[:, 0] - size[:, 0]
            border = torch.stack((left, border[:, 1]), 1)
        return border * ratio

    def to_image(self, boxes: Tensor, *, clip_end: bool = True) -> Tensor:
        """Boxes (N, K, 4) in cells -> (N, K, 4) in pixels of the images, unmirrored and clipped.

        Args:
            boxes: float32.
            clip_end: clip at the right and bottom edges too, not only at 0.
        """
        border, size, axis, ratio = self._numbers(boxes.device)
        if self.is_mirrored:
            x0, y0, x1, y1 = boxes.unbind(-1)
            axis = (axis * ratio[0])[:, None]
            boxes = torch.stack((axis - x1, y0, axis - x0, y1), -1)
        boxes = (boxes / ratio.repeat(2) - border.repeat(1, 2)[:, None]).clamp(min=0)
        return torch.minimum(boxes, size.repeat(1, 2)[:, None]) if clip_end else boxes

    def _numbers(self, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Borders (N, 2), sizes (N, 2), axes of mirroring (N,), pixels; cells per pixel (2,)."""
        in_image = self.padding == "bottom_right"
        rows = [
            (left, top, width, height, width if in_image else self.size[1], *self.cells_per_pixel)
            for (top, left), (height, width) in zip(self.borders, self.image_sizes)
        ]
        # One copy to the device for all. Never in half precision, which cannot count pixels.
        numbers = torch.tensor(rows, dtype=torch.float32).to(device, non_blocking=True)
        return numbers[:, :2], numbers[:, 2:4], numbers[:, 4], numbers[0, 5:]
