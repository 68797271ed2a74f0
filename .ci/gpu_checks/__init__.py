"""The steps of ``gpu_check.py``, a module each: ``run(settings)`` yields the rows of its table.

A row is a dict of column names and values, written as soon as it is known. Three columns have a
meaning of their own: "ok" is False for a check that failed, "skipped" says why a step could not
run, "note" is a sentence to print with the table.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
Rows = Iterator[dict[str, Any]]


class Settings(NamedTuple):
    """Where to run, and whether on sizes that only try the code."""

    device: str  # "cuda" or "cpu"
    tiny: bool


class Step(NamedTuple):
    """A module of this package, what it does, and the seconds that it may take."""

    name: str
    seconds: int
    title: str


# 15 minutes in all. What a measurement rests on comes before it.
STEPS = (
    Step("machine", 20, "This machine"),
    Step("kernels", 150, "Kernels compiled for this device; built first if they are not"),
    Step("tests", 90, "The operators' tests on the device"),
    Step("sanitizer", 140, "compute-sanitizer: memory, races and barriers of every kernel"),
    Step("bandwidth", 60, "Bytes a second of every kernel, against a copy and other ways"),
    Step("equality", 90, "Losses, gradients and detections equal to the CPU's"),
    Step("training", 70, "Training steps of Hourglass-104"),
    Step("inference", 50, "Inference of Hourglass-104, by stage"),
    Step("compiled", 130, "The same compiled: a training step, and inference with CUDA graphs"),
    Step("loader", 30, "Images a second of the training data loader"),
    Step("learning", 40, "A small model's loss falls"),
    Step("distributed", 30, "Two GPUs, one gradient"),
)
