"""postprocess.npz: the test loop, from image to detections, around given decoded corners."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from ..check import Case, Check, check_stats, stats, to_array
from ..official.postprocess import METHODS, image_of
from ..ours import detect_stored, small_config, small_model
from ..reference import SQUEEZE, Arrays, Reference, each_case, numbered, strided


def small(settings: Mapping[str, Any]) -> tuple[nn.Module, Any]:
    """The preset with a tiny network of the same depth, and its config."""
    tiny = {"MODEL.HOURGLASS.WIDTHS": [2] * 5, "MODEL.HOURGLASS.BLOCKS": [1] * 5, **settings}
    return small_model(SQUEEZE, tiny), small_config(SQUEEZE, tiny)


def run(folder: Reference, file: str) -> Iterator[Check]:
    return each_case(folder, file, lambda case, want: _run(case, folder, want), "runs")


def _run(case: Case, folder: Reference, want: Arrays) -> Iterator[Check]:
    settings = {
        "MODEL.CORNERNET.NUM_CLASSES": int(want["categories"]),
        "MODEL.CORNERNET.TEST.TOP_K": int(want["top_k"]),
        "MODEL.CORNERNET.TEST.MAX_PAIRS": int(want["num_dets"]),
        "MODEL.CORNERNET.TEST.NMS_KERNEL": int(want["nms_kernel"]),
        "MODEL.CORNERNET.TEST.EMBEDDING_THRESHOLD": float(want["ae_threshold"]),
        "MODEL.CORNERNET.TEST.SCALES": [float(scale) for scale in want["scales"]],
        "MODEL.CORNERNET.TEST.FLIP": bool(want["test_flipped"]),
        "MODEL.CORNERNET.TEST.SOFT_NMS.METHOD": METHODS[str(want["nms_algorithm"])],
        "MODEL.CORNERNET.TEST.SOFT_NMS.IOU_THRESHOLD": float(want["nms_threshold"]),
        "MODEL.CORNERNET.TEST.MERGE.ENABLED": bool(want["merge_bbox"]),
        "TEST.DETECTIONS_PER_IMAGE": int(want["max_per_image"]),
    }
    for index, wanted in numbered(want, "image"):
        model, cfg = small(settings)
        scales = [scale for _, scale in numbered(wanted, "scale")]
        tensor = image_of(folder, want, index)
        decoded = [scale["decoded"] for scale in scales]
        instances, inputs, _ = detect_stored(model, cfg, tensor, decoded)
        for number, scale in enumerate(scales):
            yield from check_input(case, f"image{index}/scale{number}", inputs[number], scale)
        final = wanted["final"]
        yield case.exact(f"image{index} classes", instances.pred_classes, final[:, 0])
        boxes = to_array(instances.pred_boxes.tensor)
        yield case.absolute(f"image{index} boxes", boxes, final[:, 1:5], 1e-3)
        yield case.absolute(f"image{index} scores", instances.scores, final[:, 5], 1e-5)


def check_input(case: Case, name: str, pixels: torch.Tensor, want: Arrays) -> Iterator[Check]:
    yield case.exact(f"{name} views", len(pixels), len(want["decoded"]))
    yield case.exact(f"{name} input size", pixels.shape[-2:], want["input_size"])
    for mirror in pixels[1:]:
        yield case.exact(f"{name} mirror image", mirror, pixels[0].flip(-1))
    yield from check_stats(case, f"{name} input", stats(pixels[0]), want["input_stats"], 1e-5)
    sample = want["input_sub"]
    yield case.absolute(f"{name} input sample", strided(pixels[0], sample.shape), sample, 1e-5)
