"""Shifts and embeddings together: a pair has to pass both rules. Measured, and not worth having.

A pairing made of two, registered from outside the package as a user's own is.
"""

from typing import Any

from detectron2.config import CfgNode
from torch import Tensor, nn

from cornernet_d2.modeling.pairing import (
    PAIRING_REGISTRY,
    CentripetalPairing,
    Corners,
    EmbeddingPairing,
    Match,
    Pairing,
)
from cornernet_d2.modeling.pairing.base import CornerValues, LossRules, Norms
from cornernet_d2.modeling.target_batch import TargetBatch


@PAIRING_REGISTRY.register()
class ShiftAndEmbedding(Pairing):
    """Outputs, losses and weights of both; the score's factor is that of the shifts."""

    def __init__(self, cfg: CfgNode):
        self.kinds = CentripetalPairing(cfg), EmbeddingPairing(cfg)
        self.outputs = tuple(name for kind in self.kinds for name in kind.outputs)
        self.decoded = tuple(name for kind in self.kinds for name in kind.decoded)
        self.weights = {
            name: weight for kind in self.kinds for name, weight in kind.weights.items()
        }

    def branches(self, in_channels: int, width: int, kernel: int) -> dict[str, nn.Module]:
        shift, embedding = (kind.branches(in_channels, width, kernel) for kind in self.kinds)
        return {**shift, **embedding}

    def losses(
        self, values: CornerValues, batch: TargetBatch, norms: Norms, rules: LossRules
    ) -> dict[str, Tensor]:
        shift, embedding = (kind.losses(values, batch, norms, rules) for kind in self.kinds)
        return {**shift, **embedding}

    def match(self, tl: Corners, br: Corners, **where: Any) -> Match:
        shift, embedding = (kind.match(tl, br, **where) for kind in self.kinds)
        return Match(shift.accepted & embedding.accepted, shift.weight)
