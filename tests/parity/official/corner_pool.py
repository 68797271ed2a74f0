"""corner_pool.npz: outputs and gradients of the four poolings, with many ties."""

from collections.abc import Iterator

import torch

from cornernet_d2.layers import corner_pool

from ..check import Case, Check
from ..reference import Arrays, Reference, each_case

MODES = ("top", "bottom", "left", "right")


def run(folder: Reference, file: str) -> Iterator[Check]:
    return each_case(folder, file, _case)


def _case(case: Case, want: Arrays) -> Iterator[Check]:
    for mode in MODES:
        x = torch.from_numpy(want["input"]).requires_grad_()
        output = corner_pool(x, mode)
        output.backward(torch.from_numpy(want["grad_output"]))
        yield case.exact(f"{mode} output", output, want[f"{mode}_output"])
        yield case.absolute(f"{mode} gradient", x.grad, want[f"{mode}_grad_input"], 1e-5)
