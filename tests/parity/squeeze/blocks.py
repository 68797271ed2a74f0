"""blocks.npz: outputs and gradients of fire blocks and of the learned upsampling."""

import os
from collections.abc import Iterator

import torch
from torch import nn

from cornernet_d2.checkpoint import rename
from cornernet_d2.modeling.backbones.squeeze import FireBlock, SqueezeLevel

from ..check import Case, Check, guarded
from ..reference import Arrays, Reference, under

KEYS = "keys_blocks.json"
# Name -> the block; what is upsampled there has 6 channels.
FIRE = {"fire_skip": (8, 8, 1), "fire_widen": (8, 12, 1), "fire_stride2": (8, 8, 2)}
UNPOOL, UNPOOL_CHANNELS = "unpool", 6
PLACE = "hg.hgs.0.up1.0."  # of a fire block in the network, for the map of names


def run(folder: Reference, file: str) -> Iterator[Check]:
    arrays = folder.load(file)
    state = folder.state_dict(os.path.join(folder.path, KEYS), int(arrays["seed"]))
    for name in (*FIRE, UNPOOL):
        for mode in ("eval", "train"):
            case, want = Case(file, f"{name}/{mode}"), under(arrays, f"{name}/{mode}")
            if want:
                yield from guarded(case, _case(case, name, state, want))


def _ours(key: str) -> str:
    return rename(PLACE + key, "squeeze", "d2").removeprefix("backbone.stacks.0.up1.0.")


def _case(case: Case, name: str, state: dict, want: Arrays) -> Iterator[Check]:
    own = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
    if name == UNPOOL:
        level = SqueezeLevel((UNPOOL_CHANNELS, UNPOOL_CHANNELS), (1, 1), "BN")
        module, names = level.up2, {key: key for key in own}
    else:
        width_in, width_out, stride = FIRE[name]
        module = FireBlock(width_in, width_out, "BN", stride)
        names = {key: _ours(key) for key in own}
    module.load_state_dict({names[key]: value for key, value in own.items()})
    module.train(case.name.endswith("train"))
    x = torch.from_numpy(want["input"]).requires_grad_()
    output = module(x)
    output.backward(torch.from_numpy(want["grad_output"]))
    yield case.largest("output", output, want["output"], 1e-5)
    yield case.largest("gradient of the input", x.grad, want["grad_input"], 1e-4)
    yield from _gradients(case, module, names, under(want, "grad"))


def _gradients(
    case: Case, module: nn.Module, names: dict[str, str], want: Arrays
) -> Iterator[Check]:
    parameters = dict(module.named_parameters())
    yield case.exact("parameters", len(parameters), len(want))
    # BatchNorm in training mode takes off the mean: what is before it has gradients near 0.
    largest = max(float(abs(gradient).max()) for gradient in want.values())
    for key, gradient in want.items():
        got = parameters[names[key]].grad
        yield case.relative(f"gradient of {key}", got, gradient, 1e-4, scale=largest)
