"""network_*.npz: dense maps and inner activations of the full network."""

from collections.abc import Iterator

from ..check import Check
from ..official import network as official
from ..reference import Reference

OUTPUTS = {"heat": "heatmap", "tag": "embedding", "off": "offset"}
TOLERANCES = {"heat": 1e-3, "tag": 1e-3, "off": 2e-4}
# Array -> what its decoding changes of the file's own settings.
DETECTIONS = {
    "detections": {},
    "detections_ae5_k200": {"top_k": 200, "max_detections": 200, "embedding_threshold": 5.0},
}
# What has no weights of its own, or a norm that is a part of our convolution.
MODULES = {
    "hg.pre": "backbone.stem",
    "hg.hgs": "backbone.stacks",
    "hg.cnvs": "backbone.out_convs",
    "hg.inters": "backbone.inters",
    "hg.inters_": "backbone.inter_convs",
    "hg.cnvs_": "backbone.remap_convs",
}
LAYERS = {"conv_1x1": "expand1x1", "conv_3x3": "expand3x3", "bn1": "squeeze.norm", "bn2": "norm"}


def run(folder: Reference, file: str) -> Iterator[Check]:
    network = official.check_network(folder, file, _our_module, _has_output)
    case, arrays, _, stacks = yield from network
    yield from official.check_outputs(case, arrays, stacks, official.CORNERS, OUTPUTS, TOLERANCES)
    settings = {
        "top_k": int(arrays["K"]),
        "nms_kernel": int(arrays["kernel"]),
        "max_detections": int(arrays["num_dets"]),
        "embedding_threshold": float(arrays["ae_threshold"]),
    }
    for name, changes in DETECTIONS.items():
        changed = {**settings, **changes}
        yield from official.detections(case, name, stacks[-1], changed, arrays[name])


def _has_output(key: str) -> bool:
    """Whether our network has it as an output; a norm behind a convolution is inside it."""
    return not key.rpartition("/")[0].endswith(".conv1")


def _our_module(theirs: str) -> str:
    """Their module's path as ours."""
    if theirs.startswith(("tl_modules", "br_modules")):
        corner, _, stack = theirs.partition("_modules.")
        return f"head.{stack}.{corner}.pool"
    first, _, rest = theirs.removeprefix("hg.").partition(".")
    *path, last = rest.split(".")
    path.append(LAYERS.get(last, last) if path and path[-1].isdigit() else last)
    return ".".join((MODULES[f"hg.{first}"], *path)).rstrip(".")
