"""What a run says: everything to OUTPUT_DIR/log.txt, to the terminal what a person reads."""

import logging
import os
import sys
import warnings

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from torch import nn

logger = logging.getLogger(__name__)

# Besides warnings and this package's own messages: progress, and tables of results.
SHOWN = ("detectron2.utils.events", "cornernet_d2")
TABLES = ("Evaluation results for", "Per-category")


class _ForPeople(logging.Filter):
    """Lets through to the terminal what is of use during a run."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)
        if text.startswith("Using previously cached COCO format"):  # of this run, see run.start
            return False
        if text.startswith("Exception during training"):  # the command says it in one line
            return False
        if record.levelno >= logging.WARNING or record.name.startswith(SHOWN):
            return True
        return text.startswith(TABLES) and "csv format" not in text  # the same once more


class _OneFault:
    """In place of a log file's ``handleError``: one line, not a traceback for each message."""

    def __init__(self) -> None:
        self.said = False

    def __call__(self, record: logging.LogRecord) -> None:
        if not self.said:
            self.said = True
            sys.stderr.write(f"a log file cannot be written to: {sys.exc_info()[1]}\n")


def start_logging(output_dir: str, quiet: bool = True) -> None:
    """Send the messages of Detectron2, fvcore and this package to the terminal and to log.txt.

    Args:
        output_dir: folder of log.txt; other processes than the first write log.txt.rankN.
        quiet: keep what only a log needs from the terminal.
    """
    # What newer versions of PyTorch are about to drop and Detectron2 uses.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.|detectron2\.")
    warnings.filterwarnings("ignore", "TypedStorage is deprecated", category=UserWarning)
    PathManager.mkdirs(output_dir)
    rank = comm.get_rank()
    setup_logger(output_dir, distributed_rank=rank, name="fvcore")
    detectron2 = setup_logger(output_dir, distributed_rank=rank)
    ours = logging.getLogger("cornernet_d2")
    ours.setLevel(logging.DEBUG)
    for handler in detectron2.handlers:
        if handler not in ours.handlers:
            ours.addHandler(handler)
    for handler in (*detectron2.handlers, *logging.getLogger("fvcore").handlers):
        handler.handleError = _OneFault()
        if getattr(handler, "stream", None) in (sys.stdout, sys.__stdout__):
            for old in [f for f in handler.filters if isinstance(f, _ForPeople)]:
                handler.removeFilter(old)
            if quiet:
                handler.addFilter(_ForPeople())


def log_setting(cfg: CfgNode, command: str) -> None:
    """Environment, command line and whole config to log.txt."""
    detectron2 = logging.getLogger("detectron2.engine.defaults")
    builder = logging.getLogger("torch.utils.cpp_extension")  # warns of a toolkit without a GPU
    level = builder.level
    builder.setLevel(logging.ERROR)
    detectron2.info("Environment info:\n%s", collect_env_info())
    builder.setLevel(level)
    detectron2.info("Command line: %s", command)
    detectron2.info("Running with full config:\n%s", cfg.dump())


def say_head(cfg: CfgNode, model: nn.Module, dtype: torch.dtype | None, images: int) -> None:
    """The few lines at the start of a training: device, network, data, schedule, place.

    Args:
        cfg: of the run.
        model: that is trained.
        dtype: of mixed precision, None without.
        images: of the training set.
    """
    device = next(model.parameters()).device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    if device.type == "cpu":
        where = f"CPU, {torch.get_num_threads()} threads"
    name = str(dtype or torch.float32).removeprefix("torch.")
    parameters = sum(p.numel() for p in model.parameters())
    solver, crop = cfg.SOLVER, cfg.INPUT.CORNERNET.CROP
    size = f"crops of {crop.SIZE[1]} x {crop.SIZE[0]} px" if crop.ENABLED else "whole images"
    epochs = solver.MAX_ITER * solver.IMS_PER_BATCH / max(images, 1)
    lines = [
        f"device    {where}, {name}, {comm.get_world_size()} process(es)",
        f"network   {parameters / 1e6:.1f} M parameters, {size}",
        f"data      {', '.join(cfg.DATASETS.TRAIN)}: {images} images, "
        f"{cfg.MODEL.CORNERNET.NUM_CLASSES} classes; evaluated on "
        f"{', '.join(cfg.DATASETS.TEST) or 'nothing'}",
        f"schedule  {solver.MAX_ITER} iterations of {solver.IMS_PER_BATCH} images, "
        f"{epochs:.1f} epochs",
        f"output    {cfg.OUTPUT_DIR} (config.yaml and log.txt have everything)",
    ]
    logger.info("CornerNet\n%s", "\n".join(f"  {line}" for line in lines))


def say_result(output_dir: str, metric: str) -> None:
    """The lines at the end: how good the best weights are, where they are, how to use them.

    Args:
        output_dir: of the run.
        metric: ``SOLVER.BEST_METRIC``.
    """
    best, final = (os.path.join(output_dir, f"model_{name}.pth") for name in ("best", "final"))
    lines = []
    weights = final
    if os.path.isfile(best):
        weights = best
        saved = torch.load(best, map_location="cpu", weights_only=True, mmap=True)
        when = f"after iteration {saved['iteration']}"
        when += ", averaged weights" if saved.get("averaged") else ""
        lines.append(f"best      {metric} {saved['metric']:.1f} {when}")
    lines.append(f"weights   {weights}")
    lines.append(f"draw      cornernet predict {weights} IMAGES --output drawn/")
    lines.append(f"evaluate  cornernet eval {weights}")
    logger.info("Done\n%s", "\n".join(f"  {line}" for line in lines))
