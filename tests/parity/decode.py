"""decode.npz: boxes decoded from given maps."""

from collections.abc import Iterator

import torch

from cornernet_d2.modeling.decode import decode_corners

from .check import Case, Check, guarded
from .network import OUTPUTS, decoded_rows
from .reference import Arrays, Reference, case_names, under


def run(folder: Reference, file: str) -> Iterator[Check]:
    arrays = folder.load(file)
    for name in case_names(arrays):
        case = Case(file, name)
        yield from guarded(case, _case(case, under(arrays, name)))


def _case(case: Case, want: Arrays) -> Iterator[Check]:
    maps = {
        corner: {
            ours: torch.from_numpy(want[f"{corner}_{official}"])
            for official, ours in OUTPUTS.items()
            if f"{corner}_{official}" in want
        }
        for corner in ("tl", "br")
    }
    decoded = decode_corners(
        maps,
        top_k=int(want["K"]),
        nms_kernel=int(want["kernel"]),
        embedding_threshold=float(want["ae_threshold"]),
        max_detections=int(want["num_dets"]),
        keep_empty=True,
    )
    for image, rows in enumerate(decoded_rows(decoded)):
        valid = int(want["valid"][image])
        yield case.exact(f"valid rows of image {image}", (rows[:, 4] > -1).sum(), valid)
        wanted = want["detections"][image][:valid]
        yield case.absolute(f"detections of image {image}", rows[:valid], wanted, 1e-5)
