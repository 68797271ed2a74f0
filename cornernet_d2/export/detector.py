"""The graph that is exported: images in 0..255 to boxes in their pixels, in tensors alone.

Letters: N images, H x W of them (pixels), H' x W' canvas (pixels), h x w map (cells).
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..modeling import CornerInference, CornerNet
from ..modeling.corner_head import CornerMaps
from ..modeling.decode import REJECTED, Pairs, decode_corners
from .soft_nms import PickLoop, soft_nms_picks


class Detector(nn.Module):
    """A CornerNet as one function of a batch of images of one size.

    The same steps as :class:`.modeling.CornerInference` with a :class:`.Canvas`, whose numbers here
    are symbols: sizes may stay open in the graph. Test-time augmentation is left out.

    Args:
        model: a CornerNet whose inference is the default one.
        raw: give pairs, before soft-NMS.

    Raises:
        ValueError: the inference follows another code base, whose rules are no tensor functions.
    """

    def __init__(self, model: CornerNet, raw: bool = False) -> None:
        super().__init__()
        self.inference = plain_inference(model)
        self.model, self.raw = model, raw
        self.loop = PickLoop(
            **self.inference.soft_nms,
            exponent=self.inference.merge_exponent,
            picks=self.inference.max_detections,
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (N, 3, H, W) in 0..255, float32 -> the fields of :class:`.Picks`, or of Pairs."""
        pixels = self.place(images)
        maps = self.model.last_maps(pixels)
        pairs = self.to_image(self.decode(maps, images, pixels), images, pixels)
        if self.raw:
            return tuple(pairs)
        return tuple(soft_nms_picks(*pairs, self.loop))  # a file knows no class of this package

    def place(self, images: Tensor) -> Tensor:
        """Normalise and pad: (N, 3, H', W'); see :meth:`.Canvas.paste`."""
        padding, black = self.model.padding, self.model.padding == "center_black"
        sides = []
        for side in (images.shape[-1], images.shape[-2]):
            canvas = self.canvas_side(side)
            border = _border(side, canvas, padding)
            sides += [border, canvas - side - border]
        if black:
            images = F.pad(images, sides)
        pixels = (images - self.model.pixel_mean) / self.model.pixel_std
        if not black:
            pixels = F.pad(pixels, sides)
        if padding == "bottom_right":
            return pixels
        fill = -self.model.pixel_mean / self.model.pixel_std if black else 0.0
        height, width = (torch.arange(side, device=pixels.device) for side in pixels.shape[-2:])
        last = (height == pixels.shape[-2] - 1)[:, None] | (width == pixels.shape[-1] - 1)
        return torch.where(last, fill, pixels)

    def canvas_side(self, side: int) -> int:
        """The side of the canvas of an image's side, pixels, as :meth:`.Canvas.fit`."""
        step = self.model.divisibility
        if self.model.padding == "bottom_right":
            return (side + step - 1) // step * step
        return side // step * step + step - 1  # side | (step - 1)

    def decode(self, maps: CornerMaps, images: Tensor, pixels: Tensor) -> Pairs:
        """Pairs of corners inside the images, boxes in cells."""
        inside, cell_size = [], []
        for axis in (-2, -1):
            border, ratio = self._axis(images, pixels, axis, maps["tl"]["heatmap"].shape[axis])
            cells = torch.arange(maps["tl"]["heatmap"].shape[axis], device=images.device)
            first = (border * ratio).floor()
            inside.append((cells >= first) & (cells <= (border + images.shape[axis]) * ratio))
            cell_size.append(1 / ratio)
        where = (inside[0][:, None] & inside[1]).expand(images.shape[0], -1, -1)
        return decode_corners(
            maps,
            **self.inference.decoding,
            inside=where,
            pairing=self.model.pairing,
            cell_size=cell_size[::-1],
        )

    def to_image(self, pairs: Pairs, images: Tensor, pixels: Tensor) -> Pairs:
        """Boxes from cells to pixels of the images, clipped; what has no area goes."""
        shifts, scales, ends = [], [], []
        for axis in (-1, -2):
            cells = self._cells(pixels.shape[axis])
            border, ratio = self._axis(images, pixels, axis, cells)
            shifts.append(border)
            scales.append(ratio)
            ends.append(_number(images.shape[axis], images))
        shift, scale, end = (torch.stack(values * 2) for values in (shifts, scales, ends))
        boxes = torch.minimum((pairs.boxes / scale - shift).clamp(min=0), end)
        has_area = (boxes[..., 2:] > boxes[..., :2]).all(-1)
        return pairs._replace(boxes=boxes, scores=torch.where(has_area, pairs.scores, REJECTED))

    def _cells(self, side: int) -> int:
        stride = self.model.target_generator.stride
        return (side + stride - 1) // stride

    def _axis(self, images: Tensor, pixels: Tensor, axis: int, cells: int) -> tuple[Tensor, Tensor]:
        """Along an axis the border before the images, pixels, and cells per pixel: scalars."""
        canvas = pixels.shape[axis]
        border = _border(images.shape[axis], canvas, self.model.padding)
        return _number(border, images), _number(cells, images) / _number(canvas, images)


def plain_inference(model: CornerNet) -> CornerInference:
    """The inference of a model without test-time augmentation.

    Raises:
        ValueError: it follows another code base.
    """
    inference = model.corner_inference.one_view
    if type(inference) is not CornerInference:
        raise ValueError(
            f"{type(inference).__name__} cannot be exported: set MODEL.CORNERNET.TEST.CONVENTION "
            "to default"
        )
    if inference.max_detections == 0:
        raise ValueError("TEST.DETECTIONS_PER_IMAGE is 0: there would be nothing to export")
    return inference


def without_views(model: CornerNet) -> CornerNet:
    """The model, sharing its weights, without test-time augmentation: what an artifact equals."""
    plain = copy.copy(model)
    plain.corner_inference = plain_inference(model)
    return plain


def _border(side: int, canvas: int, padding: str) -> int:
    return 0 if padding == "bottom_right" else canvas // 2 - side // 2


def _number(value: int, like: Tensor) -> Tensor:
    """A scalar tensor, which a graph computes where ``value`` is a symbol."""
    return torch.full((), value, dtype=torch.float32, device=like.device)
