"""Training targets: boxes and classes -> corner cells, offsets and heat maps.

The contract between data and model: data workers make the sparse :class:`CornerTargets`, the
model's device draws the dense heat maps of a batch from them. The sparse part is a dozen numbers
an object, on which NumPy spends a third of the time that torch does.

Letters: N images, C classes, M objects, K ignore regions; H, W canvas (the padded image
the network sees, pixels); h, w map (cells). Corner 0 is top-left. Boxes are ``x0 y0 x1 y1``.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .heatmaps import draw_heatmaps

__all__ = [
    "CornerTargetGenerator",
    "CornerTargets",
    "canvas_size",
    "draw_heatmaps",
    "gaussian_radius",
]

PADDINGS = ("bottom_right", "center_black", "center_mean")
RADIUS_FORMULAS = ("exact", "eccv18")

Numbers = float | np.ndarray | Tensor
Size = tuple[int, int]


def canvas_size(
    image_size: Sequence[int], divisibility: int, padding: str = "bottom_right"
) -> tuple[Size, Size]:
    """(H, W) of the padded image the network sees and (top, left) of the image on it, pixels.

    Args:
        image_size: (height, width) in pixels.
        divisibility: d: sides become multiples of d ("bottom_right"), or ``side | (d - 1)`` as
            in the authors' test code, one short of a multiple (d must be a power of two).
        padding: one of PADDINGS; the two centred ones differ only in the fill.
    """
    height, width = map(int, image_size)
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {PADDINGS}, got {padding!r}")
    if min(height, width, divisibility) < 1:
        raise ValueError(f"image size {(height, width)} or divisibility {divisibility} below 1")
    if padding == "bottom_right":
        return tuple(-(-side // divisibility) * divisibility for side in (height, width)), (0, 0)
    if divisibility & (divisibility - 1):
        raise ValueError(f"padding {padding!r} needs a power of two, got {divisibility}")
    canvas = (height | (divisibility - 1), width | (divisibility - 1))
    return canvas, (canvas[0] // 2 - height // 2, canvas[1] // 2 - width // 2)


def gaussian_radius(
    height: Numbers, width: Numbers, min_overlap: Numbers, formula: str = "exact"
) -> Numbers:
    """How far both corners may move before the box overlaps its original by ``min_overlap`` IoU.

    The least of three cases (paper section 3.2): one corner moves in and one out, both move in,
    both move out. Each is a root of a quadratic equation in the radius.

    Args:
        height, width: box size, usually in map cells. Arguments broadcast.
        min_overlap: IoU in (0, 1].
        formula: "exact", the right roots; "eccv18", what the authors' first release computed,
            ``(b + sqrt(b^2 - 4ac)) / 2`` for all three: about three times as large.

    Returns:
        The radius, float64 and unrounded: a tensor if any argument is one, else array or float.
    """
    if formula not in RADIUS_FORMULAS:
        raise ValueError(f"formula must be one of {RADIUS_FORMULAS}, got {formula!r}")
    if any(isinstance(value, Tensor) for value in (height, width, min_overlap)):
        lib = torch
        height, width, overlap = (  # numbers stay on the CPU whatever the default device
            torch.as_tensor(value, dtype=torch.float64, device=getattr(value, "device", "cpu"))
            for value in (height, width, min_overlap)
        )
    else:
        lib = np
        height, width, overlap = (np.float64(value) for value in (height, width, min_overlap))
    if not bool(((overlap > 0) & (overlap <= 1)).all()):
        raise ValueError(f"min_overlap must be in (0, 1], got {min_overlap}")
    total = height + width
    equations = (  # a, b, c, and the sign of the root that is the radius
        (1, total, width * height * (1 - overlap) / (1 + overlap), -1),
        (4, 2 * total, (1 - overlap) * width * height, -1),
        (4 * overlap, -2 * overlap * total, (overlap - 1) * width * height, 1),
    )
    roots = []
    for a, b, c, sign in equations:
        # Rounding may push a discriminant of exactly 0 (a square box, tiny overlap) below it.
        spread = lib.sqrt(lib.clip(b**2 - 4 * a * c, 0, None))
        roots.append((b + sign * spread) / (2 * a) if formula == "exact" else (b + spread) / 2)
    radius = lib.minimum(lib.minimum(roots[0], roots[1]), roots[2])
    return radius if lib is torch or radius.ndim else radius.item()


@dataclasses.dataclass
class CornerTargets:
    """Sparse targets of one image: a few hundred bytes where the heat maps take megabytes.

    Attributes:
        cells: (M, 2) int64, flat map index ``y * w + x`` of each object's two corners.
        offsets: (M, 2, 2) float32, (corner, xy), what flooring to the cell lost, in cells [0, 1].
        classes: (M,) int64 in [0, C).
        radii: (M,) int64, radius of the Gaussian around each corner, in cells.
        num_classes, map_size: C and (h, w).
        ratio: (y, x) cells per canvas pixel: ``h / H, w / W``.
        ignore_cells: (K, 4) int64, ``x0 y0 x1 y1`` in cells, both ends inside.
        ignore_classes: (K,) int64 in [0, C), the one class that each region hides.
    """

    cells: Tensor
    offsets: Tensor
    classes: Tensor
    radii: Tensor
    num_classes: int
    map_size: Size
    ratio: tuple[float, float]
    ignore_cells: Tensor
    ignore_classes: Tensor

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

    def padded(self, map_size: Size) -> "CornerTargets":
        """The same targets on a larger map, extended to the bottom and the right."""
        if map_size[0] < self.map_size[0] or map_size[1] < self.map_size[1]:
            raise ValueError(f"cannot pad a map of {self.map_size} to the smaller {map_size}")
        rows = self.cells // self.map_size[1]
        cells = self.cells + rows * (map_size[1] - self.map_size[1])
        return dataclasses.replace(self, cells=cells, map_size=tuple(map_size))

    def dense_heatmaps(self) -> Tensor:
        """(2, C, h, w) float32 heat maps, 1 at each corner and a Gaussian around it."""
        return draw_heatmaps([self])[0][0]

    def ignore_mask(self) -> Tensor | None:
        """(2, C, h, w) bool, True where a cell is neither positive nor negative; None if none."""
        return draw_heatmaps([self])[1][0] if len(self.ignore_classes) else None


@dataclasses.dataclass(frozen=True)
class CornerTargetGenerator:
    """Boxes on the canvas -> :class:`CornerTargets`, on the device of the boxes.

    Attributes:
        num_classes, stride: C and canvas pixels per map cell; a map is ``ceil(size / stride)``.
        min_overlap, formula: see :func:`gaussian_radius`; the paper's 0.7 (section 3.2).
        fixed_radius: radius in cells for every object; None or negative: by ``min_overlap``.
        gaussian: False leaves only the corner cells themselves above 0.
    """

    num_classes: int
    stride: int = 4
    min_overlap: float = 0.7
    formula: str = "exact"
    fixed_radius: int | None = None
    gaussian: bool = True

    def __post_init__(self) -> None:
        gaussian_radius(1, 1, self.min_overlap, self.formula)  # raises for a bad pair
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
            boxes: (M, 4) in canvas pixels. They are clipped to [0, size - 1]; what is left
                without width or height is dropped, the others keep their order.
            classes: (M,) in [0, C).
            image_size: (H, W) of the canvas.
            ignore_boxes: (K, 4) in canvas pixels; their cells that are no corner of an object
                take no part in the heat map loss of the class ``ignore_classes`` (K,).

        A box that is not finite or a class out of range raises ValueError.
        """
        device = getattr(boxes, "device", "cpu")
        height, width = map(int, image_size)
        map_size = (math.ceil(height / self.stride), math.ceil(width / self.stride))
        ratio = (map_size[0] / height, map_size[1] / width)
        scale = np.array([ratio[1], ratio[0]] * 2)

        boxes, classes = self._valid(boxes, classes, (height, width))
        corners = (boxes * scale).reshape(-1, 2, 2)  # float64: float32 moves them across cells
        xy = corners.astype(np.int64)
        if ignore_boxes is None:
            ignored = boxes[:0], classes[:0]
        else:
            ignored = self._valid(ignore_boxes, ignore_classes, (height, width))
        arrays = {
            "cells": xy[..., 1] * map_size[1] + xy[..., 0],
            "offsets": (corners - xy).astype(np.float32),
            "classes": classes,
            "radii": self._radii(boxes, scale),
            "ignore_cells": (ignored[0] * scale).astype(np.int64),
            "ignore_classes": ignored[1],
        }
        return CornerTargets(
            num_classes=self.num_classes,
            map_size=map_size,
            ratio=ratio,
            **{name: torch.from_numpy(value).to(device) for name, value in arrays.items()},
        )

    def _radii(self, boxes: np.ndarray, scale: np.ndarray) -> np.ndarray:
        fixed = self.fixed_radius if self.gaussian else 0
        if fixed is not None and fixed >= 0:
            return np.full(len(boxes), fixed, np.int64)
        size = np.ceil((boxes[:, 2:] - boxes[:, :2]) * scale[:2])
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
        boxes = boxes.clip(0, [size[1] - 1, size[0] - 1] * 2)
        keep = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return boxes[keep], classes[keep]
