"""From images to the network's input and from its boxes back to the images.

Letters: N images, H, W canvas (the padded image that the network sees, pixels), h, w map (cells),
V views: images and mirror images in one batch of the network, K boxes of each. Boxes are
``x0 y0 x1 y1``; pairs of numbers are (x, y) in tensors and (height, width) in tuples.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..targets import canvas_size

Size = tuple[int, int]


def common_canvas(
    sizes: Sequence[Size],
    divisibility: int,
    padding: str = "bottom_right",
    *,
    training: bool = False,
) -> tuple[Size, list[Size]]:
    """One canvas for images of different sizes, as large as the largest needs.

    Args:
        sizes: (height, width) of N images, pixels.
        divisibility, padding: see :func:`cornernet_d2.targets.canvas_size`.
        training: one image alone gets a canvas of two tiles of ``divisibility`` at least: of a
            single tile the innermost level sees one value, from which batch norm cannot learn.

    Returns:
        (H, W) of the canvas and (top, left) of each image on it, pixels.
    """
    largest = tuple(max(size[axis] for size in sizes) for axis in (0, 1))
    (height, width), _ = canvas_size(largest, divisibility, padding)
    if training and len(sizes) == 1 and max(height, width) <= divisibility:
        (_, width), _ = canvas_size((1, divisibility + 1), divisibility, padding)
    if padding == "bottom_right":
        return (height, width), [(0, 0)] * len(sizes)
    return (height, width), [(height // 2 - h // 2, width // 2 - w // 2) for h, w in sizes]


def pad_to_canvas(
    images: Sequence[Tensor],
    pixel_mean: Tensor,
    pixel_std: Tensor,
    divisibility: int,
    padding: str = "bottom_right",
    *,
    training: bool = False,
) -> tuple[Tensor, list[Size]]:
    """Normalise images and place them on their :func:`common_canvas`.

    Padding "bottom_right" and "center_mean" is 0 after normalising, "center_black" before. The
    authors and mmdetection, whose convention the centred modes are, test on an image only up to
    the canvas' last row and column: one that fills the canvas loses its own. They train on crops
    that they do not pad, and so lose nothing.

    Args:
        images: N tensors (3, H, W) in 0..255, any dtype, on one device.
        pixel_mean, pixel_std: (3, 1, 1) float32, on the same device.
        divisibility, padding: see :func:`cornernet_d2.targets.canvas_size`.
        training: keep the last row and column in the centred modes too, and see
            :func:`common_canvas`.

    Returns:
        (N, 3, canvas H, canvas W) float32, and (top, left) of each image on it, in pixels.
    """
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    (height, width), borders = common_canvas(sizes, divisibility, padding, training=training)
    fill = -pixel_mean / pixel_std if padding == "center_black" else torch.zeros_like(pixel_mean)
    batch = fill.expand(len(images), -1, height, width).clone()
    unused = 0 if training or padding == "bottom_right" else 1
    for canvas, image, (top, left) in zip(batch, images, borders):
        image = image[:, : height - top - unused, : width - left - unused]
        area = canvas[:, top : top + image.shape[-2], left : left + image.shape[-1]]
        area.copy_((image - pixel_mean) / pixel_std)
    return batch, borders


def resize(image: Tensor, size: Size, like_opencv: bool) -> Tensor:
    """Bilinear resizing of an image (3, H, W) in 0..255 to ``size`` (height, width).

    Args:
        like_opencv: what ``cv2.resize`` gives for the 8-bit image, to the bit: computed on the
            CPU, without antialiasing. Otherwise antialiased, on the image's device.

    Returns:
        (3, height, width), uint8 or float32.
    """
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    if not like_opencv:
        return F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
    pixels = image.permute(1, 2, 0).round().clamp(0, 255).to("cpu", torch.uint8).numpy()
    pixels = cv2.resize(np.ascontiguousarray(pixels), (size[1], size[0]))
    return torch.from_numpy(pixels).permute(2, 0, 1).to(image.device)


class Preprocessor(Protocol):
    """A model that pads its images itself."""

    padding: str

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> tuple[Tensor, list[Size]]:
        """Dicts with "image" -> what :func:`pad_to_canvas` returns."""


class Views(NamedTuple):
    """A batch of the network and where its pixels come from.

    Attributes:
        pixels: (V, 3, H, W), normalised.
        images: (V,) int64, which image of the caller's list.
        border: (V, 2) float32, the image's top-left corner on the canvas before mirroring, pixels.
        size: (V, 2) float32, width and height of the image on the canvas, pixels.
        factor: (V, 2) float32, what the image was enlarged by.
        mirror: (V,) float32, ``x -> mirror - x`` mirrors, in widths of the canvas; NaN: none does.
    """

    pixels: Tensor
    images: Tensor
    border: Tensor
    size: Tensor
    factor: Tensor
    mirror: Tensor

    def cells_per_pixel(self, map_size: Size) -> Tensor:
        """(2,) float32: 128 / 511 for the authors' canvas, 1 / 4 for multiples of 4."""
        height, width = self.pixels.shape[-2:]
        return self.border.new_tensor((map_size[1] / width, map_size[0] / height))

    def origin(self, map_size: Size) -> Tensor:
        """(V, 2) float32, the image's top-left corner on the map as the network sees it, cells."""
        left, top = self.border.unbind(1)
        mirrored_left = self.mirror * self.pixels.shape[-1] - left - self.size[:, 0]
        left = torch.where(self.mirror.isnan(), left, mirrored_left)
        return torch.stack((left, top), 1) * self.cells_per_pixel(map_size)

    def to_images(self, boxes: Tensor, map_size: Size, clip_end: bool) -> Tensor:
        """Boxes (V, K, 4) in map pixels -> (V, K, 4) in pixels of the caller's images.

        Args:
            map_size: (h, w).
            clip_end: clip at the right and bottom edges too, not only at 0.
        """
        ratio = self.cells_per_pixel(map_size)
        x0, y0, x1, y1 = boxes.unbind(-1)
        axis = self.mirror[:, None] * map_size[1]
        mirrored = torch.stack((axis - x1, y0, axis - x0, y1), -1)
        boxes = torch.where(self.mirror.isnan()[:, None, None], boxes, mirrored)
        boxes = (boxes / ratio.repeat(2) - self.border.repeat(1, 2)[:, None]).clamp(min=0)
        if clip_end:
            boxes = torch.minimum(boxes, self.size.repeat(1, 2)[:, None])
        return boxes / self.factor.repeat(1, 2)[:, None]


