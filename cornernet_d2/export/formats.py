"""Writes a detector to a file of one of FORMATS, and runs such files."""

import importlib.util
import json
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from ..layers import fallback
from . import torchscript
from .detector import Detector
from .quantize import quantize

INPUT = "images"
OUTPUTS = {False: ("boxes", "scores", "classes", "count")}
OUTPUTS[True] = ("boxes", "scores", "corner_scores", "classes")  # raw
OPSET = 18
# Called with images (N, 3, H, W), float32 in 0..255; gives the outputs.
Runner = Callable[[Tensor], Sequence[Tensor]]
# In the rt_info of OpenVINO's files.
SECTION = "cornernet_d2"


class Contents(NamedTuple):
    """What a file holds.

    Attributes:
        detector: on the CPU, in eval mode.
        max_side: the largest height and width of an image, pixels; see :func:`check_sides`.
        metadata: texts by name.
        outputs: the names of the detector's outputs.
        calibration: images (1, 3, H, W) float32 in 0..255 to find the ranges of int8 with; empty:
            float32.
        kept: names of the weights that stay float32 in int8.
    """

    detector: Detector
    max_side: int
    metadata: dict[str, str]
    outputs: Sequence[str]
    calibration: Sequence[Tensor] = ()
    kept: Sequence[str] = ()


def trace(detector: Detector, max_side: int) -> ExportedProgram:
    """The graph of a detector, in PyTorch's own operators, for any batch and any size.

    Args:
        detector: on the CPU, in eval mode.
        max_side: the largest height and width of an image, pixels.
    """
    least = smallest_side(detector)
    sizes = {2: Dim("height", min=least, max=max_side), 3: Dim("width", min=least, max=max_side)}
    sizes[0] = Dim("batch")
    with torch.no_grad():
        program = torch.export.export(detector, (example(detector),), dynamic_shapes=(sizes,))
    return program.run_decompositions(_own_operators())


def check_sides(detector: Detector, max_side: int) -> None:
    """Raises ValueError where a graph cannot be right up to this height and width, pixels."""
    least, most = 2 * smallest_side(detector), largest_side(detector)
    if max_side < least:
        raise ValueError(f"the largest side must be {least} pixels or more, got {max_side}")
    if max_side > most:
        raise ValueError(f"the largest side must be at most {most} pixels, got {max_side}")


def example(detector: Detector) -> Tensor:
    """Images to trace with, (2, 3, H, W): more than one tile of the network each way."""
    least = smallest_side(detector)
    return torch.rand(2, 3, least + least // 2, 2 * least - 1) * 255


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


def write_onnx(contents: Contents, path: Path) -> None:
    """One ONNX file, weights included."""
    _require("onnx", "onnxscript")
    written = torch.onnx.export(
        trace(contents.detector, contents.max_side),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=list(contents.outputs),
        verbose=False,
    )
    written.model.metadata_props.update(contents.metadata)
    written.save(str(path), external_data=False)
    if contents.calibration:
        _require("onnxruntime")
        quantize(path, INPUT, contents.calibration, contents.kept)


def write_openvino(contents: Contents, path: Path) -> None:
    """OpenVINO's pair of files, .xml and .bin beside it, by way of ONNX."""
    _require("openvino")
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        write_onnx(contents, Path(folder) / "model.onnx")
        model = openvino.convert_model(Path(folder) / "model.onnx")
        for name, text in contents.metadata.items():
            model.set_rt_info(text, [SECTION, name])
        openvino.save_model(model, path, compress_to_fp16=False)


def write_pt2(contents: Contents, path: Path) -> None:
    """An archive of :func:`torch.export.save`, with "metadata.json" beside the graph."""
    program = trace(contents.detector, contents.max_side)
    torch.export.save(program, str(path), extra_files=_extra_files(contents))


def write_aoti(contents: Contents, path: Path) -> None:
    """A package of AOTInductor: machine code for this kind of CPU, made by the C++ compiler."""
    about = {**contents.metadata, "outputs": json.dumps(list(contents.outputs))}
    torch._inductor.aoti_compile_and_package(
        trace(contents.detector, contents.max_side),
        package_path=str(path),
        inductor_configs={"aot_inductor.metadata": about},
    )


def write_torchscript(contents: Contents, path: Path) -> None:
    """A file of torch.jit.save, with "metadata.json" among its extra files."""
    with torchscript.quiet():
        module = torchscript.to_torchscript(contents.detector, example(contents.detector))
        torch.jit.save(module, str(path), _extra_files=_extra_files(contents))


def _extra_files(contents: Contents) -> dict[str, str]:
    about = {**contents.metadata, "outputs": list(contents.outputs)}
    return {"metadata.json": json.dumps(about)}


def run_onnx(path: Path, **options: Any) -> Runner:
    """``options``: of onnxruntime.SessionOptions."""
    _require("onnxruntime")
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    for name, value in options.items():
        setattr(settings, name, value)
    session = onnxruntime.InferenceSession(str(path), settings, ["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(x) for x in session.run(None, {INPUT: images.numpy()})]


def run_openvino(path: Path, **options: Any) -> Runner:
    """``options``: of OpenVINO's CPU plugin, which would compute in bfloat16 where it can."""
    _require("openvino")
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", **options}
    compiled = openvino.Core().compile_model(path, "CPU", settings)

    def run(images: Tensor) -> list[Tensor]:
        # Copies: the next call writes into the same memory.
        return [torch.from_numpy(x.copy()) for x in compiled([images.numpy()]).values()]

    return run


def run_pt2(path: Path) -> Runner:
    return _without_gradients(torch.export.load(str(path)).module())


def run_aoti(path: Path) -> Runner:
    return _without_gradients(torch._inductor.aoti_load_package(str(path)))


def run_torchscript(path: Path) -> Runner:
    with torchscript.quiet():
        return _without_gradients(torch.jit.load(str(path)))


def _without_gradients(module: Callable) -> Runner:
    def run(images: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            return module(images)

    return run


class Format(NamedTuple):
    """Of a file: its ending, its writer and its runner; whether it may hold int8."""

    ending: str
    write: Callable[[Contents, Path], None]
    run: Callable[..., Runner]
    quantizes: bool = False
    least: bool = False  # sides have to be at least smallest_side


# The longest endings first.
FORMATS = {
    "aoti": Format(".aoti.pt2", write_aoti, run_aoti, least=True),
    "onnx": Format(".onnx", write_onnx, run_onnx, quantizes=True),
    "openvino": Format(".xml", write_openvino, run_openvino, quantizes=True),
    "pt2": Format(".pt2", write_pt2, run_pt2, least=True),
    "torchscript": Format(".torchscript.pt", write_torchscript, run_torchscript),
}


def run(path: str | Path, **options: Any) -> Runner:
    """A function of images (N, 3, H, W) that runs an exported file.

    Args:
        path: the file.
        options: of the runtime; see the format's runner.

    Raises:
        ValueError: the ending is of no format, or the format's library is missing.
    """
    path = Path(path)
    for kind in FORMATS.values():
        if path.name.endswith(kind.ending):
            return kind.run(path, **options)
    raise ValueError(f"{path} ends in none of {[kind.ending for kind in FORMATS.values()]}")


def _require(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"this format needs {', '.join(missing)}: pip install {' '.join(missing)}")
