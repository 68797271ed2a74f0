"""softnms.npz: the authors' arrays after soft-NMS and merging, stale rows included."""

from collections.abc import Iterator

import torch

from ..check import Case, Check, guarded
from ..ours import official_soft_nms
from ..reference import Arrays, Reference, case_names, under

METHODS = ("hard", "linear", "gaussian")  # by the authors' number
MERGE_SIGMA, MERGE_MIN_SCORE = 0.5, 0.001  # the same for all merge configs
# Rows of each case, their class being the case's number.
Groups = tuple[torch.Tensor, torch.Tensor]


def run(folder: Reference, file: str) -> Iterator[Check]:
    arrays = folder.load(file)
    plain = zip(case_names(arrays, "configs"), arrays["configs_values"])
    merging = zip(case_names(arrays, "merge_configs"), arrays["merge_configs_values"])
    # Rows of both tables as method, IoU threshold, sigma, minimal score, merge exponent.
    configs = {name: (*row, None) for name, row in plain}
    for name, (method, iou_threshold, exponent) in merging:
        configs[name] = (method, iou_threshold, MERGE_SIGMA, MERGE_MIN_SCORE, exponent)
    cases = {name: under(arrays, name) for name in case_names(arrays)}
    groups = _mixed([torch.from_numpy(want["boxes"]) for want in cases.values()])
    for config, settings in configs.items():
        case = Case(file, config)
        yield from guarded(case, _config(case, config, settings, groups, cases))


def _mixed(cases: list[torch.Tensor]) -> Groups:
    """All cases at once, as classes whose rows lie between those of others, in their own order."""
    classes = torch.arange(len(cases)).repeat_interleave(torch.tensor([len(c) for c in cases]))
    places = torch.rand(len(classes), generator=torch.Generator().manual_seed(0))
    for number in range(len(cases)):
        places[classes == number] = places[classes == number].sort().values
    order = places.argsort()
    return torch.cat(cases)[order], classes[order]


def _config(
    case: Case, config: str, settings: tuple, groups: Groups, cases: dict[str, Arrays]
) -> Iterator[Check]:
    method, iou_threshold, sigma, min_score, exponent = settings
    rows, classes = groups
    result = official_soft_nms(
        rows[:, :4],
        rows[:, 4],
        rows[:, 5:7],
        classes,
        METHODS[int(method)],
        sigma=float(sigma),
        iou_threshold=float(iou_threshold),
        min_score=float(min_score),
        merge_exponent=None if exponent is None else float(exponent),
    )
    for number, (name, want) in enumerate(cases.items()):
        mine = result.classes == number
        after = want[f"{config}/boxes_after"]
        one = Case(case.file, name)
        yield one.exact(
            f"{config} rows that stay", result.stays[mine].sum(), want[f"{config}/kept"]
        )
        tolerance = 1e-5 if exponent is None else 1e-3  # px
        yield one.absolute(f"{config} boxes", result.boxes[mine], after[:, :4], tolerance)
        yield one.absolute(f"{config} scores", result.scores[mine], after[:, 4], 1e-5)
