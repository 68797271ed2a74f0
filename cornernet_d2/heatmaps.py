"""How far corners may move, and heat maps that say so, drawn on the device of the model.

Only the planes, one an image and class, that hold an object or an ignore region are drawn: a few
of 80 on COCO, about 10 of 1,203 on LVIS. What takes the host is planned there, so that the device
is never waited for.

Letters: N images, C classes, M objects, K ignore regions, P planes; h, w map (cells);
D = 2 * largest radius + 1; Q points of an object: top-left and bottom-right corner, perhaps centre.
"""

import bisect
import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

RADIUS_FORMULAS = ("exact", "eccv18")

Numbers = float | np.ndarray | Tensor

# Window cells drawn at once: bounds the memory for images with thousands of large objects.
_MAX_WINDOW_CELLS = 2**22


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
        # Not np.float64(value): numpy 2.2 and older make a scalar of an array of one box.
        height, width, overlap = (np.asarray(v, np.float64) for v in (height, width, min_overlap))
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


class Planes(NamedTuple):
    """Which planes of (N, C, h, w) maps are meant, ascending.

    Attributes:
        index: (P,) int64, ``image * C + class``, on the device of the maps.
        numbers: the same on the host, so that nobody has to wait for them.
        shape: (N, C).
    """

    index: Tensor
    numbers: tuple[int, ...]
    shape: tuple[int, int]

    def within(self, start: int, stop: int) -> slice:
        """Where the planes from ``start`` to before ``stop`` are among the P."""
        return slice(*(bisect.bisect_left(self.numbers, n) for n in (start, stop)))


class Heatmaps(NamedTuple):
    """Heat maps of N images; what is not here is 0 and not ignored.

    Attributes:
        values: (P, Q, h, w) float32, point 0 is the top-left corner.
        ignore: (P, Q, h, w) bool, cells neither positive nor negative; None if there are none.
        planes: which planes the P are.
    """

    values: Tensor
    ignore: Tensor | None
    planes: Planes

    def of_point(self, point: int) -> tuple[Tensor, Tensor | None, Planes]:
        """The same of one point: values and ignored cells (P, h, w), and which planes."""
        ignore = None if self.ignore is None else self.ignore[:, point]
        return self.values[:, point], ignore, self.planes

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """All planes: values and ignored cells, (N, Q, C, h, w), or None for these."""
        ignore = None if self.ignore is None else _dense(self.ignore, self.planes)
        return _dense(self.values, self.planes), ignore


