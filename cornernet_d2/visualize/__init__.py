"""Pictures of what a detector of corners sees and finds, drawn with Detectron2's Visualizer."""

from .pictures import (
    MIN_SIDE,
    draw_boxes,
    draw_corners,
    draw_heatmap,
    draw_instances,
    grid,
    side_by_side,
    titled,
)
from .training import TrainingView, training_picture
from .visualizer import CornerNetVisualizer

__all__ = [
    "MIN_SIDE",
    "CornerNetVisualizer",
    "TrainingView",
    "draw_boxes",
    "draw_corners",
    "draw_heatmap",
    "draw_instances",
    "grid",
    "side_by_side",
    "titled",
    "training_picture",
]
