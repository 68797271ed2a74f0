"""Dense heat maps from sparse corner targets, on the device of the model.

Letters: N images, C classes, P corners, D = 2 * largest radius + 1; h, w map (cells).
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .targets import CornerTargets

# Window cells drawn at once: bounds the memory for images with thousands of large objects.
_MAX_WINDOW_CELLS = 2**22


def draw_heatmaps(targets: list["CornerTargets"]) -> tuple[Tensor, Tensor | None]:
    """Dense heat maps of N images with the same map size and classes, on the targets' device.

    Each corner is exactly 1, surrounded by ``exp(-d^2 / (2 s^2))`` with ``s = (2r + 1) / 6`` in
    the window of +-r cells; where windows overlap the larger value stays (paper section 3.2).

    Returns:
        Heat maps (N, 2, C, h, w) float32, and a mask (N, 2, C, h, w) bool of the cells that are
        neither positive nor negative, None if there is none in the batch.
    """
    shapes = {(t.num_classes, *t.map_size) for t in targets}
    if len(shapes) != 1:
        raise ValueError(f"targets must agree in (classes, height, width), got {sorted(shapes)}")
    num_classes, height, width = shapes.pop()
    heat = targets[0].offsets.new_zeros((len(targets), 2, num_classes, height, width))
    cells = torch.cat([t.cells for t in targets])
    planes = torch.cat([t.classes + 2 * i * num_classes for i, t in enumerate(targets)])
    planes = torch.stack([planes, planes + num_classes], dim=1).flatten()  # of heat.view(-1, h, w)
    x, y = (cells % width).flatten(), (cells // width).flatten()
    radii = torch.cat([t.radii for t in targets]).repeat_interleave(2)

    reach = int(radii.max()) if len(radii) else 0
    step = torch.arange(-reach, reach + 1, device=heat.device)
    chunk = max(1, _MAX_WINDOW_CELLS // len(step) ** 2)
    for plane, cy, cx, radius in zip(*(v.split(chunk) for v in (planes, y, x, radii))):
        rows, row_values = _window(cy, radius, step, height)
        columns, column_values = _window(cx, radius, step, width)
        index = ((plane[:, None] * height + rows) * width)[:, :, None] + columns[:, None]
        values = row_values[:, :, None] * column_values[:, None]
        # The largest value does not depend on the order: deterministic on every device.
        heat.view(-1).scatter_reduce_(0, index.flatten(), values.flatten(), "amax")

    if not any(len(t.ignore_classes) for t in targets):
        return heat, None
    ignore = torch.zeros_like(heat, dtype=torch.bool)
    _draw_ignore(targets, ignore)
    ignore.view(-1)[(planes * height + y) * width + x] = False
    return heat, ignore


def _window(centre: Tensor, radii: Tensor, step: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Positions (P, D) along one axis and the Gaussian's factor there, 0 outside its window."""
    position = centre[:, None] + step
    # In double: vectorised float32 exp rounds by the place in memory, so that an object's heat map
    # would depend, in the last bit, on what else is in the batch.
    sigma = (2 * radii[:, None] + 1).double() / 6
    inside = (step.abs() <= radii[:, None]) & (position >= 0) & (position < size)
    return position.clamp(0, size - 1), torch.exp(-(step**2) / (2 * sigma**2)).float() * inside


def _draw_ignore(targets: list["CornerTargets"], ignore: Tensor) -> None:
    """Set the cells of all ignore regions in ``ignore`` (N, 2, C, h, w)."""
    boxes = torch.cat([t.ignore_cells for t in targets])
    classes = torch.cat([t.ignore_classes for t in targets])
    images = torch.cat([torch.full_like(t.ignore_classes, i) for i, t in enumerate(targets)])
    y, x = (torch.arange(side, device=boxes.device) for side in ignore.shape[3:])
    columns = (x >= boxes[:, :1]) & (x <= boxes[:, 2:3])
    rows = (y >= boxes[:, 1:2]) & (y <= boxes[:, 3:])
    region, row, column = (rows[:, :, None] & columns[:, None]).nonzero(as_tuple=True)
    ignore[images[region], :, classes[region], row, column] = True
