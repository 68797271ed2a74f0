"""The ways to run one model: eager, prepared, compiled, exported."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...export import FORMATS, export, run
from ...modeling import CornerNet
from ...prepare import prepare_for_inference

# Name -> arguments of prepare_for_inference; None: the model as it is.
EAGER: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
    "compiled": {"dtype": "float32", "compile": True},
}
# Name -> format, whether in int8, options of its runtime.
EXPORTED: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "onnx": ("onnx", False, {}),
    "onnx-int8": ("onnx", True, {}),
    "openvino": ("openvino", False, {}),
    "openvino-bf16": ("openvino", False, {"INFERENCE_PRECISION_HINT": "bf16"}),
    "openvino-int8": ("openvino", True, {}),
    "pt2": ("pt2", False, {}),
    "torchscript": ("torchscript", False, {}),
    "aoti": ("aoti", False, {}),
}
VARIANTS = (*EAGER, *EXPORTED)
# What sets the number of threads of a runtime.
THREADS = {"onnx": "intra_op_num_threads", "openvino": "INFERENCE_NUM_THREADS"}
# Called with images (3, H, W) uint8 of one size.
Call = Callable[[Sequence[Tensor]], object]


def write_files(
    model: CornerNet, names: Sequence[str], folder: Path, max_side: int, images: Sequence[Tensor]
) -> dict[str, Path]:
    """Exports what some variants need: the file of each by its name.

    Args:
        model: see :func:`.export.export`.
        names: of variants.
        folder: where to write.
        max_side: the largest side of images, pixels.
        images: (3, H, W) to find the ranges of int8 with.
    """
    files = {}
    for name in set(names) & set(EXPORTED):
        kind, quantized, _ = EXPORTED[name]
        path = folder / f"{'int8' if quantized else 'float32'}{FORMATS[kind].ending}"
        if path not in files.values():
            calibration = images if quantized else ()
            export(model, path, kind, max_side=max_side, calibration=calibration)
        files[name] = path
    return files


def make(model: CornerNet, name: str, file: Path | None, threads: int) -> nn.Module | Call:
    """A variant: a model, or what calls the runtime of a file.

    Args:
        model: a CornerNet without test-time augmentation.
        name: one of VARIANTS.
        file: what :func:`write_files` wrote for it.
        threads: of a file's runtime; 0: its choice.
    """
    if name in EAGER:
        settings = EAGER[name]
        return model if settings is None else prepare_for_inference(model, **settings)
    runner = run(file, **options(name, threads))
    return lambda images: runner(torch.stack(list(images)).float())


def options(name: str, threads: int) -> dict[str, Any]:
    """Of the runtime of an exported variant."""
    kind, _, given = EXPORTED[name]
    return {**given, THREADS[kind]: threads} if threads and kind in THREADS else given


def caller(variant: nn.Module | Call) -> Call:
    """What runs a variant on images."""
    if not isinstance(variant, nn.Module):
        return variant
    return lambda images: variant([{"image": image} for image in images])
