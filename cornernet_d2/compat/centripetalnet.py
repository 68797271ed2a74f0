"""The losses of CentripetalNet's authors (KiveeDong/CentripetalNet, a fork of MMDetection).

As MMDetection's (:mod:`.mmdet`), but offsets and shifts are divided by the cells that are
1 in the heat maps, class by class. A batch without objects gives NaN there (0 / 0), 0 here.
"""

from collections.abc import Sequence

from detectron2.config import CfgNode
from torch import Tensor

from ..modeling.criterion import CRITERION_REGISTRY
from ..targets import CornerTargets
from .counts import distinct_cells
from .mmdet import MMDetCriterion


class CentripetalNetCriterion(MMDetCriterion):
    """The losses of the authors' head, without those of its mask branch."""

    def count(self, targets: Sequence[CornerTargets]) -> Tensor:
        """Cells that are 1 in a heat map, per corner; twice, for what is regressed too."""
        return distinct_cells(targets, by_class=True).repeat(2)


@CRITERION_REGISTRY.register()
def centripetalnet(cfg: CfgNode) -> CentripetalNetCriterion:
    return CentripetalNetCriterion(cfg)
