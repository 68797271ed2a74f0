"""A float32 ONNX file to int8: onnxruntime's static quantisation."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

# Sums, pooling, decoding and soft-NMS stay float32. Relu is listed so that it goes into the range
# of the convolution before it.
OPERATORS = ["Conv", "Relu"]


def quantize(path: Path, name: str, images: Sequence[Tensor], kept: Sequence[str]) -> None:
    """Replaces a file by one whose convolutions compute in int8.

    Weights have a scale for each output channel; activations, unsigned, one for each tensor, from
    the least and largest value seen.

    Args:
        path: an ONNX file, in float32.
        name: of its input.
        images: (N, 3, H, W) float32, of any sizes; what the input is like.
        kept: names of the weights of convolutions that stay float32.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest: Iterator[Tensor] = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.rest, None)
            return None if image is None else {name: image.numpy()}

    model = onnx.load(path)
    about = {entry.key: entry.value for entry in model.metadata_props}
    excluded = [node.name for node in model.graph.node if {*node.input} & {*kept}]
    quantize_static(
        model,
        str(path),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=OPERATORS,
        nodes_to_exclude=excluded,
    )
    quantized = onnx.load(path)
    onnx.helper.set_model_props(quantized, about)
    onnx.save(quantized, path)
