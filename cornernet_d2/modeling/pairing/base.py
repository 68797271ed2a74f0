"""The interface of a pairing, and what a criterion and the decoding hand it.

Letters: N images, M objects in all images, P corners kept per side, h x w map (cells), D channels
of an output.
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from detectron2.config import CfgNode
from fvcore.common.registry import Registry
from torch import Tensor, nn

from ..target_batch import TargetBatch

PAIRING_REGISTRY = Registry("PAIRING")
PAIRING_REGISTRY.__doc__ = """Pairings by the name that MODEL.CORNERNET.PAIRING gives.

A registered class or function is called with the config and returns a :class:`Pairing`.
"""

# Name of an output -> its values (M, D) at the objects' top-left and bottom-right corners.
CornerValues = Mapping[str, Sequence[Tensor]]


class Norms(NamedTuple):
    """Factors of the sums of each point's heat map and offsets, and of the sums over images."""

    heatmap: Sequence[Tensor]
    offset: Sequence[Tensor]
    image: Tensor | float


class LossRules(Protocol):
    """What a criterion decides about the losses of a pairing; see :class:`.CornerCriterion`."""

    def regression_loss(
        self, predicted: Tensor, target: Tensor, batch: TargetBatch, corner: int
    ) -> Tensor: ...

    def embedding_losses(
        self, tl: Tensor, br: Tensor, batch: TargetBatch, margin: float
    ) -> tuple[Tensor, Tensor]: ...


class Corners(NamedTuple):
    """The best corners of a side.

    Attributes:
        scores: (N, P) float32; where less than P cells are to be taken, the others have -inf.
        classes: (N, P) int64.
        xy: (N, P, 2) float32, map pixels; on the image, where ``decode_corners`` moves them there.
        predicted: the same as predicted.
        values: of each output in :attr:`Pairing.decoded`, (N, P, D) float32.
    """

    scores: Tensor
    classes: Tensor
    xy: Tensor
    predicted: Tensor
    values: dict[str, Tensor]


class Match(NamedTuple):
    """What a rule says of all pairs; rows are top-left corners.

    Attributes:
        accepted: (N, P, P) bool, whether the two belong together; False where a value is NaN.
        weight: (N, P, P) in [0, 1], what the mean of the corners' scores is multiplied by; None: 1.
    """

    accepted: Tensor
    weight: Tensor | None = None


class Pairing(abc.ABC):
    """Which corners belong together. Holds settings alone: what is trained is in the head.

    Attributes:
        outputs: the maps that :meth:`branches` adds to each corner, in the order of prediction.
        decoded: those that :meth:`match` reads at the corners found.
        weights: names and weights of the losses that :meth:`losses` returns.
    """

    outputs: tuple[str, ...] = ()
    decoded: tuple[str, ...] = ()
    weights: Mapping[str, float] = {}

    @abc.abstractmethod
    def branches(self, in_channels: int, width: int, kernel: int) -> dict[str, nn.Module]:
        """The layers of each output of one corner.

        Each takes the corner-pooled map (N, in_channels, h, w), and the outputs of the same corner
        that its attribute ``after`` names, if it has one.

        Args:
            width, kernel: channels and side of the convolution in front of an output.
        """

    @abc.abstractmethod
    def losses(
        self, values: CornerValues, batch: TargetBatch, norms: Norms, rules: LossRules
    ) -> dict[str, Tensor]:
        """The losses of one stack, divided by what ``norms`` says and not yet weighted.

        Args:
            values: of :attr:`outputs`.
            batch: the targets of N images.
            rules: the criterion, whose way of computing a loss is to be kept to.
        """

    @abc.abstractmethod
    def match(
        self,
        tl: Corners,
        br: Corners,
        *,
        cell_size: Sequence[float],
        origin: Tensor | None = None,
    ) -> Match:
        """The rule, for every top-left with every bottom-right corner.

        Classes, and that the bottom-right corner lies right of and below the top-left one, are not
        this rule's matter. Has to trace: no shapes that depend on data, no loops over corners.

        Args:
            tl, br: P of each side.
            cell_size: (x, y) canvas pixels of a cell.
            origin: (N, 2) as in :func:`.decode.decode_corners`.
        """

    @property
    def limit(self) -> float | None:
        """The largest of :meth:`distances` that is accepted; None: the rule has no such number."""
        return None

    def distances(self, tl: Corners, br: Corners) -> Tensor | None:
        """(N, P, P) how badly two corners fit, for pictures and reports; rows are top-left corners.

        None: the rule has no such number. NaN where two corners make no box.
        """
        return None

    def statistics(self, values: CornerValues, batch: TargetBatch) -> dict[str, Tensor]:
        """What a training run is to log: name -> scalar on the device. M is at least 1."""
        return {}

    @classmethod
    def recognise(cls, weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Config keys of this kind, if a checkpoint with these weights of a corner is of it.

        Args:
            weights: of the branch of a corner, the output's name first in theirs. Anything with a
                ``shape`` does for a tensor.
        """
        return None


def build_pairing(cfg: CfgNode) -> Pairing:
    """The pairing that MODEL.CORNERNET.PAIRING names in PAIRING_REGISTRY."""
    name = cfg.MODEL.CORNERNET.PAIRING
    if name not in PAIRING_REGISTRY:
        known = ", ".join(sorted(known for known, _ in PAIRING_REGISTRY))
        raise ValueError(f"MODEL.CORNERNET.PAIRING is {name!r}; registered: {known}")
    return PAIRING_REGISTRY.get(name)(cfg)


def recognise_pairing(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Config keys of the kind that has these weights of a corner; none if no kind knows them."""
    found = (kind.recognise(weights) for kind in Pairing.__subclasses__())
    return next((keys for keys in found if keys is not None), {})
