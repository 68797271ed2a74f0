"""postprocess.npz: the test loop with border rule and centre check, around given corners."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..check import Case, Check, to_array
from ..official.postprocess import METHODS
from ..ours import detect_stored_triplets, small_config, small_model
from ..reference import CENTERNET, Arrays, Reference, each_case, numbered
from ..squeeze.postprocess import check_input


def run(folder: Reference, file: str) -> Iterator[Check]:
    return each_case(folder, file, lambda case, want: _run(case, folder, want), "runs")


def _settings(want: Arrays) -> dict[str, Any]:
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


def _run(case: Case, folder: Reference, want: Arrays) -> Iterator[Check]:
    settings = _settings(want)
    cfg = small_config(CENTERNET, settings)
    for index, wanted in numbered(want, "image"):
        model = small_model(CENTERNET, settings)
        height, width = (int(side) for side in want["image_sizes"][index])
        image = folder.recipe.make_image(height, width, int(want["image_seeds"][index]))
        tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
        scales = [scale for _, scale in numbered(wanted, "scale")]
        found = detect_stored_triplets(model, cfg, tensor, scales)
        for number, scale in enumerate(scales):
            yield from check_input(case, f"image{index}/scale{number}", found.inputs[number], scale)
        yield from _checked(case, f"image{index}", found.checked, wanted["checked"])
        final, instances = wanted["final"], found.instances
        yield case.exact(f"image{index} classes", instances.pred_classes, final[:, 0])
        boxes = to_array(instances.pred_boxes.tensor)
        yield case.absolute(f"image{index} boxes", boxes, final[:, 1:5], 1e-3)
        yield case.absolute(f"image{index} scores", instances.scores, final[:, 5], 1e-5)


def _checked(case: Case, name: str, got: np.ndarray, want: np.ndarray) -> Iterator[Check]:
    """Rows class, box, score and corner scores: class by class, by falling score within."""
    got = got[np.argsort(got[:, 0], kind="stable")]
    yield case.exact(f"{name} rows after the check", len(got), len(want))
    if len(got) == len(want):
        yield case.exact(f"{name} classes after the check", got[:, 0], want[:, 0])
        yield case.absolute(f"{name} boxes after the check", got[:, 1:5], want[:, 1:5], 1e-3)
        yield case.absolute(f"{name} scores after the check", got[:, 5:], want[:, 5:], 1e-5)
