"""Associative embeddings: corners of an object have numbers that are close to each other.

Law & Deng, "CornerNet", section 3.3, after Newell et al., "Associative Embedding". Ours: embeddings
of several dimensions, and what helps them to tell equal objects apart by place.

The distance of two embeddings, here as in push, is the sum of the absolute differences: of one
dimension the paper's.

Letters: as in :mod:`.base`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ..outputs import OutputBranch
from ..target_batch import TargetBatch
from .base import PAIRING_REGISTRY, Corners, CornerValues, LossRules, Match, Norms, Pairing

# Cells that a coordinate of 1 is: what half a map of the paper's input measures.
UNIT = 64


class PositionedBranch(OutputBranch):
    """An output branch that is told where each cell is; arguments as of :class:`.OutputBranch`.

    Two channels come after the others, x and y from the middle of the map, in units of 64 cells
    (Liu et al., "An Intriguing Failing of Convolutional Neural Networks and the CoordConv
    Solution", 2018): a distance on the map is the same number on maps of all sizes.
    """

    def __init__(
        self, in_channels: int, width: int, out_channels: int, kernel: int = 3, dilation: int = 1
    ):
        super().__init__(in_channels + 2, width, out_channels, kernel, dilation)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (_from_middle(x.shape[axis], x) for axis in (-2, -1))
        shape = x.shape[0], 1, *x.shape[-2:]
        places = columns.expand(shape), rows[:, None].expand(shape)
        return super().forward(torch.cat((x, *places), dim=1))


def _from_middle(side: int, like: Tensor) -> Tensor:
    """(side,) places along an axis, in the dtype of ``like``."""
    places = torch.arange(side, device=like.device, dtype=torch.float32)
    return ((places - (side - 1) / 2) / UNIT).to(like.dtype)


class EmbeddingPairing(Pairing):
    """Output "embedding" (N, D, h, w), losses "pull" and "push".

    Args:
        dim: D.
        position: tell the embedding's branch where each cell is.
        dilation: of the first convolution of that branch: with 3 its 3 x 3 weights see 7 x 7 cells.
        pull_weight, push_weight: eq. 6 (alpha, beta there).
        push_margin: Delta of eq. 5.
        threshold: the largest distance of embeddings that belong together.
    """

    outputs = decoded = ("embedding",)

    @configurable
    def __init__(
        self,
        *,
        dim: int = 1,
        position: bool = False,
        dilation: int = 1,
        pull_weight: float = 0.1,
        push_weight: float = 0.1,
        push_margin: float = 1.0,
        threshold: float = 0.5,
    ):
        if dim < 1 or dilation < 1:
            raise ValueError(
                "MODEL.CORNERNET.EMBEDDING.DIM and DILATION must be at least 1, got "
                f"{dim} and {dilation}"
            )
        self.dim, self.position, self.dilation = dim, position, dilation
        self.weights = {"pull": pull_weight, "push": push_weight}
        self.margin, self.threshold = push_margin, threshold

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        loss, settings = cfg.MODEL.CORNERNET.LOSS, cfg.MODEL.CORNERNET.EMBEDDING
        return {
            "dim": settings.DIM,
            "position": settings.POSITION,
            "dilation": settings.DILATION,
            "pull_weight": loss.PULL_WEIGHT,
            "push_weight": loss.PUSH_WEIGHT,
            "push_margin": loss.PUSH_MARGIN,
            "threshold": cfg.MODEL.CORNERNET.TEST.EMBEDDING_THRESHOLD,
        }

    def branches(self, in_channels: int, width: int, kernel: int) -> dict[str, nn.Module]:
        branch = PositionedBranch if self.position else OutputBranch
        return {"embedding": branch(in_channels, width, self.dim, kernel, self.dilation)}

    def losses(
        self, values: CornerValues, batch: TargetBatch, norms: Norms, rules: LossRules
    ) -> dict[str, Tensor]:
        pull, push = rules.embedding_losses(*values["embedding"], batch, self.margin)
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
        tl, br = (x.values["embedding"] for x in (tl, br))
        return (tl[:, :, None] - br[:, None]).abs().sum(dim=-1)

    def statistics(self, values: CornerValues, batch: TargetBatch) -> dict[str, Tensor]:
        """ "embedding/within" and, if two objects share an image, "embedding/between".

        The first is the mean distance of an object's two corners, the second the mean distance of
        an object's mean embedding to its nearest neighbour's in the image. Pairs are found as long
        as the first is well below, the second well above the threshold.
        """
        tl, br = (x.float() for x in values["embedding"])
        result = {"embedding/within": (tl - br).abs().sum(dim=1).mean()}
        gaps = [_nearest_distances(mean) for mean in ((tl + br) / 2).split(batch.objects)]
        if len(gaps := torch.cat(gaps)):
            result["embedding/between"] = gaps.mean()
        return result

    @classmethod
    def recognise(cls, weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
        if "embedding.1.weight" not in weights:
            return None
        inputs = [weights[f"{name}.0.weight"].shape[1] for name in ("embedding", "heatmap")]
        return {
            "MODEL.CORNERNET.PAIRING": "embedding",
            "MODEL.CORNERNET.EMBEDDING.DIM": int(weights["embedding.1.weight"].shape[0]),
            "MODEL.CORNERNET.EMBEDDING.POSITION": inputs[0] == inputs[1] + 2,
        }


def _nearest_distances(values: Tensor) -> Tensor:
    """(M,) distance of each of the embeddings (M, D) to its nearest neighbour; none of one."""
    if len(values) < 2:
        return values[:0, 0]
    distances = (values[:, None] - values).abs().sum(dim=2)
    return distances.fill_diagonal_(torch.inf).amin(dim=1)


@PAIRING_REGISTRY.register()
def embedding(cfg: CfgNode) -> EmbeddingPairing:
    """The paper's."""
    return EmbeddingPairing(cfg)
