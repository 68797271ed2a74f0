"""network_*.npz: dense maps and inner activations of the full network, and what it decodes."""

import re
from collections.abc import Iterator
from typing import Any

from ..check import Case, Check, match_rows
from ..official import network as official
from ..ours import decode
from ..reference import Arrays, Reference
from .decode import center_rows
from .losses import OUTPUTS, POINTS

TOLERANCES = {"heat": 1e-3, "tag": 1e-3, "regr": 2e-4}
THRESHOLDS = {"detections": 0.5, "detections_ae5": 5.0}
LAYERS = {
    "p1_conv1": "p1",
    "p2_conv1": "p2",
    "p_bn1": "merge",
    "bn1": "skip",
    "look_conv1": "look1",
    "look_conv2": "look2",
    "P1_look_conv": "mix1",
    "P2_look_conv": "mix2",
}


def run(folder: Reference, file: str) -> Iterator[Check]:
    network = official.check_network(folder, file, _our_module, _has_output)
    case, arrays, _, stacks = yield from network
    yield from official.check_outputs(case, arrays, stacks, POINTS, OUTPUTS, TOLERANCES)
    yield from _decoded(case, stacks[-1], arrays)


def _decoded(case: Case, maps: Any, arrays: Arrays) -> Iterator[Check]:
    """The file holds the best rows alone."""
    top_k = int(arrays["K"])
    for name, threshold in THRESHOLDS.items():
        pairs = decode(maps, top_k=top_k, nms_kernel=3, embedding_threshold=threshold)
        for image, (ours, want) in enumerate(zip(official.decoded_rows(pairs), arrays[name])):
            want = want[want[:, 4] > -1]
            ours = match_rows(ours[: len(want)], want)
            yield case.absolute(f"{name} of image {image}", ours, want, 1e-3)
    for image, (ours, want) in enumerate(
        zip(center_rows(maps["center"], top_k, 3).numpy(), arrays["centers"])
    ):
        yield case.absolute(f"centres of image {image}", match_rows(ours, want), want, 1e-3)


def _has_output(key: str) -> bool:
    """Whether our network has it as an output; a norm behind a convolution is inside it."""
    return key.rpartition("/")[0].rpartition(".")[2] not in ("conv1", "p_conv1")


def _our_module(theirs: str) -> str:
    match = re.fullmatch(r"(tl|br|ct)_cnvs\.(\d+)(?:\.(\w+))?", theirs)
    if not match:
        return official.our_module(theirs)
    point, stack, layer = match.groups()
    ours = f"head.{stack}.{POINTS[point]}.pool"
    return f"{ours}.{LAYERS[layer]}" if layer else ours
