"""postprocess.npz: the test loop, from image to detections, around given decoded corners."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.modeling import build_model
from torch import nn

from cornernet_d2 import model_zoo
from cornernet_d2.canvas import Canvas
from cornernet_d2.compat.official_inference import OfficialInference
from cornernet_d2.modeling.decode import Pairs

from .check import Case, Check, check_stats, guarded, stats, to_array
from .reference import PRESET, Arrays, Reference, case_names, numbered, strided, under

METHODS = {"exp_soft_nms": "gaussian", "linear_soft_nms": "linear", "nms": "hard"}
# The smallest network with the paper's divisibility; its maps are never used.
NETWORK = {
    "MODEL.DEVICE": "cpu",
    "MODEL.HOURGLASS.STACKS": 1,
    "MODEL.HOURGLASS.WIDTHS": [2] * 6,
    "MODEL.HOURGLASS.BLOCKS": [1] * 6,
    "MODEL.HOURGLASS.STEM_WIDTH": 2,
    "MODEL.HOURGLASS.OUT_CHANNELS": 2,
    "MODEL.CORNERNET.HEAD_WIDTH": 2,
    "MODEL.CORNERNET.POOL_WIDTH": 2,
}
# The results file rounds to two decimals.
COCO_TOLERANCE = 5e-3 + 1e-3


def run(folder: Reference, file: str) -> Iterator[Check]:
    arrays = folder.load(file)
    for name in case_names(arrays, "runs"):
        case = Case(file, name)
        yield from guarded(case, _run(case, folder, under(arrays, name)))


class StoredCorners(OfficialInference):
    """The pipeline with decoded corners of a file in place of the network's.

    Attributes:
        pending: (2, n, 8) decoded rows of each scale to come: of the image and its mirror image.
        origins: (x, y) of the image on the map at each scale so far.
    """

    pending: list[np.ndarray]
    origins: list[np.ndarray]

    def decode(self, maps: Any, canvas: Canvas) -> Pairs:
        rows = torch.from_numpy(self.pending.pop(0))
        self.origins.append(canvas.origin()[0].numpy())
        return Pairs(rows[..., :4], rows[..., 4], rows[..., 5:7], rows[..., 7].long())


def _run(case: Case, folder: Reference, want: Arrays) -> Iterator[Check]:
    model = _model(want)
    inputs: list[torch.Tensor] = []
    stored = model.corner_inference.inference
    model.last_maps = lambda pixels: inputs.append(pixels) or _blank_maps(pixels)
    for index, wanted in numbered(want, "image"):
        height, width = (int(side) for side in want["image_sizes"][index])
        image = folder.recipe.make_image(height, width, int(want["image_seeds"][index]))
        scales = [scale for _, scale in numbered(wanted, "scale")]
        inputs.clear()
        stored.pending, stored.origins = [scale["decoded"] for scale in scales], []
        tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
        (instances,) = model.inference([{"image": tensor}], do_postprocess=False)
        for number, scale in enumerate(scales):
            name = f"image{index}/scale{number}"
            yield from _input(case, name, inputs[number], stored.origins[number], scale)
        yield from _result(case, f"image{index}", instances, wanted)


def _model(want: Arrays) -> nn.Module:
    cfg = model_zoo.get_config(PRESET)
    settings = {
        **NETWORK,
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
    cfg.merge_from_list([item for pair in settings.items() for item in pair])
    model = build_model(cfg).eval()
    model.corner_inference.inference = StoredCorners(cfg)
    return model


def _blank_maps(pixels: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
    """Maps of the size that the network would give."""
    size = [-(-side // 4) for side in pixels.shape[-2:]]
    return {corner: {"heatmap": pixels.new_zeros(len(pixels), 1, *size)} for corner in ("tl", "br")}


def _input(
    case: Case, name: str, pixels: torch.Tensor, origin: np.ndarray, want: Arrays
) -> Iterator[Check]:
    yield case.exact(f"{name} input size", pixels.shape[-2:], want["input_size"])
    map_size = _blank_maps(pixels)["tl"]["heatmap"].shape[-2:]
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
