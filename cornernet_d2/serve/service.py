"""A trained model that many ask at once: bytes of images in, COCO's rows out. No HTTP here."""

import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.structures import Instances

from ..predictor import Predictor
from ..predictor.results import coco_rows
from .batching import Batcher, Full
from .metrics import Metrics
from .uploads import Refused, read_upload, size

logger = logging.getLogger(__name__)

QUICK = 1 << 17  # bytes of a file and pixels in it


@dataclass(frozen=True)
class Limits:
    """What is asked of the machine at most.

    Attributes:
        batch_size: images that go through the network together.
        max_wait: seconds; see :class:`.batching.Batcher`.
        queue: requests that are read, wait or run at the same time; more are refused.
        timeout: seconds until a request has to be read, and again until it has to be answered.
        max_bytes: of an image file.
        max_pixels: of an image.
    """

    batch_size: int = 8
    max_wait: float = 0.002
    queue: int = 64
    timeout: float = 30.0
    max_bytes: int = 20 * 2**20
    max_pixels: int = 40_000_000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 0 or (value == 0 and name != "max_wait"):
                raise ValueError(f"{name} must be above 0, got {value}")


class Service:
    """One model, one thread that runs it, and limits.

    Args:
        predictor: whose model is used by nobody else meanwhile.
        limits: see there.

    Attributes:
        lock: to be held by whoever runs the model.
    """

    def __init__(self, predictor: Predictor, limits: Limits = Limits()) -> None:
        self.predictor, self.limits = predictor, limits
        self.lock = threading.Lock()
        self.readers = max(2, os.cpu_count() or 1)  # images decoded at the same time
        self.batcher = Batcher(
            self._run,
            lambda x: predictor.canvas_size(tuple(x["image"].shape[-2:])),
            batch_size=limits.batch_size,
            max_wait=limits.max_wait,
            capacity=limits.queue,
        )
        gauges = {
            "queue_images": ("Images that wait for the network.", lambda: self.batcher.waiting),
            "requests_in_flight": ("Requests that have a place.", lambda: self.batcher.places),
        }
        self.metrics = Metrics(gauges, limits.batch_size)

    def read(self, data: bytes) -> dict[str, Any]:
        """The network's input from the bytes of an image file, already of the network's size.

        Raises:
            Refused: see :func:`.uploads.read_upload`.
        """
        return self.predictor.to_input(self.picture(data))

    def is_quick(self, data: bytes) -> bool:
        """Whether :meth:`read` takes less than to hand the bytes to another thread.

        Raises:
            Refused: see :func:`.uploads.size`.
        """
        width, height = size(data)
        return len(data) + width * height <= QUICK

    def picture(self, data: bytes) -> np.ndarray:
        """:func:`.uploads.read_upload` within the limits."""
        if len(data) > self.limits.max_bytes:
            raise self.too_large()
        return read_upload(data, self.limits.max_pixels)

    def too_large(self) -> Refused:
        return Refused(413, f"more than the {self.limits.max_bytes / 2**20:g} MiB allowed")

    def detect(self, data: bytes) -> tuple[np.ndarray, Instances]:
        """The picture in the bytes of an image file, (H, W, 3) BGR, and what is found on it.

        Raises:
            Refused: it is none, or no place is free.
            TimeoutError: there was no answer in time.
        """
        try:
            place = self.batcher.place()
        except Full as error:
            raise Refused(503, str(error)) from error
        with place:
            picture = self.picture(data)
            future = place.submit(self.predictor.to_input(picture))
            return picture, future.result(self.limits.timeout)

    def answer(
        self, x: dict[str, Any], instances: Instances, min_score: float, most: int | None
    ) -> dict[str, Any]:
        """What /predict says: the image's size, and its detections best first.

        Args:
            x: of :meth:`read`.
            instances: of it.
            min_score: in [0, 1].
            most: detections; None: all.
        """
        kept = instances[instances.scores >= min_score][:most]
        rows = coco_rows(kept, self.predictor.class_names)
        return {"width": x["width"], "height": x["height"], "detections": rows}

    def close(self) -> None:
        """Answer what is waiting, and stop the thread."""
        if not self.batcher.close(self.limits.timeout):
            logger.warning("Requests were left without an answer")

    def _run(self, inputs: list[dict[str, Any]]) -> Sequence[Instances]:
        with self.lock:
            start = time.perf_counter()
            found = self.predictor.detect_inputs(inputs)
            self.metrics.count_batch(len(inputs), time.perf_counter() - start)
            return found
