"""Training targets: boxes and classes -> corner cells, offsets and heat maps.

The contract between data and model: data workers make the sparse :class:`CornerTargets`, the
model's device draws the dense heat maps of a batch from them. The sparse part is a dozen numbers
an object, on which NumPy spends a third of the time that torch does.

Letters: N images, C classes, M objects, K ignore regions; H, W canvas (the padded image
the network sees, pixels); h, w map (cells); Q points of an object: its two corners (0 is top-left)
and, where asked for, its centre. Boxes are ``x0 y0 x1 y1``.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor

from .canvas import Canvas, Size, cells_per_pixel, map_size
from .heatmaps import HeatmapPlan, Heatmaps, gaussian_radius

CLIPS = ("canvas", "last_pixel")


@dataclasses.dataclass
class CornerTargets:
    """Sparse targets of one image: a few hundred bytes where the heat maps take megabytes.

    Attributes:
        cells: (M, Q) int64, flat map index ``y * w + x`` of each object's points.
        offsets: (M, Q, 2) float32, (point, xy), what flooring to the cell lost, in cells [0, 1].
        classes: (M,) int64 in [0, C).
        radii: (M,) int64, radius of the Gaussian around each point, in cells.
        ignore_cells: (K, 4) int64, ``x0 y0 x1 y1`` in cells, both ends inside.
        ignore_classes: (K,) int64 in [0, C), the one class that each region hides.
        generator, canvas_size, border: what made them: the rules, for which (H, W) of the canvas
            and which (top, left) of the image on it, pixels.
    """

    cells: Tensor
    offsets: Tensor
    classes: Tensor
    radii: Tensor
    ignore_cells: Tensor
    ignore_classes: Tensor
    generator: "CornerTargetGenerator"
    canvas_size: Size
    border: Size = (0, 0)

    @property
    def num_classes(self) -> int:
        return self.generator.num_classes

    @property
    def map_size(self) -> Size:
        """(h, w) in cells."""
        return map_size(self.canvas_size, self.generator.stride)

    @property
    def cells_per_pixel(self) -> tuple[float, float]:
        """(x, y); see :func:`cornernet_d2.canvas.cells_per_pixel`."""
        return cells_per_pixel(self.canvas_size, self.generator.stride)

    def __len__(self) -> int:
        return len(self.classes)

    def __getstate__(self) -> dict[str, Any]:
        # By value: six tensors an image would take as many file descriptors through a loader's
        # queue, and batches of dozens of images then run into the system's limit.
        return {
            name: (
                value.numpy() if isinstance(value, Tensor) and value.device.type == "cpu" else value
            )
            for name, value in vars(self).items()
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            is_array = isinstance(value, np.ndarray)
            setattr(self, name, torch.from_numpy(value) if is_array else value)

    def _map(self, function: Callable[[Tensor], Tensor]) -> "CornerTargets":
        tensors = {k: function(v) for k, v in vars(self).items() if isinstance(v, Tensor)}
        return dataclasses.replace(self, **tensors)

    def to(self, *args: Any, **kwargs: Any) -> "CornerTargets":
        """The same targets with every tensor moved as :meth:`torch.Tensor.to` would."""
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def pin_memory(self) -> "CornerTargets":
        """The same targets in page-locked memory, for copies that overlap with computation."""
        return self._map(Tensor.pin_memory)

    def padded(self, canvas_size: Size) -> "CornerTargets":
        """The same on a larger canvas, extended to the bottom and right, of as many cells a pixel.

        Ignore regions that end on the edge of the old canvas still end there.

        Raises:
            ValueError: the canvas is smaller, or its cells have another size.
        """
        size = tuple(canvas_size)
        padded = dataclasses.replace(self, canvas_size=size)
        is_smaller = any(new < old for new, old in zip(size, self.canvas_size))
        if is_smaller or padded.cells_per_pixel != self.cells_per_pixel:
            raise ValueError(f"targets for a canvas of {self.canvas_size} do not fit {size}")
        old, new = (self.cells.new_tensor(t.map_size[::-1]) for t in (self, padded))
        width = self.map_size[1]
        xy = torch.stack((self.cells % width, self.cells // width), -1)
        # A corner on the edge of the old map has a cell of its own on a larger one.
        step = (self.offsets == 1) & (xy == old - 1) & (new > old)
        x, y = (xy + step).unbind(-1)
        width = padded.map_size[1]
        return dataclasses.replace(padded, cells=y * width + x, offsets=self.offsets - step.float())

    def fitted(
        self, generator: "CornerTargetGenerator", canvas: Canvas, image: int
    ) -> "CornerTargets | None":
        """What ``generator`` would make for an image of ``canvas``; None: it has to make it."""
        if self.generator != generator or self.border != canvas.borders[image]:
            return None
        if self.canvas_size == canvas.size:
            return self
        extends = (
            self.border == (0, 0)
            and generator.clip == "canvas"
            and all(old <= new for old, new in zip(self.canvas_size, canvas.size))
            and self.cells_per_pixel == canvas.cells_per_pixel
        )
        return self.padded(canvas.size) if extends else None

    def dense_heatmaps(self) -> Tensor:
        """(Q, C, h, w) float32 heat maps, 1 at each point and a Gaussian around it."""
        return draw_heatmaps([self]).dense()[0][0]

    def ignore_mask(self) -> Tensor | None:
        """(Q, C, h, w) bool, True where a cell is neither positive nor negative; None if none."""
        ignore = draw_heatmaps([self]).dense()[1]
        return None if ignore is None else ignore[0]


def plan_heatmaps(targets: Sequence[CornerTargets]) -> HeatmapPlan:
    """What to draw for N images of one map size and number of classes.

    Raises:
        ValueError: the images differ in these.
    """
    shapes = {(t.num_classes, *t.map_size) for t in targets}
    if len(shapes) != 1:
        raise ValueError(f"targets must agree in (classes, height, width), got {sorted(shapes)}")
    num_classes, *size = shapes.pop()
    numbered = {"classes": num_classes, "ignore_classes": num_classes}
    joined = [
        torch.cat([getattr(t, name) + i * numbered.get(name, 0) for i, t in enumerate(targets)])
        for name in ("classes", "cells", "radii", "ignore_classes", "ignore_cells")
    ]
    return HeatmapPlan.make(*(x.cpu() for x in joined), (len(targets), num_classes), tuple(size))


def draw_heatmaps(targets: Sequence[CornerTargets]) -> Heatmaps:
    """Heat maps of N images of one map size and number of classes, on the targets' device."""
    return plan_heatmaps(targets).to(targets[0].cells.device).draw()


