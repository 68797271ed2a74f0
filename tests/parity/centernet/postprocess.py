"""postprocess.npz: the test loop with border rule and centre check, around given corners."""

from collections.abc import Iterator

import numpy as np

from ..check import Case, Check, to_array
from ..official.postprocess import image_of, settings_of
from ..ours import detect_stored_triplets, small_config, small_model
from ..reference import CENTERNET, Arrays, Reference, each_case, numbered
from ..squeeze.postprocess import check_input


def run(folder: Reference, file: str) -> Iterator[Check]:
    return each_case(folder, file, lambda case, want: _run(case, folder, want), "runs")


def _run(case: Case, folder: Reference, want: Arrays) -> Iterator[Check]:
    settings = settings_of(want)
    cfg = small_config(CENTERNET, settings)
    for index, wanted in numbered(want, "image"):
        model = small_model(CENTERNET, settings)
        tensor = image_of(folder, want, index)
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
