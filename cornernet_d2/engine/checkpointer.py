"""Checkpoints that survive kills, full disks and damaged files."""

import logging
import os
import zipfile
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from ..checkpoint import CornerNetCheckpointer, whole_file
from .resume import check_resumable
from .run_folder import NUMBERED

logger = logging.getLogger(__name__)

LAST = "last_checkpoint"  # fvcore's file with the name of the newest checkpoint


class TrainingCheckpointer(CornerNetCheckpointer):
    """A checkpointer whose files are always whole, and which copes with files that aren't.

    - A file appears under its name only when all of it is on the disk.
    - Of the numbered checkpoints the last ``keep`` stay.
    - Resuming checks the file first and falls back to the one before it.
    - A file that does not fit the model or its optimiser is refused before anything is loaded.

    Args:
        model, save_dir, cfg, checkpointables: as in CornerNetCheckpointer.
        keep: numbered checkpoints to keep; 0 for all.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        cfg: CfgNode | None = None,
        keep: int = 0,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, cfg=cfg, **checkpointables)
        self.keep = keep
        self.resuming = ""  # path of the checkpoint that is being resumed from

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``save_dir/name.pth`` and make it the checkpoint to resume from.

        Raises:
            OSError: it could not be written, say because the disk is full. Files written earlier
                are intact.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: obj.state_dict() for key, obj in self.checkpointables.items()})
        data.update(kwargs)
        self.write(name, data)
        self.tag_last_checkpoint(f"{name}.pth")
        self._drop_old()

    def write(self, name: str, data: dict[str, Any]) -> None:
        """Write ``save_dir/name.pth`` without making it the one to resume from."""
        path = os.path.join(self.save_dir, f"{name}.pth")
        logger.info("Saving checkpoint to %s", path)
        try:
            with whole_file(path) as f:
                torch.save({**self.notes(), **data}, f)
        except (OSError, RuntimeError) as error:
            # torch.save fails once more at closing what it could not write.
            cause = error.__context__ if isinstance(error.__context__, OSError) else error
            raise OSError(
                f"Cannot write checkpoint {path}: {cause}. {self._latest_message()} Free some "
                "space or change OUTPUT_DIR, and continue with --resume."
            ) from error

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with whole_file(os.path.join(self.save_dir, LAST)) as f:
            f.write(last_filename_basename.encode())

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As in fvcore.

        Raises:
            CheckpointError: the checkpoint to resume from does not fit the model or its optimiser.
        """
        if not (resume and self.has_checkpoint()):
            return super().resume_or_load(path, resume=False)
        self.resuming = self.get_checkpoint_file()
        try:
            return self.load(self.resuming)
        finally:
            self.resuming = ""

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if self.resuming:
            trainer = self.checkpointables.get("trainer")
            optimizer = trainer.optimizer if trainer is not None else None
            check_resumable(self.resuming, checkpoint, self.model, optimizer)
        return super()._load_model(checkpoint)

    def has_checkpoint(self) -> bool:
        return bool(self._candidates())

    def get_checkpoint_file(self) -> str:
        """The newest checkpoint that is whole; the same on every process.

        Raises:
            OSError: there are checkpoints, but all of them are damaged.
        """
        choice: str | None = None
        if comm.is_main_process():
            for choice in self._candidates():
                fault = _fault(choice)
                if fault is None:
                    break
                logger.warning(
                    "Checkpoint %s is damaged (%s); trying the one before", choice, fault
                )
            else:
                choice = None
        choice = comm.all_gather(choice)[0]
        if choice is None:
            raise OSError(
                f"All checkpoints in {self.save_dir} are damaged. Restore one of them, or start "
                "again without --resume."
            )
        return choice

    def _candidates(self) -> list[str]:
        """Checkpoints to resume from: the tagged one, then the others from new to old."""
        if not os.path.isdir(self.save_dir):
            return []
        names = os.listdir(self.save_dir)
        order = sorted((n for n in names if NUMBERED.fullmatch(n)), reverse=True)
        if "model_final.pth" in names:
            order.insert(0, "model_final.pth")
        tagged = os.path.basename(super().get_checkpoint_file())
        if tagged in order:
            order = order[order.index(tagged) :]
        elif tagged in names and tagged.endswith(".pth"):
            order.insert(0, tagged)
        return [os.path.join(self.save_dir, name) for name in order]

    def _drop_old(self) -> None:
        if self.keep:
            numbered = sorted(n for n in os.listdir(self.save_dir) if NUMBERED.fullmatch(n))
            for name in numbered[: -self.keep]:
                os.remove(os.path.join(self.save_dir, name))

    def _latest_message(self) -> str:
        latest = self._candidates()
        return f"{latest[0]} is intact." if latest else "There is no earlier checkpoint."


def _fault(path: str) -> str | None:
    """What is wrong with a checkpoint file, or None. PyTorch itself does not verify checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        return str(error)
    return f"checksum of {damaged}" if damaged else None
