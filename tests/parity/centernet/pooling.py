"""pooling.npz: centre and cascade corner pooling alone, and the blocks that they are in."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from cornernet_d2.checkpoint import rename
from cornernet_d2.layers import corner_pool

from ..check import Case, Check, guarded, stats
from ..ours import pool_block
from ..reference import Arrays, Reference, under

KEYS = "keys_blocks.json"
SAMPLE = 256
CORNERS = {"tl": ("top", "left"), "br": ("bottom", "right")}
# Their block -> our branch of the head.
BLOCKS = {"tl_pool": "tl", "br_pool": "br", "center_pool": "center"}


def run(folder: Reference, file: str) -> Iterator[Check]:
    arrays = folder.load(file)
    for name in ("ties", "random", "relu"):
        if want := under(arrays, name):
            case = Case(file, name)
            yield from guarded(case, _pools(case, want))
    for theirs, branch in BLOCKS.items():
        for mode in ("eval", "train"):
            want = under(arrays, f"block/{theirs}/{mode}")
            if want:
                case = Case(file, f"{theirs} {mode}")
                seed = int(arrays["block_seed"])
                yield from guarded(case, _block(case, folder, seed, theirs, branch, want))


def _pools(case: Case, want: Arrays) -> Iterator[Check]:
    def both(first: str, second: str) -> Callable:
        return lambda a, b: corner_pool(a + corner_pool(b, second), first)

    pools: dict[str, Callable] = {
        "vertical": lambda a, b: corner_pool(a, "top")[:, :, :1].expand_as(a),
        "horizontal": lambda a, b: corner_pool(a, "left")[..., :1].expand_as(a),
        "center": lambda a, b: corner_pool(a, "top")[:, :, :1] + corner_pool(b, "left")[..., :1],
    }
    for corner, (along_columns, along_rows) in CORNERS.items():
        pools[f"cascade_{corner}"] = both(along_columns, along_rows)
        pools[f"cascade_{corner}2"] = both(along_rows, along_columns)
    for name, pool in pools.items():
        if f"{name}_output" not in want:
            continue
        a, b = (torch.from_numpy(want[key]).requires_grad_() for key in "ab")
        output = pool(a, b)
        yield case.exact(f"{name} output", output, want[f"{name}_output"])
        output.backward(torch.from_numpy(want["grad_output"]))
        for key, value in (("a", a), ("b", b)):
            if value.grad is not None:
                gradient = want[f"{name}_grad_{key}"]
                yield case.largest(f"{name} gradient of {key}", value.grad, gradient, 1e-5)


def _block(
    case: Case, folder: Reference, seed: int, theirs: str, branch: str, want: Arrays
) -> Iterator[Check]:
    x = torch.from_numpy(want["input"]).requires_grad_()
    block = pool_block(branch, x.shape[1])
    state = folder.state_dict(os.path.join(folder.path, KEYS), seed)
    prefix = f"{theirs}."
    names = {key: _our_name(key, branch) for key in state if key.startswith(prefix)}
    block.load_state_dict({ours: state[key] for key, ours in names.items()}, strict=True)
    block.train(case.name.endswith("train"))
    output = block(x)
    yield case.largest("output", output, want["output"], 1e-5)
    output.backward(torch.from_numpy(want["grad_output"]))
    yield case.largest("gradient of the input", x.grad, want["grad_input"], 1e-4)
    yield from _gradients(case, block, {k.removeprefix(prefix): v for k, v in names.items()}, want)


def _gradients(
    case: Case, block: nn.Module, names: dict[str, str], want: Arrays
) -> Iterator[Check]:
    parameters = dict(block.named_parameters())
    for key, wanted in under(want, "grad").items():
        name, _, kind = key.rpartition("/")
        gradient = parameters[names[name]].grad
        if kind == "sample":
            got: Any = gradient.flatten()[:: max(1, gradient.numel() // SAMPLE)][:SAMPLE]
            scale = float(gradient.abs().max())
        else:
            got, scale = stats(gradient), want[f"grad/{name}/stats"][1]
        yield case.relative(f"gradient of {name}, {kind}", got, np.asarray(wanted), 1e-4, scale)


def _our_name(key: str, branch: str) -> str:
    block, _, rest = key.partition(".")
    corner = {"tl_pool": "tl", "br_pool": "br", "center_pool": "ct"}[block]
    ours = rename(f"{corner}_cnvs.0.{rest}", "centernet", "d2")
    return ours.removeprefix(f"head.0.{branch}.pool.")
