"""Writers of the training progress: terminal, JSON, and services by name."""

import logging
import os
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import cv2
import numpy as np
import yaml
from detectron2.config import CfgNode
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)

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


class PictureFiles(EventWriter):
    """Writes pictures as NAME_ITERATION.jpg; before the writer that frees them.

    Args:
        folder: made with the first picture.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def write(self) -> None:
        for name, picture, iteration in get_event_storage()._vis_data:
            os.makedirs(self.folder, exist_ok=True)
            path = os.path.join(self.folder, f"{name.replace('/', '_')}_{iteration:07d}.jpg")
            pixels = np.asarray(picture).transpose(1, 2, 0)[..., ::-1]
            if not cv2.imwrite(path, pixels, [cv2.IMWRITE_JPEG_QUALITY, 85]):
                logger.warning("%s could not be written", path)


class Lazy(EventWriter):
    """A writer that is made when there is something to write: making one creates files or runs."""

    def __init__(self, make: Callable[[], EventWriter]) -> None:
        self.make = make
        self.writer: EventWriter | None = None

    def write(self) -> None:
        if self.writer is None:
            self.writer = self.make()
        self.writer.write()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class NewScalars(EventWriter):
    """Base of writers that send the scalars put since the last time to a service."""

    def __init__(self) -> None:
        self.last_write = -1

    def write(self) -> None:
        by_iteration: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in get_event_storage().latest().items():
            if iteration > self.last_write:
                by_iteration.setdefault(iteration, {})[name] = value
        for iteration in sorted(by_iteration):
            self.send(by_iteration[iteration], iteration)
            self.last_write = iteration

    def send(self, scalars: dict[str, float], iteration: int) -> None:
        raise NotImplementedError


class WandbWriter(NewScalars):
    """Weights & Biases; project, entity and mode are taken from its environment variables."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        import wandb

        config = yaml.safe_load(cfg.dump())
        name = os.path.basename(os.path.abspath(cfg.OUTPUT_DIR))
        self.run = wandb.init(dir=cfg.OUTPUT_DIR, name=name, config=config)

    def send(self, scalars: dict[str, float], iteration: int) -> None:
        self.run.log(scalars, step=iteration)

    def close(self) -> None:
        self.run.finish()


class MlflowWriter(NewScalars):
    """MLflow; address and experiment are taken from its environment variables."""

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        import mlflow

        self.mlflow = mlflow
        mlflow.start_run(run_name=os.path.basename(os.path.abspath(cfg.OUTPUT_DIR)))
        mlflow.log_dict(yaml.safe_load(cfg.dump()), "config.yaml")

    def send(self, scalars: dict[str, float], iteration: int) -> None:
        self.mlflow.log_metrics(scalars, step=iteration)

    def close(self) -> None:
        self.mlflow.end_run()


LOGGERS: dict[str, Callable[[CfgNode], EventWriter]] = {
    "tensorboard": lambda cfg: TensorboardXWriter(cfg.OUTPUT_DIR),
    "wandb": WandbWriter,
    "mlflow": MlflowWriter,
}


def _json_writer(cfg: CfgNode) -> JSONWriter:
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    return JSONWriter(os.path.join(cfg.OUTPUT_DIR, "metrics.json"))


def build_writers(cfg: CfgNode, max_iter: int) -> list[EventWriter]:
    """Progress on the terminal, in metrics.json, and where LOGGERS says; pictures as files.

    Raises:
        ValueError: a logger that is unknown, or not installed; TensorBoard may be missing.
    """
    writers: list[EventWriter] = [ProgressPrinter(max_iter), Lazy(partial(_json_writer, cfg))]
    writers.append(PictureFiles(os.path.join(cfg.OUTPUT_DIR, "pictures")))
    for name in cfg.LOGGERS:
        if name not in LOGGERS:
            raise ValueError(f"LOGGERS holds {name!r}; choose from {list(LOGGERS)}")
        if find_spec(name):
            writers.append(Lazy(partial(LOGGERS[name], cfg)))
        elif name == "tensorboard":  # the default
            logger.info("No TensorBoard events: `pip install tensorboard` for them")
        else:
            raise ValueError(f"LOGGERS holds {name!r}, which is not installed: pip install {name}")
    if not ("tensorboard" in cfg.LOGGERS and find_spec("tensorboard")):
        writers.append(DropPictures())
    return writers
