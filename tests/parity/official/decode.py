"""decode.npz: boxes decoded from given maps."""

from collections.abc import Iterator

from ..check import Case, Check
from ..ours import decode, maps_of
from ..reference import Arrays, Reference, each_case
from .network import OUTPUTS, decoded_rows


def run(folder: Reference, file: str) -> Iterator[Check]:
    return each_case(folder, file, compare)


def compare(case: Case, want: Arrays) -> Iterator[Check]:
    decoded = decode(
        maps_of(want, OUTPUTS),
        top_k=int(want["K"]),
        nms_kernel=int(want["kernel"]),
        embedding_threshold=float(want["ae_threshold"]),
        max_detections=int(want["num_dets"]),
    )
    for image, rows in enumerate(decoded_rows(decoded)):
        valid = int(want["valid"][image])
        yield case.exact(f"valid rows of image {image}", (rows[:, 4] > -1).sum(), valid)
        wanted = want["detections"][image][:valid]
        yield case.absolute(f"detections of image {image}", rows[:valid], wanted, 1e-5)
