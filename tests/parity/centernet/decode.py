"""decode.npz: boxes and centres decoded from given maps, before the centre check."""

from collections.abc import Iterator

import torch

from ..check import Case, Check
from ..official import decode as official
from ..ours import top_corners
from ..reference import Arrays, Reference, each_case


def run(folder: Reference, file: str) -> Iterator[Check]:
    return each_case(folder, file, _case)


def _case(case: Case, want: Arrays) -> Iterator[Check]:
    counted = {**want, "valid": want["valid"].sum(axis=1)}
    yield from official.compare(case, counted)
    maps = {
        "heatmap": torch.from_numpy(want["ct_heat"]),
        "offset": torch.from_numpy(want["ct_regr"]),
    }
    rows = center_rows(maps, want["centers"].shape[1], int(want["kernel"]))
    yield case.absolute("centres", rows, want["centers"], 1e-5)


def center_rows(maps: dict[str, torch.Tensor], top_k: int, kernel: int) -> torch.Tensor:
    """(N, top_k, 4) x, y, class, score, best first."""
    centers = top_corners(maps, (), top_k, kernel)
    return torch.cat([centers.xy, centers.classes[..., None], centers.scores[..., None]], dim=-1)
