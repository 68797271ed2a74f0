"""Writers of the training progress: terminal, JSON, TensorBoard."""

import os
from importlib.util import find_spec
from typing import List

import torch
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from detectron2.utils.file_io import PathManager


class ProgressPrinter(CommonMetricPrinter):
    """One line as Detectron2 prints it, with images per second and the gradient norm besides."""

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # training is over
        history = storage.histories()
        parts = [f"eta: {self._get_eta(storage)}", f"iter: {storage.iter}"]
        parts += [
            f"{name}: {values.median(self._window(storage, name)):.4g}"
            for name, values in history.items()
            if "loss" in name or name == "grad_norm"
        ]
        for name, unit in (("time", "s"), ("data_time", "s"), ("images_per_second", "")):
            if name in history:
                mean = history[name].avg(self._window(storage, name))
                parts.append(f"{name}: {mean:.4g}{unit}")
        if "lr" in history:
            parts.append(f"lr: {history['lr'].latest():.5g}")
        if "skipped_steps" in history and history["skipped_steps"].latest():
            parts.append(f"skipped_steps: {history['skipped_steps'].latest():.0f}")
        if torch.cuda.is_available():
            parts.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info(" " + "  ".join(parts))

    def _window(self, storage: EventStorage, name: str) -> int:
        return min(self._window_size, len(storage.history(name).values()))


def build_writers(output_dir: str, max_iter: int) -> List[EventWriter]:
    """Progress on the terminal, metrics.json and, where it is installed, TensorBoard."""
    PathManager.mkdirs(output_dir)
    printer = ProgressPrinter(max_iter)
    writers = [printer, JSONWriter(os.path.join(output_dir, "metrics.json"))]
    if find_spec("tensorboard"):
        writers.append(TensorboardXWriter(output_dir))
    else:
        printer.logger.info("No TensorBoard events: `pip install tensorboard` for them")
    return writers
