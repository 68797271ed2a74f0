"""network_*.npz: dense maps and inner activations of the full network."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from cornernet_d2.modeling.outputs import CornerMaps

from ..check import Case, Check, check_stats, match_rows, stats, to_array
from ..ours import Pairs, decode
from ..reference import Arrays, Reference, numbered, strided, under

KEYS = "keys.json"
CORNERS = {"tl": "tl", "br": "br"}
# The official decoding of `detections`; the second array differs in the embedding threshold.
DECODE = {"top_k": 100, "nms_kernel": 3, "max_detections": 1000}
EMBEDDING_THRESHOLDS = {"detections": 0.5, "detections_ae5": 5.0}
OUTPUTS = {"heat": "heatmap", "tag": "embedding", "regr": "offset"}
TOLERANCES = {"heat": 1e-3, "tag": 1e-3, "regr": 2e-4}
# Official module -> ours; what follows the stack's number is the same in both.
MODULES = {
    "pre": "backbone.stem",
    "kps": "backbone.stacks",
    "cnvs": "backbone.out_convs",
    "inters": "backbone.inters",
    "inters_": "backbone.inter_convs",
    "cnvs_": "backbone.remap_convs",
}
CORNER_MODULES = {"tl_cnvs": "tl", "br_cnvs": "br"}


def run(folder: Reference, file: str) -> Iterator[Check]:
    case, arrays, _, stacks = yield from check_network(folder, file, our_module)
    yield from check_outputs(case, arrays, stacks, CORNERS, OUTPUTS, TOLERANCES)
    for name, threshold in EMBEDDING_THRESHOLDS.items():
        if name in arrays:
            settings = {**DECODE, "embedding_threshold": threshold}
            yield from detections(case, name, stacks[-1], settings, arrays[name])


def check_network(
    folder: Reference,
    file: str,
    our_module: Callable[[str], str],
    has_output: Callable[[str], bool] = lambda key: True,
) -> Generator[Check, None, tuple[Case, Arrays, nn.Module, list[CornerMaps]]]:
    """Weights, input and inner activations.

    Args:
        our_module: their module's path as ours.
        has_output: whether our network has what a key of theirs holds as an output.

    Returns:
        The case, the file's arrays, the model, and its maps of each stack.
    """
    arrays = folder.load(file)
    seed = int(arrays["weights_seed"])
    yield from check_weights(Case(file, "weights"), folder, seed, arrays)
    case = Case(file, "x".join(str(side) for side in arrays["image"].shape[1:3]))
    image = torch.cat([folder.recipe.normalise(image) for image in arrays["image"]])
    yield from check_stats(case, "input", stats(image), arrays["input_stats"], 1e-5)
    sample = arrays["input_sub"]
    yield case.absolute("input sample", strided(image, sample.shape), sample, 1e-5)
    model, _ = folder.model(KEYS, seed)
    model.eval()
    inner: dict[str, Any] = {}
    wanted = {key: x for key, x in under(arrays, "inter").items() if has_output(key)}
    record(model, wanted, inner, our_module)
    with torch.no_grad():
        stacks = model.corner_maps(image)
    yield from check_inner(case, wanted, inner)
    return case, arrays, model, stacks


def check_outputs(
    case: Case,
    arrays: Arrays,
    stacks: Sequence[CornerMaps],
    points: Mapping[str, str],
    outputs: Mapping[str, str],
    tolerances: Mapping[str, float],
) -> Iterator[Check]:
    """Every map of every stack; their names of points and outputs -> ours."""
    channels = arrays.get("heat_channels")
    for index, want in numbered(arrays, "stack"):
        for point, our_point in points.items():
            for name, ours in outputs.items():
                if our_point == "center" and ours not in stacks[index][our_point]:
                    continue  # centres have no embedding
                got, theirs = stacks[index][our_point][ours], f"{point}_{name}"
                yield from check_output(
                    case,
                    f"stack{index}/{theirs}",
                    got,
                    under(want, theirs),
                    tolerances[name],
                    channels,
                )


def check_weights(case: Case, folder: Reference, seed: int, arrays: Arrays) -> Iterator[Check]:
    values = [
        value.double()
        for key, value in folder.weights(KEYS, seed).weights.items()
        if value.is_floating_point()
    ]
    got = [sum(float(v.sum()) for v in values), sum(float(v.abs().sum()) for v in values)]
    want = [float(arrays["weights_sum"]), float(arrays["weights_abs_sum"])]
    yield case.relative("sums", got, want, 1e-9, scale=want[1])


def our_module(official: str) -> str:
    first, _, rest = official.partition(".")
    if first in CORNER_MODULES:
        return f"head.{rest}.{CORNER_MODULES[first]}.pool"
    return f"{MODULES[first]}.{rest}".rstrip(".")


def record(
    model: nn.Module, inner: Arrays, results: dict[str, Any], our_module: Callable[[str], str]
) -> None:
    """Have the modules that the reference names leave their outputs' shape and statistics.

    Args:
        our_module: name of a module in the reference -> ours.
    """
    modules = dict(model.named_modules())

    def leave(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            results[name] = (tuple(output.shape), stats(output))

        return hook

    for name in {key.rpartition("/")[0] for key in inner}:
        modules[our_module(name)].register_forward_hook(leave(name))


def check_inner(case: Case, inner: Arrays, results: dict[str, Any]) -> Iterator[Check]:
    names: list[str] = [key.rpartition("/")[0] for key in inner if key.endswith("/stats")]
    for name in names:
        if name not in results:
            yield case.failed(f"inner {name}", "our network has no such module in use")
            continue
        shape, got = results[name]
        want = inner[f"{name}/stats"]
        yield case.exact(f"inner {name} shape", shape, inner[f"{name}/shape"])
        yield case.relative(f"inner {name} stats", got[2:], want[2:], 1e-3, scale=want[3])


def check_output(
    case: Case, name: str, got: torch.Tensor, want: Arrays, tolerance: float, channels: Any
) -> Iterator[Check]:
    if "shape" in want:
        yield case.exact(f"{name} shape", got.shape, want["shape"])
    if "stats" in want:
        yield from check_stats(case, name, stats(got), want["stats"], 5e-4)
    if "channel_sums" in want:
        scale = got.double().abs().sum(dim=(2, 3))
        sums = got.double().sum(dim=(2, 3))
        yield case.relative(f"{name} channel sums", sums, want["channel_sums"], 5e-5, scale=scale)
    for kind in ("full", "sub"):
        if kind in want:
            values = want[kind]
            chosen = got if got.shape[1] == values.shape[1] else got[:, channels]
            sample = strided(chosen, values.shape)
            yield case.absolute(f"{name} {kind}", sample, values, tolerance)


def detections(
    case: Case, name: str, maps: Any, settings: Mapping[str, Any], want: np.ndarray
) -> Iterator[Check]:
    got = decoded_rows(decode(maps, **settings))
    for image, (ours, theirs) in enumerate(zip(got, want)):
        ours, theirs = (rows[rows[:, 4] > -1] for rows in (ours, theirs))
        ours = match_rows(ours, theirs)
        yield case.absolute(f"{name} of image {image}", ours, theirs, 1e-3)


def decoded_rows(decoded: Pairs) -> np.ndarray:
    """Our decoding as the official (N, K, 8): box, score, both corners' scores, class."""
    boxes, scores, corners, classes = (to_array(x).astype(np.float32) for x in decoded)
    return np.concatenate([boxes, scores[..., None], corners, classes[..., None]], axis=-1)
