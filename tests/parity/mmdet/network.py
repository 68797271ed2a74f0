"""network.npz: dense maps of the full network behind the test pipeline, and what it predicts."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from ..check import Case, Check, check_stats, guarded, stats
from ..ours import CORNERS, preprocess, without_views
from ..reference import Arrays, Reference, numbered, under
from .decode import check_rows
from .losses import OUTPUTS
from .test_pipeline import check_canvas, rgb

KEYS = "keys.json"
TOLERANCES = {"heat": 1e-3, "emb": 1e-3, "off": 2e-4}
CHANNELS = [0, 7, 19, 33, 41, 56, 68, 79]  # of `channels8`
INPUT_STRIDE, ALL_CLASSES_STRIDE = 16, 16
STRIDES = (4, 2)  # of stack 0's samples, and of the last stack's heat maps


def run(folder: Reference, file: str) -> Iterator[Check]:
    arrays = folder.load(file)
    seed = int(arrays["weights_seed"])
    weights = [v.double() for v in folder.weights(KEYS, seed).weights.values()]
    got = [sum(float(v.sum()) for v in weights), sum(float(v.abs().sum()) for v in weights)]
    wanted = [float(arrays["weights_sum"]), float(arrays["weights_abs_sum"])]
    yield Case(file, "weights").relative("sums", got, wanted, 1e-9, scale=wanted[1])
    model, cfg = folder.model(KEYS, seed)
    model.eval()
    for name in dict.fromkeys(key.split("/")[0] for key in arrays if "/" in key):
        case = Case(file, name)
        yield from guarded(case, _case(case, folder, model, under(arrays, name)))


@torch.no_grad()
def _case(case: Case, folder: Reference, model: nn.Module, want: Arrays) -> Iterator[Check]:
    image = rgb(folder, want["image_size"], want["image_seed"])
    pixels, borders = preprocess(model, [image])
    yield from check_canvas(case, pixels, borders, image, want)
    yield from check_stats(case, "input", stats(pixels), want["input_stats"], 1e-5)
    sample = pixels[..., ::INPUT_STRIDE, ::INPUT_STRIDE]
    yield case.absolute("input sample", sample, want["input_sub"], 1e-5)
    stacks = model.corner_maps(pixels)
    for index, maps in numbered(want, "stack"):
        is_last = index == len(stacks) - 1
        for corner in CORNERS:
            for theirs, ours in OUTPUTS.items():
                name = f"stack{index}/{corner}_{theirs}"
                got, wanted = stacks[index][corner][ours][0], under(maps, f"{corner}_{theirs}")
                yield from _output(case, name, got, wanted, TOLERANCES[theirs], is_last)
    if "predict/boxes" in want:
        yield from _predicted(case, model, image, under(want, "predict"))


def _output(
    case: Case, name: str, got: torch.Tensor, want: Arrays, tolerance: float, is_last: bool
) -> Iterator[Check]:
    yield case.exact(f"{name} shape", got.shape, want["shape"])
    yield from check_stats(case, name, stats(got), want["stats"], 5e-4)
    sums, scale = got.double().sum((1, 2)), got.double().abs().sum((1, 2))
    yield case.relative(f"{name} channel sums", sums, want["channel_sums"], 5e-5, scale=scale)
    if "channels8" in want:
        stride = STRIDES[is_last]
        sample = got[CHANNELS, ::stride, ::stride]
        yield case.absolute(f"{name} channels", sample, want["channels8"], tolerance)
        stride = ALL_CLASSES_STRIDE
    else:
        stride = 1 if is_last else STRIDES[0]
    if "sub" in want:
        yield case.absolute(f"{name} sample", got[:, ::stride, ::stride], want["sub"], tolerance)


def _predicted(case: Case, model: nn.Module, image: torch.Tensor, want: Arrays) -> Iterator[Check]:
    (found,) = without_views(model).inference([{"image": image}], do_postprocess=False)
    boxes, scores, labels = found.pred_boxes.tensor, found.scores, found.pred_classes
    got = torch.cat([boxes, scores[:, None], labels[:, None].float()], 1)
    wanted = np.concatenate(
        [want["boxes"], want["scores"][:, None], want["labels"][:, None]], axis=1
    ).reshape(-1, 6)
    yield from check_rows(case, "predicted", got, wanted, 1e-2, 1e-3)
