"""softnms.npz: the authors' arrays after soft-NMS and merging, stale rows included."""

from collections.abc import Iterator

import torch

from cornernet_d2.modeling.soft_nms_official import official_soft_nms

from .check import Case, Check, guarded
from .reference import Arrays, Reference, case_names, under

METHODS = ("hard", "linear", "gaussian")  # by the authors' number
MERGE_SIGMA, MERGE_MIN_SCORE = 0.5, 0.001  # the same for all merge configs


def run(folder: Reference, file: str) -> Iterator[Check]:
    arrays = folder.load(file)
    plain = zip(case_names(arrays, "configs"), arrays["configs_values"])
    merging = zip(case_names(arrays, "merge_configs"), arrays["merge_configs_values"])
    # Rows of both tables as method, IoU threshold, sigma, minimal score, merge exponent.
    configs = {name: (*row, None) for name, row in plain}
    for name, (method, iou_threshold, exponent) in merging:
        configs[name] = (method, iou_threshold, MERGE_SIGMA, MERGE_MIN_SCORE, exponent)
    for name in case_names(arrays):
        case, want = Case(file, name), under(arrays, name)
        for config, settings in configs.items():
            yield from guarded(case, _config(case, config, settings, want))


def _config(case: Case, config: str, settings: tuple, want: Arrays) -> Iterator[Check]:
    method, iou_threshold, sigma, min_score, exponent = settings
    rows = torch.from_numpy(want["boxes"])
    result = official_soft_nms(
        rows[:, :4],
        rows[:, 4],
        rows[:, 5:7],
        torch.zeros(len(rows), dtype=torch.int64),
        METHODS[int(method)],
        sigma=float(sigma),
        iou_threshold=float(iou_threshold),
        min_score=float(min_score),
        merge_exponent=None if exponent is None else float(exponent),
    )
    after = want[f"{config}/boxes_after"]
    yield case.exact(f"{config} rows that stay", result.stays.sum(), want[f"{config}/kept"])
    tolerance = 1e-5 if exponent is None else 1e-3  # px
    yield case.absolute(f"{config} boxes", result.boxes, after[:, :4], tolerance)
    yield case.absolute(f"{config} scores", result.scores, after[:, 4], 1e-5)
