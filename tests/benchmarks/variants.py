"""What the ablations compare: config keys, and the few changes that no key makes."""

import contextlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor

from cornernet_d2.modeling import CornerNet

from .second_cue import ShiftAndEmbedding

BASELINE = "baseline"


@contextlib.contextmanager
def without_corner_pooling() -> Iterator[None]:
    """The two branches of a corner are added as they are: convolutions of the same size alone."""
    modules = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("cornernet_d2.modeling.") and hasattr(module, "corner_pool_sum")
    ]
    with contextlib.ExitStack() as patches:
        for module in modules:
            patches.enter_context(mock.patch.object(module, "corner_pool_sum", _sum))
        yield


def _sum(vertical: Tensor, horizontal: Tensor, corner: str) -> Tensor:
    return vertical + horizontal


@contextlib.contextmanager
def without_offsets() -> Iterator[None]:
    """Corners are in the middle of their cells."""
    last_maps = CornerNet.last_maps

    def patched(model: CornerNet, images: Tensor) -> dict[str, dict[str, Tensor]]:
        maps = last_maps(model, images)
        return {
            corner: {**side, "offset": torch.full_like(side["offset"], 0.5)}
            for corner, side in maps.items()
        }

    with mock.patch.object(CornerNet, "last_maps", patched):
        yield


class Variant(NamedTuple):
    """Attributes:
    name: in the table.
    overrides: config keys and values.
    change: what no key can do.
    at_test: the baseline's weights, tested in another way.
    """

    name: str
    overrides: Sequence[str] = ()
    change: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    at_test: bool = False

    @property
    def folder(self) -> str:
        return re.sub(r"\W+", "_", self.name).strip("_")


HEAD = "MODEL.CORNERNET"
TARGETS, LOSS, EMBEDDING = f"{HEAD}.TARGETS", f"{HEAD}.LOSS", f"{HEAD}.EMBEDDING"
SHIFTS = (f"{HEAD}.PAIRING", "centripetal")
BOTH = (f"{HEAD}.PAIRING", ShiftAndEmbedding.__name__)
CENTRES = (f"{HEAD}.CENTER.ENABLED", "True")
CASCADE = (f"{HEAD}.CASCADE_POOLING", "True")
DIM = (f"{EMBEDDING}.DIM", "4")
WIDE = (*DIM, f"{HEAD}.TEST.EMBEDDING_THRESHOLD", "1.0")  # four differences add up
POSITION = (f"{EMBEDDING}.POSITION", "True")
DILATION = (f"{EMBEDDING}.DILATION", "3")

METHOD = (
    Variant(BASELINE),
    Variant("no corner pooling", change=without_corner_pooling),
    Variant("penalty not reduced near corners", (f"{TARGETS}.GAUSSIAN", "False")),
    Variant("reduced within 2 cells of all", (f"{TARGETS}.FIXED_RADIUS", "2")),
    Variant("no offsets", (f"{LOSS}.OFFSET_WEIGHT", "0.0"), change=without_offsets),
    Variant("two stacks", ("MODEL.HOURGLASS.STACKS", "2")),
    Variant("focal exponent alpha 1", (f"{LOSS}.ALPHA", "1.0")),
    Variant("focal exponent alpha 3", (f"{LOSS}.ALPHA", "3.0")),
    Variant("focal exponent beta 2", (f"{LOSS}.BETA", "2.0")),
    Variant("embeddings of 4 numbers", DIM),
    Variant("centripetal shifts", SHIFTS),
    Variant("not mirrored in the test", (f"{HEAD}.TEST.FLIP", "False"), at_test=True),
)

# Of a config that pairs by embeddings, which weigh ten times as much as in the paper.
PAIRING = (
    Variant(BASELINE),
    Variant("centripetal shifts", SHIFTS),
    Variant("embeddings weigh as in the paper", (f"{LOSS}.EMBEDDING_IMAGES", "5.0")),
    Variant("embeddings of 4 numbers", WIDE),
    Variant("embeddings that know their place", POSITION),
    Variant("embeddings that see 7 x 7 cells", DILATION),
    Variant("all three", (*WIDE, *POSITION, *DILATION)),
    Variant("embeddings, centres", CENTRES),
    Variant("embeddings, cascade pooling", CASCADE),
    Variant("shifts, and embeddings as well", BOTH),
    Variant("shifts, centres", (*SHIFTS, *CENTRES)),
)
SETS = {"method": METHOD, "pairing": PAIRING}
