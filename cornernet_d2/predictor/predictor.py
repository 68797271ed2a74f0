"""The trained model in a file, ready for images in any form."""

import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import nn

from ..checkpoint import CheckpointError, class_names, read_config, read_contents
from ..engine import CornerNetTrainer
from ..engine.evaluation import tested_model
from ..hardware import check_device
from ..modeling import InferenceWithTTA
from . import memory, pretrained
from .build import override
from .images import find_images, network_size, read_picture, resize
from .tiling import detect_tiled

Picture = str | PathLike | np.ndarray


class Detected(NamedTuple):
    """What became of one image.

    Attributes:
        source: the path or the array as it was given.
        picture: (H, W, 3) uint8 BGR; None if it could not be read.
        instances: pred_boxes (xyxy, pixels of ``picture``), scores, pred_classes, on the CPU; None
            after an error.
        error: one line, or None.
    """

    source: Picture
    picture: np.ndarray | None
    instances: Instances | None
    error: str | None = None


class Predictor:
    """Detects objects with a trained model; :func:`load` makes one from a file.

    Attributes:
        model: the Detectron2 model, in eval mode.
        cfg: its config.
        class_names: by class index; None if neither the file nor the datasets tell them.
        averaged: whether the weights are the moving average of training's.
    """

    def __init__(
        self,
        model: nn.Module,
        cfg: CfgNode,
        class_names: Sequence[str] | None = None,
        averaged: bool = False,
    ) -> None:
        self.model, self.cfg, self.averaged = model.eval(), cfg, averaged
        self.class_names = list(class_names) if class_names is not None else None

    @classmethod
    def from_config(cls, cfg: CfgNode, names: Sequence[str] | None = None) -> "Predictor":
        """The model of a config with the weights of MODEL.WEIGHTS, prepared as TEST.FAST says.

        Args:
            cfg: of the model.
            names: of its classes; None: those in the file, else those of the config's datasets.

        Raises:
            CheckpointError: there is no such file, or its weights are not the model's.
        """
        path = cfg.MODEL.WEIGHTS
        check_device(cfg.MODEL.DEVICE)
        if names is None and os.path.isfile(path):
            names = (read_contents(path, mmap=True).get("cornernet_d2") or {}).get("classes")
        model = build_model(cfg)
        averaged = CornerNetTrainer.load_weights(cfg, model)
        return cls(tested_model(cfg, model), cfg, names or class_names(cfg), averaged)

    def __call__(
        self,
        images: Picture | Sequence[Picture],
        *,
        batch_size: int = 4,
        tile: int | None = None,
    ) -> Instances | list[Instances]:
        """Detect objects.

        Args:
            images: a path, or an (H, W, 3) uint8 array in BGR order, of any size; or a list of
                such; or a folder, of which the images are taken by name.
            batch_size: images that go through the network together, if their canvases are equal.
            tile: see :meth:`stream`.

        Returns:
            Instances for one image, else a list of them: pred_boxes (xyxy, pixels of the image),
            scores and pred_classes, best score first, on the CPU.

        Raises:
            ValueError: something is no image, or would not fit into memory.
        """
        single = isinstance(images, (str, PathLike, np.ndarray))
        if isinstance(images, (str, PathLike)) and os.path.isdir(images):
            images, single = find_images([images]), False
        results = []
        for detected in self.stream([images] if single else images, batch_size, tile):
            if detected.error is not None:
                raise ValueError(detected.error)
            results.append(detected.instances)
        return results[0] if single else results

    def stream(
        self, images: Iterable[Picture], batch_size: int = 4, tile: int | None = None
    ) -> Iterator[Detected]:
        """Detect objects in one image after the other; errors come as results.

        Args:
            images: paths or arrays, read as they are needed.
            batch_size: see :meth:`__call__`.
            tile: larger images are seen in tiles of so many pixels a side; None: as a whole.

        Raises:
            ValueError: ``batch_size`` or ``tile`` below 1.
        """
        if batch_size < 1 or (tile is not None and tile < 1):
            raise ValueError(f"batch size {batch_size} and tile {tile} must be at least 1")
        batch: list[Detected] = []
        for source in images:
            try:
                item = Detected(source, read_picture(source), None)
            except (ValueError, MemoryError) as error:
                item = Detected(source, None, None, str(error) or "out of memory")
            if batch and not self._same_canvas(batch[0], item):
                yield from self._detect_items(batch, tile)
                batch = []
            batch.append(item)
            if len(batch) == batch_size:  # a camera's frame does not wait for the next one
                yield from self._detect_items(batch, tile)
                batch = []
        yield from self._detect_items(batch, tile)

    def detect(self, pictures: Sequence[np.ndarray]) -> list[Instances]:
        """Detect objects in (H, W, 3) uint8 BGR arrays, all in one batch.

        Raises:
            MemoryError: they would not fit.
        """
        self.check_memory([self._network_size(picture) for picture in pictures])
        return self.detect_inputs([self.to_input(picture) for picture in pictures])

    def to_input(self, picture: np.ndarray) -> dict:
        """Detectron2's dict of an (H, W, 3) uint8 BGR array, resized as the config says."""
        size = self._network_size(picture)
        view = resize(picture if self.cfg.INPUT.FORMAT == "BGR" else picture[..., ::-1], size)
        image = torch.as_tensor(np.ascontiguousarray(view.transpose(2, 0, 1)))
        height, width = picture.shape[:2]
        return {"image": image, "height": height, "width": width}

    def detect_inputs(self, inputs: Sequence[dict]) -> list[Instances]:
        """Detect objects in what :meth:`to_input` makes, all in one batch; see :meth:`detect`."""
        self.check_memory([tuple(x["image"].shape[-2:]) for x in inputs])
        with torch.no_grad():
            return [result["instances"].to("cpu") for result in self.model(list(inputs))]

    def save_pretrained(self, folder: str | PathLike) -> None:
        """Write model.safetensors and config.yaml, from which :func:`load` takes all it needs.

        Raises:
            CheckpointError: the library safetensors is not there, or, with TEST.FAST, the file of
                the weights no longer is.
            OSError: the folder cannot be written to.
        """
        model = self.model
        if self.cfg.MODEL.CORNERNET.TEST.FAST:  # a prepared model lacks norms and inner heads
            model = build_model(self.cfg)
            CornerNetTrainer.load_weights(self.cfg, model)
        pretrained.save(model, self.cfg, self.class_names, Path(folder))

    @classmethod
    def from_pretrained(cls, name: str | PathLike, device: str = "auto") -> "Predictor":
        """:func:`load` of a folder of :meth:`save_pretrained`, or of a Hugging Face hub's name."""
        return load(name, device)

    @cached_property
    def _bytes_per_pixel(self) -> float:
        return memory.bytes_per_pixel(self.model)

    def check_memory(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Raises MemoryError if images of these sizes, or their views, would not fit in one batch.

        Args:
            sizes: (height, width) that the model is given them in.
        """
        if not hasattr(self.model, "canvas"):
            return
        inference, copies, views = self.model.corner_inference, len(sizes), [sizes]
        if isinstance(inference, InferenceWithTTA):
            copies *= 1 + inference.flip
            views = zip(*map(inference.view_sizes, sizes))
        canvases = (self.model.canvas(view).size for view in views)
        pixels = copies * max(height * width for height, width in canvases)
        memory.check_memory(pixels, lambda: self._bytes_per_pixel, self.model.device)

    def canvas_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the canvas for an image that the network sees in this size."""
        return self.model.canvas([size]).size if hasattr(self.model, "canvas") else size

    def _network_size(self, picture: np.ndarray) -> tuple[int, int]:
        settings = self.cfg.INPUT
        return network_size(
            *picture.shape[:2], min_size=settings.MIN_SIZE_TEST, max_size=settings.MAX_SIZE_TEST
        )

    def _same_canvas(self, first: Detected, second: Detected) -> bool:
        if first.picture is None or second.picture is None:
            return False
        one, other = (
            self.canvas_size(self._network_size(item.picture)) for item in (first, second)
        )
        return one == other

    def _detect_items(self, batch: list[Detected], tile: int | None) -> Iterator[Detected]:
        whole = [x for x in batch if x.picture is not None and not _exceeds(x.picture, tile)]
        if len(whole) == len(batch) > 1:
            try:
                results = self.detect([item.picture for item in batch])
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                gc.collect()  # what the failed batch holds
            else:
                yield from (x._replace(instances=r) for x, r in zip(batch, results))
                return
        yield from (self._detect_item(item, tile) for item in batch)

    def _detect_item(self, item: Detected, tile: int | None) -> Detected:
        if item.picture is None:
            return item
        try:
            if _exceeds(item.picture, tile):
                result = detect_tiled(item.picture, tile, self.detect, self.cfg)
            else:
                (result,) = self.detect([item.picture])
        except (MemoryError, RuntimeError) as error:
            if not _is_out_of_memory(error):
                raise
            name = "the image" if isinstance(item.source, np.ndarray) else item.source
            reason = str(error).splitlines()[0] if str(error) else "out of memory"
            return item._replace(error=f"{name} does not fit into memory: {reason}")
        return item._replace(instances=result)


def load(path: str | PathLike, device: str = "auto", *, opts: Sequence[object] = ()) -> Predictor:
    """Loads a trained model from its file alone.

    Args:
        path: a checkpoint that this project wrote or converted, or one of the authors, of
            CornerNet-Lite or MMDetection as it is; a folder of :meth:`Predictor.save_pretrained`;
            or such a folder's name on the Hugging Face hub, "OWNER/NAME".
        device: "cpu", "cuda", ...; "auto": a GPU if there is one.
        opts: alternating config keys and values that differ from the file's.

    Returns:
        A :class:`Predictor`, of the averaged weights if the file has them.

    Raises:
        CheckpointError: there is no such file, or it is no trained model of this package.
        ValueError: ``opts`` has an unknown key or a value of another type.
    """
    file = pretrained.find(path)
    contents = read_contents(file, mmap=True)
    cfg, names = read_config(contents, file)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    override(cfg, ["MODEL.WEIGHTS", file, "MODEL.DEVICE", device, *opts])
    number = cfg.MODEL.CORNERNET.NUM_CLASSES
    if names is not None and len(names) != number:
        raise CheckpointError(f"{file} names {len(names)} classes for a model of {number}")
    return Predictor.from_config(cfg, names)


def _exceeds(picture: np.ndarray, tile: int | None) -> bool:
    return tile is not None and max(picture.shape[:2]) > tile


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in text
