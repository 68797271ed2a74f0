"""postprocess.npz: the test loop, from image to detections, around given decoded corners."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from ..check import Case, Check, check_stats, stats, to_array
from ..ours import blank_maps, detect_stored, small_config, small_model
from ..reference import OFFICIAL, Arrays, Reference, each_case, numbered, strided

METHODS = {"exp_soft_nms": "gaussian", "linear_soft_nms": "linear", "nms": "hard"}
# The results file rounds to two decimals.
COCO_TOLERANCE = 5e-3 + 1e-3


def run(folder: Reference, file: str) -> Iterator[Check]:
    return each_case(folder, file, lambda case, want: _run(case, folder, want), "runs")


def _run(case: Case, folder: Reference, want: Arrays) -> Iterator[Check]:
    settings = settings_of(want)
    model, cfg = small_model(OFFICIAL, settings), small_config(OFFICIAL, settings)
    for index, wanted in numbered(want, "image"):
        scales = [scale for _, scale in numbered(wanted, "scale")]
        tensor = image_of(folder, want, index)
        decoded = [scale["decoded"] for scale in scales]
        instances, inputs, origins = detect_stored(model, cfg, tensor, decoded)
        for number, scale in enumerate(scales):
            name = f"image{index}/scale{number}"
            yield from _input(case, name, inputs[number], origins[number], scale)
        yield from _result(case, f"image{index}", instances, wanted)


def image_of(folder: Reference, want: Arrays, index: int) -> torch.Tensor:
    """(3, height, width) uint8 of a case's image."""
    height, width = (int(side) for side in want["image_sizes"][index])
    image = folder.recipe.make_image(height, width, int(want["image_seeds"][index]))
    return torch.from_numpy(image.transpose(2, 0, 1).copy())


def settings_of(want: Arrays) -> dict[str, Any]:
    return {
        "MODEL.CORNERNET.NUM_CLASSES": int(want["categories"]),
        "MODEL.CORNERNET.TEST.TOP_K": int(want["top_k"]),
        "MODEL.CORNERNET.TEST.NMS_KERNEL": int(want["nms_kernel"]),
        "MODEL.CORNERNET.TEST.EMBEDDING_THRESHOLD": float(want["ae_threshold"]),
        "MODEL.CORNERNET.TEST.SCALES": [float(scale) for scale in want["scales"]],
        "MODEL.CORNERNET.TEST.SOFT_NMS.METHOD": METHODS[str(want["nms_algorithm"])],
        "MODEL.CORNERNET.TEST.SOFT_NMS.IOU_THRESHOLD": float(want["nms_threshold"]),
        "MODEL.CORNERNET.TEST.MERGE.ENABLED": bool(want["merge_bbox"]),
        "MODEL.CORNERNET.TEST.MERGE.EXPONENT": float(want["weight_exp"]),
        "TEST.DETECTIONS_PER_IMAGE": int(want["max_per_image"]),
    }


def _input(
    case: Case, name: str, pixels: torch.Tensor, origin: np.ndarray, want: Arrays
) -> Iterator[Check]:
    yield case.exact(f"{name} input size", pixels.shape[-2:], want["input_size"])
    map_size = blank_maps(pixels)["tl"]["heatmap"].shape[-2:]
    yield case.exact(f"{name} map size", map_size, want["out_size"])
    ratio = want["out_size"] / want["input_size"]
    top, _, left, _ = want["border"]
    yield case.absolute(f"{name} border", origin, [left * ratio[1], top * ratio[0]], 1e-4)
    image, mirror = pixels
    yield case.exact(f"{name} mirror image", mirror, image.flip(-1))
    yield from check_stats(case, f"{name} input", stats(image), want["input_stats"], 1e-5)
    sums, scale = image.double().sum(dim=(1, 2)), image.double().abs().sum(dim=(1, 2))
    yield case.relative(f"{name} channel sums", sums, want["input_channel_sums"], 5e-5, scale=scale)
    sample = want["input_sub"]
    yield case.absolute(f"{name} input sample", strided(image, sample.shape), sample, 1e-5)


def _result(case: Case, name: str, instances: Any, want: Arrays) -> Iterator[Check]:
    """Compare in the official order: class by class, rows as soft-NMS leaves them."""
    boxes = to_array(instances.pred_boxes.tensor)
    scores, classes = to_array(instances.scores), to_array(instances.pred_classes)
    final = want["final"]
    yield case.exact(f"{name} classes", classes, final[:, 0])
    yield case.absolute(f"{name} boxes", boxes, final[:, 1:5], 1e-3)
    yield case.absolute(f"{name} scores", scores, final[:, 5], 1e-5)
    if len(boxes) != len(want["coco"]):
        yield case.failed(f"{name} results file", f"{len(boxes)} rows, not {len(want['coco'])}")
        return
    things = np.array([category["id"] for category in COCO_CATEGORIES if category["isthing"]])
    yield case.exact(f"{name} category ids", things[classes], want["coco"][:, 0])
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2], scores[:, None]], axis=1)
    yield case.absolute(f"{name} results file", xywh, want["coco"][:, 1:], COCO_TOLERANCE)
