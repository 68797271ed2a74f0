"""A model to a file, and a file in the place of a model."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn

from ..modeling import CornerNet
from ..modeling.outputs import OutputBranch
from ..prepare import prepare_for_inference
from .detector import Detector
from .formats import FORMATS, OUTPUTS, Contents, check_sides, run, smallest_side

MAX_SIDE = 1792  # pixels; with 80 classes the most that formats.largest_side allows


def export(
    model: CornerNet,
    path: str | Path,
    format: str = "onnx",
    *,
    max_side: int = MAX_SIDE,
    raw: bool = False,
    class_names: Sequence[str] = (),
    preset: str = "",
    resize: tuple[int, int] = (0, 0),
    calibration: Sequence[Tensor] = (),
) -> dict[str, str]:
    """Writes a model as one file: images in, boxes in their pixels out.

    The graph normalises and pads the images, runs the network in float32 with folded batch norm,
    decodes, takes off the border, clips, and runs soft-NMS with a fixed number of picks. Its input
    is "images" (N, 3, H, W) float32 in 0..255, channels in the order of the model, N, H and W open.
    Outputs: "boxes" (N, K, 4) xyxy, "scores" (N, K), "classes" (N, K) and "count" (N,), best first;
    what comes after an image's count is 0, of class -1. K is TEST.DETECTIONS_PER_IMAGE.

    Test-time augmentation is left out.

    Args:
        model: a CornerNet with the default inference, on any device; it stays as it is.
        path: the file, with the ending of the format.
        format: a key of FORMATS.
        max_side: the largest height and width, pixels.
        raw: leave soft-NMS out: "boxes" (N, P, 4), "scores" (N, P), -1 for what is no box,
            "corner_scores" (N, P, 2) and "classes" (N, P).
        class_names: told in the metadata; empty: the numbers from 0.
        preset: name of the model's config, told in the metadata.
        resize: told in the metadata: images go in with a shorter side of the first and a longer of
            at most the second, pixels; (0, 0): as they are.
        calibration: images (3, H, W) in 0..255 like those to come; convolutions then compute in
            int8, but for the last of each output. Formats that quantize alone.

    Returns:
        the metadata in the file.

    Raises:
        ValueError: an unknown format, another ending, a missing library, a number of names that is
            not the number of classes, or an inference that is no tensor function.
    """
    path = Path(path)
    check(path, format, bool(calibration))
    prepared = prepare_for_inference(model, "float32").cpu()
    prepared.memory_format = torch.contiguous_format  # a matter of the runtime
    prepared.to(memory_format=torch.contiguous_format)
    detector = Detector(prepared, raw).eval()
    check_sides(detector, max_side)
    metadata = describe(detector, max_side, class_names, preset, resize)
    metadata["min_side"] = str(smallest_side(detector) if FORMATS[format].least else 1)
    metadata["precision"] = "int8" if calibration else "float32"
    contents = Contents(
        detector,
        max_side,
        metadata,
        OUTPUTS[raw],
        [image[None].float() for image in calibration],
        last_weights(detector),
    )
    FORMATS[format].write(contents, path)
    return metadata


def check(path: Path, format: str, quantized: bool) -> None:
    """Raises ValueError where a format is unknown, cannot be int8, or needs another ending."""
    if format not in FORMATS:
        raise ValueError(f"format must be one of {sorted(FORMATS)}, got {format!r}")
    if not path.name.endswith(FORMATS[format].ending):
        ending = FORMATS[format].ending
        raise ValueError(f"{path}: a file of format {format} must end in {ending}")
    if quantized and not FORMATS[format].quantizes:
        names = [name for name, kind in FORMATS.items() if kind.quantizes]
        raise ValueError(f"int8 is there for {' and '.join(names)}, not for {format}")


def last_weights(detector: Detector) -> list[str]:
    """Names of the weights that make the outputs: in 8 bits neighbours would be equal."""
    return [
        f"{name}.{len(module) - 1}.weight"
        for name, module in detector.named_modules()
        if isinstance(module, OutputBranch)
    ]


def describe(
    detector: Detector,
    max_side: int,
    class_names: Sequence[str],
    preset: str,
    resize: tuple[int, int],
) -> dict[str, str]:
    """What a user of the file must know, as texts; "classes" and "settings" are JSON.

    Raises:
        ValueError: the number of names is not the number of classes.
    """
    model, inference = detector.model, detector.inference
    number = model.head[-1].tl.heatmap[-1].out_channels
    names = list(class_names) or [str(i) for i in range(number)]
    if len(names) != number:
        raise ValueError(f"{len(names)} class names for a model of {number} classes: {names[:5]}")
    settings = {**inference.decoding, **inference.soft_nms}
    settings["merge_exponent"] = inference.merge_exponent
    settings["max_picks"] = inference.max_detections
    return {
        "producer": "cornernet_d2",
        "preset": preset,
        "classes": json.dumps(names),
        "input_format": model.input_format,
        "input": f"(N, 3, H, W) float32 in 0..255, {model.input_format}, H and W up to {max_side}",
        "max_side": str(max_side),
        "short_side": str(resize[0]),
        "long_side": str(resize[1]),
        "boxes": "x0 y0 x1 y1, pixels of the input",
        "raw": str(detector.raw).lower(),
        "settings": json.dumps(settings),
    }


class Artifact(nn.Module):
    """An exported file (not raw) with the call of a Detectron2 model, to be evaluated as one.

    Args:
        path: what :func:`export` wrote.
        options: see :func:`.formats.run`.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:
        super().__init__()
        self.run = run(path, **options)

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """As :meth:`.CornerNet.forward` in eval mode, one image at a time."""
        results = []
        for x in batched_inputs:
            image = x["image"]
            boxes, scores, classes, count = self.run(image[None].float())
            found, kept = Instances(tuple(image.shape[-2:])), int(count[0])
            found.pred_boxes, found.scores = Boxes(boxes[0, :kept]), scores[0, :kept]
            found.pred_classes = classes[0, :kept]
            size = x.get("height", image.shape[-2]), x.get("width", image.shape[-1])
            results.append({"instances": detector_postprocess(found, *size)})
        return results
