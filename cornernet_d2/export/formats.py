"""Writes a detector to a file of one of FORMATS, and runs such files."""

import importlib.util
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from ..layers import fallback
from .detector import Detector

INPUT = "images"
OUTPUTS = {False: ("boxes", "scores", "classes", "count")}
OUTPUTS[True] = ("boxes", "scores", "corner_scores", "classes")  # raw
OPSET = 18
# Called with images (N, 3, H, W), float32 in 0..255; gives the outputs.
Runner = Callable[[Tensor], Sequence[Tensor]]


def trace(detector: Detector, max_side: int) -> ExportedProgram:
    """The graph of a detector, in PyTorch's own operators, for any batch and any size.

    Args:
        detector: on the CPU, in eval mode.
        max_side: the largest height and width of an image, pixels.
    """
    least = smallest_side(detector)
    if max_side < 2 * least:
        raise ValueError(f"the largest side must be {2 * least} pixels or more, got {max_side}")
    most = largest_side(detector)
    if max_side > most:
        raise ValueError(f"the largest side must be at most {most} pixels, got {max_side}")
    example = torch.rand(2, 3, least + least // 2, 2 * least - 1) * 255
    sizes = {2: Dim("height", min=least, max=max_side), 3: Dim("width", min=least, max=max_side)}
    sizes[0] = Dim("batch")
    with torch.no_grad():
        program = torch.export.export(detector, (example,), dynamic_shapes=(sizes,))
    return program.run_decompositions(_own_operators())


def smallest_side(detector: Detector) -> int:
    """The least side that torch.export takes for open, pixels.

    On a canvas of one tile the innermost map has a side of 1, which it would hold for a constant.
    Graphs of ONNX are right for smaller sides all the same.
    """
    return detector.model.divisibility + 1


def largest_side(detector: Detector) -> int:
    """The largest side whose map's cells, of all classes, ONNX counts exactly, pixels.

    torch.onnx writes the division of integers as one of float32.
    """
    model = detector.model
    classes = model.head[-1].tl.heatmap[-1].out_channels
    cells = math.isqrt(2**24 // classes)
    pixels = cells * model.target_generator.stride
    return pixels // model.divisibility * model.divisibility


def _own_operators() -> dict[torch._ops.OpOverload, Callable]:
    """Forms of this package's operators in PyTorch's: a file must run where this is not."""

    def both(vertical: Tensor, horizontal: Tensor, reverse: bool) -> Tensor:
        pooled = fallback.scan_max(vertical, 2, reverse)
        return pooled + fallback.scan_max(horizontal, 3, reverse)

    operators = torch.ops.cornernet_d2
    return {
        operators.corner_pool.default: fallback.scan_max,
        operators.corner_pool_sum.default: both,
    }


def write_onnx(
    program: ExportedProgram, path: Path, metadata: Mapping[str, str], outputs: Sequence[str]
) -> None:
    """One ONNX file, weights included."""
    _require("onnx", "onnxscript")
    written = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=list(outputs),
        verbose=False,
    )
    written.model.metadata_props.update(metadata)
    written.save(str(path), external_data=False)


def write_pt2(
    program: ExportedProgram, path: Path, metadata: Mapping[str, str], outputs: Sequence[str]
) -> None:
    """An archive of :func:`torch.export.save`, with "metadata.json" beside the graph."""
    text = json.dumps({**metadata, "outputs": list(outputs)})
    torch.export.save(program, str(path), extra_files={"metadata.json": text})


def run_onnx(path: Path) -> Runner:
    _require("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(x) for x in session.run(None, {INPUT: images.numpy()})]


def run_pt2(path: Path) -> Runner:
    module = torch.export.load(str(path)).module()

    def run(images: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            return module(images)

    return run


# Format -> file ending, writer, runner.
FORMATS = {
    "onnx": (".onnx", write_onnx, run_onnx),
    "pt2": (".pt2", write_pt2, run_pt2),
}


def run(path: str | Path) -> Runner:
    """A function of images (N, 3, H, W) that runs an exported file.

    Raises:
        ValueError: the ending is of no format, or the format's library is missing.
    """
    path = Path(path)
    for ending, _, runner in FORMATS.values():
        if path.suffix == ending:
            return runner(path)
    raise ValueError(f"{path} ends in none of {[ending for ending, *_ in FORMATS.values()]}")


def _require(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"this format needs {', '.join(missing)}: pip install {' '.join(missing)}")
