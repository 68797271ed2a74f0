"""small_head.npz: one small head with all its gradients, and the deformable convolution alone."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torchvision.ops import deform_conv2d

from cornernet_d2.checkpoint import rename

from ..check import Case, Check, guarded, stats
from ..ours import CORNERS, guided_head
from ..reference import Arrays, Reference, numbered, under
from .losses import OUTPUTS

KEYS = "keys_small_head.json"
SAMPLE = 128
# MMDetection's module -> ours.
INNER = {"pool": "pool", "dcn_offset": "shift.places", "feat_adaption": "shift.gather"}


def run(folder: Reference, file: str) -> Iterator[Check]:
    arrays = folder.load(file)
    for number, want in numbered(arrays, "dcn"):
        case = Case(file, f"dcn{number}")
        yield from guarded(case, _convolution(case, want))
    for mode in ("eval", "train"):
        if f"{mode}/input" not in arrays:
            continue
        case = Case(file, mode)
        yield from guarded(case, _head(case, folder, int(arrays["seed"]), under(arrays, mode)))


def _convolution(case: Case, want: Arrays) -> Iterator[Check]:
    names = ("input", "offset", "weight")
    x, offset, weight = (torch.from_numpy(want[name]).requires_grad_() for name in names)
    output = deform_conv2d(x, offset, weight, padding=1)
    yield case.largest("output", output, want["output"], 1e-5)
    output.backward(torch.from_numpy(want["grad_output"]))
    for name, value in zip(names, (x, offset, weight)):
        yield case.largest(f"gradient of {name}", value.grad, want[f"grad_{name}"], 1e-5)


def _head(case: Case, folder: Reference, seed: int, want: Arrays) -> Iterator[Check]:
    x = torch.from_numpy(want["input"]).requires_grad_()
    head = guided_head(x.shape[1], want["tl_heat"].shape[1])
    state = folder.state_dict(os.path.join(folder.path, KEYS), seed)
    ours = {key: _our_name(key) for key in state}
    head.load_state_dict({ours[key]: value for key, value in state.items()}, strict=True)
    head.train(case.name == "train")
    inner: dict[str, torch.Tensor] = {}
    modules = dict(head.named_modules())
    for name in under(want, "inter"):
        corner, _, rest = name.partition("_")
        module = modules[f"{corner}.{INNER[rest.partition('.')[0]]}"]
        module.register_forward_hook(lambda *args, name=name: inner.update({name: args[2]}))
    maps = head(x)
    loss: Any = 0.0
    for corner in CORNERS:
        for theirs, name in OUTPUTS.items():
            got, wanted = maps[corner][name], want[f"{corner}_{theirs}"]
            yield case.largest(f"{corner}_{theirs}", got, wanted, 1e-5)
            loss = loss + (got * torch.from_numpy(want[f"{corner}_{theirs}_grad_output"])).sum()
    for name, wanted in under(want, "inter").items():
        yield case.largest(f"inner {name}", inner[name], wanted, 1e-5)
    loss.backward()
    yield case.largest("gradient of the input", x.grad, want["grad_input"], 1e-4)
    parameters = dict(head.named_parameters())
    for key, wanted in under(want, "grad").items():
        key, _, kind = key.rpartition("/")
        gradient = parameters[ours[key]].grad
        if kind == "sample":
            got: Any = gradient.flatten()[:: max(1, gradient.numel() // SAMPLE)][:SAMPLE]
            scale = float(gradient.abs().max())
        else:
            got, scale = stats(gradient), want[f"grad/{key}/stats"][1]
        yield case.relative(f"gradient of {key}, {kind}", got, np.asarray(wanted), 1e-4, scale)


def _our_name(key: str) -> str:
    return rename(f"bbox_head.{key}", "mmdet", "d2").removeprefix("head.0.")
