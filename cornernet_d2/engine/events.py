"""Writers of the training progress: terminal, JSON, TensorBoard."""

import logging
import os
from importlib.util import find_spec
from typing import Any

from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from detectron2.utils.file_io import PathManager

logger = logging.getLogger(__name__)

WINDOW = 20  # iterations that a number on the terminal is taken over


class ProgressPrinter(CommonMetricPrinter):
    """Detectron2's line, with images per second, gradient norm and skipped steps at its end."""

    def __init__(self, max_iter: int) -> None:
        super().__init__(max_iter, WINDOW)
        self.logger = _WithOurMetrics(self.logger, {})


class _WithOurMetrics(logging.LoggerAdapter):
    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        history = get_event_storage().histories()
        parts = [msg]
        if "images_per_second" in history:
            parts.append(f"images_per_second: {history['images_per_second'].avg(WINDOW):.4g}")
        if "grad_norm" in history:
            parts.append(f"grad_norm: {history['grad_norm'].median(WINDOW):.4g}")
        if "skipped_steps" in history and history["skipped_steps"].latest():
            parts.append(f"skipped_steps: {history['skipped_steps'].latest():.0f}")
        return "  ".join(parts), kwargs


class DropPictures(EventWriter):
    """Takes the place of TensorBoard, whose writer frees the pictures that it has written."""

    def write(self) -> None:
        get_event_storage().clear_images()


def build_writers(output_dir: str, max_iter: int) -> list[EventWriter]:
    """Progress on the terminal, metrics.json and, where it is installed, TensorBoard."""
    PathManager.mkdirs(output_dir)
    writers = [ProgressPrinter(max_iter), JSONWriter(os.path.join(output_dir, "metrics.json"))]
    if find_spec("tensorboard"):
        return [*writers, TensorboardXWriter(output_dir)]
    logger.info("No TensorBoard events: `pip install tensorboard` for them")
    return [*writers, DropPictures()]