@dataclasses.dataclass(frozen=True)
class CornerTargetGenerator:
    """Boxes on the canvas -> :class:`CornerTargets`, on the device of the boxes.

    Attributes:
        num_classes, stride: C and canvas pixels per map cell; a map is ``ceil(size / stride)``.
        min_overlap, formula: see :func:`gaussian_radius`; the paper's 0.7 (section 3.2).
        fixed_radius: radius in cells for every object; None or negative: by ``min_overlap``.
        gaussian: False leaves only the corner cells themselves above 0.
        clip: where boxes end at most: "canvas", at (H, W), where a corner has the last cell and
            an offset of 1; "last_pixel", at (H - 1, W - 1), as in the authors' code.
        center: also the middle of the clipped box (CenterNet).
    """

    num_classes: int
    stride: int = 4
    min_overlap: float = 0.7
    formula: str = "exact"
    fixed_radius: int | None = None
    gaussian: bool = True
    clip: str = "canvas"
    center: bool = False

    @classmethod
    def from_config(cls, cfg: CfgNode, *, stride: int) -> "CornerTargetGenerator":
        """What ``MODEL.CORNERNET`` asks for; only the backbone knows the stride."""
        settings = cfg.MODEL.CORNERNET.TARGETS
        return cls(
            cfg.MODEL.CORNERNET.NUM_CLASSES,
            stride=stride,
            min_overlap=settings.MIN_OVERLAP,
            formula=settings.RADIUS_FORMULA,
            fixed_radius=settings.FIXED_RADIUS,
            gaussian=settings.GAUSSIAN,
            clip=settings.CLIP,
            center=cfg.MODEL.CORNERNET.CENTER.ENABLED,
        )

    def __post_init__(self) -> None:
        gaussian_radius(1, 1, self.min_overlap, self.formula)  # raises for a bad pair
        if self.clip not in CLIPS:
            raise ValueError(f"clip must be one of {CLIPS}, got {self.clip!r}")
        if self.num_classes < 1 or self.stride < 1:
            raise ValueError(f"num_classes and stride must be at least 1, got {self}")

    def __call__(
        self,
        boxes: Tensor,
        classes: Tensor,
        image_size: Sequence[int],
        ignore_boxes: Tensor | None = None,
        ignore_classes: Tensor | None = None,
    ) -> CornerTargets:
        """Targets of one image.

        Args:
            boxes: (M, 4) in canvas pixels. They are clipped to the canvas; what is left without
                width or height is dropped, the others keep their order.
            classes: (M,) in [0, C).
            image_size: (H, W) of the canvas.
            ignore_boxes: (K, 4) in canvas pixels; their cells that are no corner of an object
                take no part in the heat map loss of the class ``ignore_classes`` (K,).

        A box that is not finite or a class out of range raises ValueError."""
        size = tuple(map(int, image_size))
        ratio = np.array(cells_per_pixel(size, self.stride) * 2)
        height, width = map_size(size, self.stride)
        last = np.array([width - 1, height - 1])

        boxes, classes = self._valid(boxes, classes, size)
        points = (boxes * ratio).reshape(-1, 2, 2)  # float64: float32 moves them across cells
        if self.center:
            points = np.concatenate((points, points.mean(axis=1, keepdims=True)), axis=1)
        xy = np.minimum(points.astype(np.int64), last)
        if ignore_boxes is None:
            ignored = boxes[:0], classes[:0]
        else:
            ignored = self._valid(ignore_boxes, ignore_classes, size)
        arrays = {
            "cells": xy[..., 1] * width + xy[..., 0],
            "offsets": (points - xy).astype(np.float32),
            "classes": classes,
            "radii": self._radii(boxes, ratio),
            "ignore_cells": np.minimum((ignored[0] * ratio).astype(np.int64), [*last, *last]),
            "ignore_classes": ignored[1],
        }
        device = getattr(boxes, "device", "cpu")
        tensors = {name: torch.from_numpy(value).to(device) for name, value in arrays.items()}
        return CornerTargets(**tensors, generator=self, canvas_size=size)

    def on_canvas(
        self,
        canvas: Canvas,
        image: int,
        boxes: Tensor,
        classes: Tensor,
        ignore_boxes: Tensor | None = None,
        ignore_classes: Tensor | None = None,
    ) -> CornerTargets:
        """The same from boxes in pixels of an image, given its number on the canvas."""
        assert canvas.stride == self.stride, (canvas, self)
        if ignore_boxes is not None:
            ignore_boxes = canvas.place(ignore_boxes, image)
        boxes = canvas.place(boxes, image)
        targets = self(boxes, classes, canvas.size, ignore_boxes, ignore_classes)
        return dataclasses.replace(targets, border=canvas.borders[image])

    def _radii(self, boxes: np.ndarray, ratio: np.ndarray) -> np.ndarray:
        fixed = self.fixed_radius if self.gaussian else 0
        if fixed is not None and fixed >= 0:
            return np.full(len(boxes), fixed, np.int64)
        size = np.ceil((boxes[:, 2:] - boxes[:, :2]) * ratio[:2])
        radii = gaussian_radius(size[:, 1], size[:, 0], self.min_overlap, self.formula)
        return np.maximum(radii.astype(np.int64), 0)

    def _valid(self, boxes: Tensor, classes: Tensor, size: Size) -> tuple[np.ndarray, np.ndarray]:
        """Checked, clipped, non-empty boxes (float64) and their classes (int64)."""
        boxes = torch.as_tensor(boxes).numpy(force=True).astype(np.float64).reshape(-1, 4)
        classes = torch.as_tensor(classes).numpy(force=True).astype(np.int64).reshape(-1)
        if len(boxes) != len(classes):
            raise ValueError(f"{len(boxes)} boxes but {len(classes)} classes")
        finite = np.isfinite(boxes).all(axis=1)
        if not finite.all():
            raise ValueError(f"boxes that are not finite: {boxes[~finite].tolist()}")
        bad = sorted(set(classes[(classes < 0) | (classes >= self.num_classes)].tolist()))
        if bad:
            raise ValueError(
                f"class ids {bad} outside [0, {self.num_classes}): set MODEL.CORNERNET.NUM_CLASSES "
                "to the number of classes of the dataset"
            )
        cut = 1 if self.clip == "last_pixel" else 0
        boxes = boxes.clip(0, [size[1] - cut, size[0] - cut] * 2)
        keep = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return boxes[keep], classes[keep]
