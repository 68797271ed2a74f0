"""Associative embeddings: corners of an object have numbers that are close to each other.

Law & Deng, "CornerNet", section 3.3, after Newell et al., "Associative Embedding".

Letters: as in :mod:`.base`.
"""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F

from ..outputs import OutputBranch
from ..target_batch import TargetBatch
from .base import PAIRING_REGISTRY, Corners, CornerValues, LossRules, Match, Norms, Pairing


class EmbeddingPairing(Pairing):
    """Output "embedding" (N, 1, h, w), losses "pull" and "push".

    Args:
        pull_weight, push_weight: eq. 6 (alpha, beta there).
        push_margin: Delta of eq. 5.
        threshold: the largest distance of embeddings that belong together.
    """

    outputs = decoded = ("embedding",)

    @configurable
    def __init__(
        self,
        *,
        pull_weight: float = 0.1,
        push_weight: float = 0.1,
        push_margin: float = 1.0,
        threshold: float = 0.5,
    ):
        self.weights = {"pull": pull_weight, "push": push_weight}
        self.margin, self.threshold = push_margin, threshold

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        loss = cfg.MODEL.CORNERNET.LOSS
        return {
            "pull_weight": loss.PULL_WEIGHT,
            "push_weight": loss.PUSH_WEIGHT,
            "push_margin": loss.PUSH_MARGIN,
            "threshold": cfg.MODEL.CORNERNET.TEST.EMBEDDING_THRESHOLD,
        }

    def branches(self, in_channels: int, width: int, kernel: int) -> dict[str, nn.Module]:
        return {"embedding": OutputBranch(in_channels, width, 1, kernel)}

    def losses(
        self, values: CornerValues, batch: TargetBatch, norms: Norms, rules: LossRules
    ) -> dict[str, Tensor]:
        tl, br = (x[:, 0] for x in values["embedding"])
        pull, push = rules.embedding_losses(tl, br, batch, self.margin)
        return {"pull": norms.image * pull.sum(), "push": norms.image * push.sum()}

    def match(
        self,
        tl: Corners,
        br: Corners,
        *,
        cell_size: Sequence[float],
        origin: Tensor | None = None,
    ) -> Match:
        return Match(self.distances(tl, br) <= self.threshold)

    @property
    def limit(self) -> float:
        return self.threshold

    def distances(self, tl: Corners, br: Corners) -> Tensor:
        """Of the embeddings."""
        tl, br = (x.values["embedding"][..., 0] for x in (tl, br))
        return (tl[:, :, None] - br[:, None]).abs()

    def statistics(self, values: CornerValues, batch: TargetBatch) -> dict[str, Tensor]:
        """ "embedding/within" and, if two objects share an image, "embedding/between".

        The first is the mean distance of an object's two corners, the second the mean distance of
        an object's mean embedding to its nearest neighbour's in the image. Pairs are found as long
        as the first is well below, the second well above the threshold.
        """
        tl, br = (x[:, 0].float() for x in values["embedding"])
        result = {"embedding/within": (tl - br).abs().mean()}
        gaps = [_nearest_distances(mean) for mean in ((tl + br) / 2).split(batch.objects)]
        if len(gaps := torch.cat(gaps)):
            result["embedding/between"] = gaps.mean()
        return result

    @classmethod
    def recognise(cls, outputs: Collection[str]) -> dict[str, Any] | None:
        return {"MODEL.CORNERNET.PAIRING": "embedding"} if "embedding" in outputs else None


def _nearest_distances(values: Tensor) -> Tensor:
    """(M,) distance of each number to its nearest neighbour; none of a single one."""
    steps = values.sort().values.diff()
    if not len(steps):
        return steps
    return torch.minimum(
        F.pad(steps, (1, 0), value=torch.inf), F.pad(steps, (0, 1), value=torch.inf)
    )


@PAIRING_REGISTRY.register()
def embedding(cfg: CfgNode) -> EmbeddingPairing:
    """The paper's."""
    return EmbeddingPairing(cfg)
