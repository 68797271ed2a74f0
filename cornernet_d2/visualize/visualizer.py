"""Detectron2's Visualizer for a detector of corners: corners, pairs, heat maps, legible labels.

Letters: M objects, H, W image (pixels). Boxes are ``x0 y0 x1 y1`` in image pixels.
"""

from collections.abc import Sequence

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import ColorMode, VisImage, Visualizer
from torch import Tensor

from .pictures import draw_heatmap, enlargement

_COLOURS = colormap(rgb=True, maximum=1)
Colour = Sequence[float] | str


class CornerNetVisualizer(Visualizer):
    """Draws what a corner detector found; small pictures are enlarged so that labels are legible.

    Every method draws on the same picture and returns it, so that calls can be chained by
    ``get_output()``.

    Args:
        img_rgb: (H, W, 3) uint8, RGB.
        metadata: for class names and colours.
        scale: output pixels per image pixel; None: 1, or what makes the shorter side
            ``visualize.MIN_SIDE`` pixels.
        instance_mode: see Detectron2.
    """

    def __init__(
        self,
        img_rgb: np.ndarray,
        metadata: Metadata | None = None,
        scale: float | None = None,
        instance_mode: ColorMode = ColorMode.IMAGE,
    ) -> None:
        img_rgb = np.ascontiguousarray(img_rgb)
        if scale is None:
            scale = enlargement(img_rgb)
        super().__init__(img_rgb, metadata, scale, instance_mode)
        self._taken = np.zeros((0, 4))  # where labels are, image pixels

    def draw_heatmap(
        self,
        heatmap: Tensor | np.ndarray,
        stride: float = 4,
        origin: tuple[int, int] = (0, 0),
        opacity: float = 0.6,
        gamma: float = 1.0,
    ) -> VisImage:
        """Lays a heat map over the picture; call it before what is to lie on top.

        Args: see :func:`.pictures.draw_heatmap`.
        """
        picture = self.img.astype(np.uint8)
        self.img = draw_heatmap(picture, heatmap, stride, origin, opacity, gamma)
        self.output.ax.imshow(
            self.img, extent=(0, self.output.width, self.output.height, 0), interpolation="nearest"
        )
        return self.output

    def draw_boxes(
        self,
        boxes: Boxes | Tensor | np.ndarray,
        labels: Sequence[str] = (),
        colours: Sequence[Colour] = (),
        line_style: str = "-",
    ) -> VisImage:
        """Boxes with labels that keep off one another where there is room.

        Args:
            boxes: (M, 4).
            labels, colours: M each; without, no labels and a colour per box.
            line_style: Matplotlib's.
        """
        boxes = _array(boxes)
        colours = list(colours) or [_COLOURS[i % len(_COLOURS)] for i in range(len(boxes))]
        for box, colour in zip(boxes, colours):
            self.draw_box(box, edge_color=colour, line_style=line_style, alpha=1)
        for box, colour, label in zip(boxes, colours, labels):
            self.draw_label(label, box, colour)
        return self.output

    def draw_corners(self, instances: Instances) -> VisImage:
        """Top-left corners as discs, bottom-right ones as squares, in the colours of the classes.

        Args:
            instances: predictions (pred_boxes, pred_classes) or truth (gt_boxes, gt_classes). Of
                those that carry ``corner_scores`` (M, 2) each corner says its own.
        """
        boxes, classes = _boxes_and_classes(instances)
        radius = max(min(self.output.height, self.output.width) / 80, 1.5)
        scores = instances.corner_scores.tolist() if instances.has("corner_scores") else []
        for i, (box, index) in enumerate(zip(boxes, classes)):
            colour = self._colour(index)
            self.draw_circle(box[:2], colour, radius=radius)
            square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * radius + box[2:]
            self.draw_polygon(square, colour, edge_color=colour, alpha=1)
            for point, score in zip((box[:2], box[2:]), scores[i] if scores else ()):
                place = np.concatenate((point - radius, point + radius))
                self.draw_label(f"{score:.2f}", place, colour)
        return self.output

    def draw_pairs(self, instances: Instances, threshold: float = 0.5) -> VisImage:
        """The line that joins the two corners of each box.

        Args:
            instances: as for :meth:`draw_corners`. Those that carry ``pair_distances`` (M,), of
                their embeddings, are green at 0 and red at the threshold and above, and say it;
                the others have the colours of their classes.
            threshold: the largest distance of a pair.
        """
        boxes, classes = _boxes_and_classes(instances)
        carries = instances.has("pair_distances")
        distances = instances.pair_distances.tolist() if carries else [None] * len(boxes)
        for box, index, distance in zip(boxes, classes, distances):
            colour = self._colour(index)
            if distance is not None:
                share = min(max(distance / threshold, 0.0), 1.0)
                colour = (share, 0.8 * (1 - share), 0.1)
            self.draw_line(box[::2], box[1::2], colour, linestyle="--", linewidth=1)
            if distance is not None:
                middle = (box[:2] + box[2:]) / 2
                self.draw_label(f"{distance:.2f}", np.tile(middle, 2), colour)
        return self.output

    def draw_label(self, text: str, box: np.ndarray, colour: Colour) -> VisImage:
        """Text at a box: of the places around its corners that lie in the picture the one that
        covers least of the labels drawn before."""
        if not text:
            return self.output
        size = max(self._default_font_size, 8 / self.output.scale)
        # A glyph of Matplotlib's font is at most 0.7 of its size wide; a point is 1/72 inch.
        pixels = size * self.output.fig.dpi / 72
        lines = text.split("\n")
        width = 0.65 * pixels * max(map(len, lines)) + 2
        height = 1.4 * pixels * len(lines)
        x0, y0, x1, y1 = (float(value) for value in box)
        places = [(x0, y0 - height), (x0, y1), (x0, y0), (x1 - width, y1 - height)]
        places += [(x1, y0), (x0 - width, y0), (x1 - width, y0 - height)]
        limit = np.array((self.output.width - width, self.output.height - height)).clip(min=0)
        corners = np.array(places).clip(0, limit)
        rectangles = np.concatenate((corners, corners + (width, height)), axis=1)
        moved = np.abs(corners - places).sum(axis=1) > 0
        best = int(np.argmin(_covered(rectangles, self._taken) + 1e-3 * moved))
        self._taken = np.concatenate((self._taken, rectangles[best : best + 1]))
        bright = self._change_color_brightness(colour, brightness_factor=0.4)
        return self.draw_text(
            text, tuple(corners[best]), font_size=size, color=bright, horizontal_alignment="left"
        )

    @property
    def label_places(self) -> np.ndarray:
        """(L, 4) boxes that the labels drawn so far were given, image pixels."""
        return self._taken

    def _colour(self, index: int) -> tuple[float, ...]:
        colours = self.metadata.get("thing_colors") if self.metadata else None
        if colours:
            return tuple(value / 255 for value in colours[index])
        return tuple(_COLOURS[index % len(_COLOURS)])


def _covered(rectangles: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Area of each rectangle that lies under those taken, counted once for each."""
    low = np.maximum(rectangles[:, None, :2], taken[None, :, :2])
    high = np.minimum(rectangles[:, None, 2:], taken[None, :, 2:])
    return (high - low).clip(min=0).prod(axis=-1).sum(axis=1)


def _boxes_and_classes(instances: Instances) -> tuple[np.ndarray, list[int]]:
    kind = "gt" if instances.has("gt_boxes") else "pred"
    classes = instances.get(f"{kind}_classes").tolist()
    return _array(instances.get(f"{kind}_boxes")), classes


def _array(values: Boxes | Tensor | np.ndarray) -> np.ndarray:
    values = values.tensor if isinstance(values, Boxes) else values
    values = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    return values.reshape(-1, 4)
