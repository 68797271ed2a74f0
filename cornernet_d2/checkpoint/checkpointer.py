"""Detectron2's checkpointer, taught to read every published CornerNet file."""

import logging
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer

from . import conventions
from .files import CheckpointError, is_torch_file, load_torch_file
from .formats import METADATA_KEY, build_contents, describe, parse

logger = logging.getLogger(__name__)


class CornerNetCheckpointer(DetectionCheckpointer):
    """``MODEL.WEIGHTS`` may be a file of princeton-vl, CornerNet-Lite, MMDetection or Detectron2.

    Other files (Detectron2's own ``.pkl``, torchvision backbones, ...) are read as
    :class:`DetectionCheckpointer` reads them. Saved files note the input that the weights expect;
    loading compares it with the model's.

    Detectron2's ``DefaultPredictor`` makes a plain ``DetectionCheckpointer``, whatever the model;
    for files that only this class reads, use :func:`cornernet_d2.build_predictor`, or
    convert them once with ``python -m cornernet_d2.tools.convert_checkpoint``.

    Raises:
        CheckpointError: when loading, a damaged file, or weights that expect other pixels than
            the model gets (``INPUT.FORMAT``, ``MODEL.PIXEL_MEAN``, ``MODEL.PIXEL_STD``).
    """

    def notes(self) -> dict[str, Any]:
        """What a saved file holds besides weights: the input that they expect."""
        return {METADATA_KEY: describe(conventions.of_model(self.model))}

    def save(self, name: str, **kwargs: Any) -> None:
        super().save(name, **self.notes(), **kwargs)

    def _load_file(self, filename: str) -> dict[str, Any]:
        if not is_torch_file(filename):
            return super()._load_file(filename)
        # Not mapped: optimizer state may share the tensors, and training overwrites its files.
        contents = load_torch_file(filename, mmap=False)
        try:
            checkpoint = parse(contents, filename)
        except CheckpointError:
            return super()._load_file(filename)  # a backbone, or another model
        if checkpoint.source == "d2":
            return contents if "model" in contents else {"model": contents}
        logger.info(
            "%s is in the format of %s: %d weights renamed, %d left over %s",
            filename,
            checkpoint.source,
            checkpoint.matched,
            len(checkpoint.left_over),
            checkpoint.left_over[:5] or "",
        )
        return build_contents(checkpoint, "d2")

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        notes = checkpoint.get(METADATA_KEY) or {}
        if "input" in notes:
            self._check_input(conventions.from_metadata(notes["input"]))
        return super()._load_model(checkpoint)

    def _check_input(self, expected: conventions.InputConvention) -> None:
        found = conventions.of_model(self.model)
        if found is None:
            return
        wrong = conventions.differences(expected, found)
        if not wrong:
            return
        message = (
            f"these weights expect the {expected.preset or 'input'} convention; "
            f"to follow it set {', '.join(wrong)}"
        )
        if all(key.startswith("MODEL.CORNERNET.PADDING") for key in wrong):
            logger.warning(message)
            return
        raise CheckpointError(
            message + ". To use them with other pixels on purpose, restate the file's convention: "
            "python -m cornernet_d2.tools.convert_checkpoint SRC DST --preset NAME"
        )
