"""softnms.npz: which boxes stay, and with which scores."""

from collections.abc import Iterator

import torch

from ..check import Case, Check, guarded
from ..ours import batched_soft_nms
from ..reference import Arrays, Reference, case_names, under

METHODS = {"gaussian": "gaussian", "linear": "linear", "naive": "hard"}
SETTINGS = {"sigma": 0.5, "iou_threshold": 0.5, "min_score": 1e-3}


def run(folder: Reference, file: str) -> Iterator[Check]:
    arrays = folder.load(file)
    for name in case_names(arrays):
        case, want = Case(file, name), under(arrays, name)
        yield from guarded(case, _case(case, want, case_names(arrays, "methods")))


def _case(case: Case, want: Arrays, methods: list[str]) -> Iterator[Check]:
    boxes, scores, labels = (torch.from_numpy(want[n]) for n in ("boxes", "scores", "labels"))
    for method in methods:
        keep, kept_scores, *_ = batched_soft_nms(boxes, scores, labels, METHODS[method], **SETTINGS)
        yield case.exact(f"{method} kept, in order", keep, want[f"{method}/keep"])
        wanted = want[f"{method}/dets"][:, 4]
        # MMDetection sets classes apart in float32 coordinates, which rounds them.
        yield case.absolute(f"{method} scores", kept_scores, wanted, 3e-4)
