"""The one coordinate system: where images lie on the canvas that the network sees, and its map.

Letters: N images, K boxes of each, H, W canvas (pixels), h, w map (cells). Boxes are
``x0 y0 x1 y1``; pairs of numbers are (x, y) in tensors and (height, width) or (top, left) in
tuples. Only this file converts between image pixels, canvas pixels and cells.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

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
        mirrored: whether each image is seen mirrored; its boxes come back unmirrored.
        training: centred images keep their last row and column when they fill the canvas.
    """

    size: Size
    stride: int
    padding: str
    image_sizes: tuple[Size, ...]
    borders: tuple[Size, ...]
    mirrored: tuple[bool, ...]
    training: bool = False

    @classmethod
    def fit(
        cls,
        image_sizes: Sequence[Sequence[int]],
        divisibility: int,
        stride: int,
        padding: str = "bottom_right",
        *,
        mirrored: Sequence[bool] = (),
        training: bool = False,
    ) -> "Canvas":
        """The smallest canvas that every image fits on.

        Args:
            image_sizes: (height, width) of N >= 1 images, pixels.
            divisibility: d: sides become multiples of d ("bottom_right"), or ``side | (d - 1)``
                as in the authors' test code, one short of a multiple (d must be a power of two).
            stride: canvas pixels per cell.
            padding: one of PADDINGS.
            mirrored: which of the images are to be seen mirrored; empty: none. "bottom_right" pads
                mirror images at the same sides; the centred paddings mirror the whole canvas.
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
        mirrored = tuple(mirrored) or (False,) * len(sizes)
        return cls((height, width), stride, padding, sizes, borders, mirrored, training)

    @property
    def map_size(self) -> Size:
        """(h, w) in cells."""
        return map_size(self.size, self.stride)

    @property
    def cells_per_pixel(self) -> tuple[float, float]:
        """(x, y); see :func:`cells_per_pixel`."""
        return cells_per_pixel(self.size, self.stride)

    def paste(self, images: Sequence[Tensor], pixel_mean: Tensor, pixel_std: Tensor) -> Tensor:
        """Normalise images and place them on the canvas.

        Padding "bottom_right" and "center_mean" is 0 after normalising, "center_black" before. The
        authors and MMDetection test on an image only up to the canvas' last row and column: one
        that fills the canvas loses its own. They train on crops that they do not pad.

        Args:
            images: N tensors (3, height, width) in 0..255, any dtype, on one device, not mirrored:
                this mirrors those that the canvas says.
            pixel_mean, pixel_std: (3, 1, 1) float32, on the same device.

        Returns:
            (N, 3, H, W) float32.
        """
        fill = torch.zeros_like(pixel_mean)
        if self.padding == "center_black":
            fill = -pixel_mean / pixel_std
        batch = fill.expand(len(images), -1, *self.size).clone()
        in_place = self.padding == "bottom_right"
        unused = 0 if self.training or self.padding == "bottom_right" else 1
        for pixels, image, (top, left), mirrored in zip(batch, images, self.borders, self.mirrored):
            image = image.flip(-1) if mirrored and in_place else image
            image = image[:, : self.size[0] - top - unused, : self.size[1] - left - unused]
            area = pixels[:, top : top + image.shape[-2], left : left + image.shape[-1]]
            area.copy_((image - pixel_mean) / pixel_std)
            if mirrored and not in_place:
                pixels.copy_(pixels.flip(-1))
        return batch

    def place(self, boxes: Tensor, image: int) -> Tensor:
        """Boxes (M, 4) in pixels of an image, not mirrored, in pixels of the canvas."""
        top, left = self.borders[image]
        return boxes + boxes.new_tensor((left, top, left, top))

    def origin(self, device: torch.device | str = "cpu") -> Tensor:
        """(N, 2) float32 x, y, the images' top-left corners as the network sees them, cells."""
        numbers = self._numbers(device)
        return numbers.seen * numbers.ratio[:2]

    def inside(self, device: torch.device | str = "cpu") -> Tensor | None:
        """(N, h, w) bool, the cells where corners of boxes in the images can lie; None: all.

        A box may end where the image does, which is the start of the next cell: that one counts.
        """
        if all(size == self.size for size in self.image_sizes):
            return None
        numbers = self._numbers(device)
        ratio = numbers.ratio[:2]
        first = (numbers.seen * ratio).floor()
        last = (numbers.seen + numbers.size[:, :2]) * ratio
        rows, columns = (torch.arange(side, device=device) for side in self.map_size)
        x_inside, y_inside = (
            (cells >= first[:, axis, None]) & (cells <= last[:, axis, None])
            for axis, cells in enumerate((columns, rows))
        )
        return y_inside[:, :, None] & x_inside[:, None]

    def to_image(self, boxes: Tensor, *, clip_end: bool = True, clip: bool = True) -> Tensor:
        """Boxes (N, K, 4) in cells -> (N, K, 4) in pixels of the images, unmirrored and clipped.

        Args:
            boxes: float32.
            clip_end: clip at the right and bottom edges too, not only at 0.
            clip: clip at all.
        """
        numbers = self._numbers(boxes.device)
        if any(self.mirrored):
            x0, y0, x1, y1 = boxes.unbind(-1)
            turned = torch.stack((numbers.axis - x1, y0, numbers.axis - x0, y1), -1)
            boxes = torch.where(numbers.mirrored[..., None], turned, boxes)
        boxes = boxes / numbers.ratio - numbers.border[:, None]
        if not clip:
            return boxes
        boxes = boxes.clamp(min=0)
        return torch.minimum(boxes, numbers.size[:, None]) if clip_end else boxes

    def _numbers(self, device: torch.device | str) -> "_Numbers":
        ratio, rows = self.cells_per_pixel, []
        for (top, left), (height, width), mirrored in zip(
            self.borders, self.image_sizes, self.mirrored
        ):
            axis = width if self.padding == "bottom_right" else self.size[1]
            seen = axis - left - width if mirrored else left
            row = (left, top) * 2 + (width, height) * 2
            rows.append((*row, seen, top, axis * ratio[0], mirrored))
        rows.append(ratio * 2 + (0,) * 8)
        # One copy to the device for all. Never in half precision, which cannot count pixels.
        numbers = torch.tensor(rows, dtype=torch.float32).to(device, non_blocking=True)
        border, size, seen, axis, mirrored = numbers[:-1].split((4, 4, 2, 1, 1), dim=1)
        return _Numbers(border, size, seen, axis, mirrored > 0, numbers[-1, :4])


class _Numbers(NamedTuple):
    """A canvas as tensors, (x, y) in pixels unless said otherwise.

    Attributes:
        border, size: (N, 4), of the images, twice each, as for a box.
        seen: (N, 2), the border as the network sees it.
        axis: (N, 1), the width of what is mirrored, cells: ``x -> axis - x``.
        mirrored: (N, 1) bool.
        ratio: (4,), cells per pixel, twice.
    """

    border: Tensor
    size: Tensor
    seen: Tensor
    axis: Tensor
    mirrored: Tensor
    ratio: Tensor