def network_views(
    model: Preprocessor,
    images: Sequence[Tensor],
    factors: Sequence[tuple[float, float]],
    flip: bool,
) -> Iterator[Views]:
    """Batches of images that share a canvas, each with its mirror images if ``flip``.

    With padding "bottom_right" every image fits the largest canvas, and a mirror image is padded
    at the same sides. The centred modes batch only images whose canvases are equal, and mirror the
    canvas, so that results do not depend on the batch: they exist for parity.

    Args:
        images: (3, H, W) each, at the size to evaluate.
        factors: what each was enlarged by, (height, width).
    """
    for indices, pixels, borders in _batches(model, images):
        members = [images[i] for i in indices]
        mirror = [math.nan] * len(members)
        if flip and model.padding == "bottom_right":
            pixels = torch.cat((pixels, _prepare(model, [image.flip(-1) for image in members])[0]))
            mirror += [image.shape[-1] / pixels.shape[-1] for image in members]
        elif flip:
            pixels = torch.cat((pixels, pixels.flip(-1)))
            mirror += [1.0] * len(members)
        copies = 2 if flip else 1
        numbers = [
            (left, top, image.shape[-1], image.shape[-2], factors[i][1], factors[i][0])
            for i, image, (top, left) in zip(indices, members, borders)
        ]
        # Not in the dtype of the pixels: half precision cannot count them.
        numbers = torch.tensor(numbers * copies, dtype=torch.float32, device=pixels.device)
        index = torch.tensor(indices * copies, device=pixels.device)
        mirror = torch.tensor(mirror, dtype=torch.float32, device=pixels.device)
        yield Views(pixels, index, *numbers.split(2, dim=1), mirror)


def _prepare(model: Preprocessor, images: Sequence[Tensor]) -> tuple[Tensor, list[Size]]:
    return model.preprocess_image([{"image": image} for image in images])


def _batches(
    model: Preprocessor, images: Sequence[Tensor]
) -> Iterator[tuple[list[int], Tensor, list[Size]]]:
    """Indices of the images that go together, their pixels and their (top, left)."""
    if model.padding == "bottom_right":
        yield list(range(len(images))), *_prepare(model, images)
        return
    single = [_prepare(model, [image]) for image in images]
    shapes = [pixels.shape for pixels, _ in single]
    for shape in dict.fromkeys(shapes):
        equal = [i for i, other in enumerate(shapes) if other == shape]
        yield equal, torch.cat([single[i][0] for i in equal]), [single[i][1][0] for i in equal]