class HeatmapPlan(NamedTuple):
    """What is to be drawn. The tensors are made on the CPU and may then be moved.

    Attributes:
        index: (P,) int64; see :class:`Planes`.
        peaks: (Q * M, 4) int64, a point a row: ``Q * plane of the P + point``, y, x and radius in
            cells, ascending by radius.
        regions: (K, 5) int64: plane of the P, then ``x0 y0 x1 y1`` in cells, both ends inside.
        numbers, shape: ``index`` on the host, and (N, C).
        groups: radius of the window and number of ``peaks``, of like radius, to draw together.
        map_size: (h, w).
        points: Q.
    """

    index: Tensor
    peaks: Tensor
    regions: Tensor
    numbers: tuple[int, ...]
    shape: tuple[int, int]
    groups: tuple[tuple[int, int], ...]
    map_size: tuple[int, int]
    points: int

    TENSORS = ("index", "peaks", "regions")

    @classmethod
    def make(
        cls,
        planes: Tensor,
        cells: Tensor,
        radii: Tensor,
        ignore_planes: Tensor,
        ignore_cells: Tensor,
        shape: tuple[int, int],
        map_size: tuple[int, int],
    ) -> "HeatmapPlan":
        """Plan from what the targets of N images hold, all int64 on the CPU.

        Args:
            planes, cells, radii: (M,) ``image * C + class``; (M, Q) flat cells; (M,) cells.
            ignore_planes, ignore_cells: (K,) and (K, 4), of the regions.
            shape, map_size: (N, C) and (h, w).
        """
        index, rank = torch.cat((planes, ignore_planes)).unique(return_inverse=True)
        points, width = cells.shape[1], map_size[1]
        row = points * rank[: len(planes), None] + torch.arange(points)
        columns = (row, cells // width, cells % width, radii[:, None].expand(-1, points))
        peaks = torch.stack(columns, -1).flatten(0, 1)
        peaks = peaks[peaks[:, 3].argsort(stable=True)]
        # Windows as large as the largest radius would cost one large object's area for each.
        lengths = itertools.groupby(peaks[:, 3].tolist(), key=int.bit_length)
        groups = [(members[-1], len(members)) for members in (list(m) for _, m in lengths)]
        regions = torch.cat((rank[len(planes) :, None], ignore_cells), 1)
        numbers = tuple(index.tolist())
        return cls(index, peaks, regions, numbers, shape, tuple(groups), map_size, points)

    def to(self, device: torch.device) -> "HeatmapPlan":
        """The same with the tensors on ``device``."""
        return self._replace(**{name: getattr(self, name).to(device) for name in self.TENSORS})

    def draw(self) -> Heatmaps:
        """Draw on the device of the tensors.

        Each point is exactly 1, surrounded by ``exp(-d^2 / (2 s^2))`` with ``s = (2r + 1) / 6``
        (of centres / 5, as CenterNet's release) in the window of +-r cells; where windows overlap
        the larger value stays (paper section 3.2). A point's own cell is never ignored.
        """
        height, width = self.map_size
        shape = (len(self.index), self.points, height, width)
        heat = torch.zeros(shape, device=self.index.device)
        for reach, peaks in self._pieces():
            row, y, x, radius = peaks.unbind(1)
            step = torch.arange(-reach, reach + 1, device=heat.device)
            # In double: vectorised float32 exp rounds by the place in memory, so that an object's
            # heat map would depend, in the last bit, on what else is in the batch.
            sigma = (2 * radius + 1).double() / (6 - (row % self.points == 2).double())
            rows, row_values = _window(y, radius, step, sigma, height)
            columns, column_values = _window(x, radius, step, sigma, width)
            cell = ((row[:, None] * height + rows) * width)[:, :, None] + columns[:, None]
            values = row_values[:, :, None] * column_values[:, None]
            # The largest value does not depend on the order: deterministic on every device.
            heat.view(-1).scatter_reduce_(0, cell.flatten(), values.flatten(), "amax")
        ignore = self._draw_ignore() if len(self.regions) else None
        return Heatmaps(heat, ignore, Planes(self.index, self.numbers, self.shape))

    def _pieces(self) -> list[tuple[int, Tensor]]:
        """Radius of the window, and the peaks to draw at once."""
        groups = self.peaks.split([count for _, count in self.groups])
        return [
            (reach, piece)
            for (reach, _), group in zip(self.groups, groups)
            for piece in group.split(max(1, _MAX_WINDOW_CELLS // (2 * reach + 1) ** 2))
        ]

    def _draw_ignore(self) -> Tensor:
        """(P, Q, h, w) bool, by counting at each cell the regions that began and did not end."""
        height, width = self.map_size
        plane, x0, y0, x1, y1 = self.regions.unbind(1)
        ends = torch.zeros(
            (len(self.index), height + 1, width + 1), dtype=torch.int32, device=plane.device
        )
        one = torch.ones_like(plane, dtype=torch.int32)
        for y, x, sign in ((y0, x0, 1), (y0, x1 + 1, -1), (y1 + 1, x0, -1), (y1 + 1, x1 + 1, 1)):
            ends.index_put_((plane, y, x), sign * one, accumulate=True)
        counts = ends.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
        ignore = (counts[:, None, :-1, :-1] > 0).repeat(1, self.points, 1, 1)
        row, y, x, _ = self.peaks.unbind(1)
        ignore.view(-1).index_fill_(0, (row * height + y) * width + x, False)
        return ignore


def _window(
    centre: Tensor, radii: Tensor, step: Tensor, sigma: Tensor, size: int
) -> tuple[Tensor, Tensor]:
    """Positions (M, D) along one axis and the Gaussian's factor there, 0 outside its window."""
    position = centre[:, None] + step
    inside = (step.abs() <= radii[:, None]) & (position >= 0) & (position < size)
    return (
        position.clamp(0, size - 1),
        torch.exp(-(step**2) / (2 * sigma[:, None] ** 2)).float() * inside,
    )


def _dense(part: Tensor, planes: Planes) -> Tensor:
    """(P, Q, h, w) -> (N, Q, C, h, w)."""
    every = part.new_zeros((math.prod(planes.shape), *part.shape[1:]))
    every = every.index_copy(0, planes.index, part)
    return every.unflatten(0, planes.shape).transpose(1, 2)
