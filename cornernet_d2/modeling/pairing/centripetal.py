"""Centripetal shifts: each corner predicts where the centre of its object is.

Dong et al., "CentripetalNet", CVPR 2020. The shift of a corner is the logarithm of half the box's
width and height, in map pixels: equal for both corners, and known from their cells and offsets.

Two corners can be asked whether they agree in two ways. :class:`LogSize`, ours, compares each
corner's shift with half the box that the two would make; it knows no scale. :class:`CentralRegion`
is the paper's: both centres must lie in the middle of the box; its numbers are settings, as the
published codes disagree on them.

Letters: as in :mod:`.base`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from ..outputs import OutputBranch
from ..recompute import Recomputable
from ..target_batch import TargetBatch
from .base import PAIRING_REGISTRY, Corners, CornerValues, LossRules, Match, Norms, Pairing


class LogSize(NamedTuple):
    """Half the box that two corners make has about the size that each of them says.

    ``e`` is the largest difference of the logarithms over both axes and both corners.

    Attributes:
        tolerance: the largest ``e`` that is accepted.
    """

    tolerance: float = 0.6

    def __call__(
        self, tl: Corners, br: Corners, cell_size: Sequence[float], origin: Tensor | None
    ) -> Match:
        error = self.error(tl, br)
        # 0.14 at the tolerance: a worse fit than another's loses to it before it is rejected.
        return Match(error <= self.tolerance, (-2 * (error / self.tolerance) ** 2).exp())

    def error(self, tl: Corners, br: Corners) -> Tensor:
        """(N, P, P) ``e`` of all pairs."""
        size = ((br.xy[:, None] - tl.xy[:, :, None]) / 2).log()  # NaN where there is no box
        return torch.maximum(
            (size - tl.values["shift"][:, :, None]).abs(),
            (size - br.values["shift"][:, None]).abs(),
        ).amax(dim=-1)


class CentralRegion(NamedTuple):
    """Both corners' centres lie inside a region in the middle of the box; the paper, section 3.2.

    Attributes:
        mu_small, mu_large: width of the region by width of the box, likewise the height, of boxes
            up to ``large_area`` and above.
        large_area: canvas pixels^2.
        max_span: the box that the two centres span has at most this part of the region's area.
        weighted: lower scores by ``exp`` of minus that part.
    """

    mu_small: float = 1 / 2.4
    mu_large: float = 1 / 2.1
    large_area: float = 3500.0
    max_span: float = float("inf")
    weighted: bool = True

    def __call__(
        self, tl: Corners, br: Corners, cell_size: Sequence[float], origin: Tensor | None
    ) -> Match:
        tl_centre = tl.predicted + tl.values["shift"].exp()
        br_centre = br.predicted - br.values["shift"].exp()
        if origin is not None:
            tl_centre, br_centre = (
                torch.maximum(x, origin[:, None]) for x in (tl_centre, br_centre)
            )
        tl_centre, br_centre = tl_centre[:, :, None], br_centre[:, None]
        extent = br.xy[:, None] - tl.xy[:, :, None]
        area = extent.prod(dim=-1).abs() * (cell_size[0] * cell_size[1])
        mu = torch.where(area > self.large_area, self.mu_large, self.mu_small)
        middle = (tl.xy[:, :, None] + br.xy[:, None]) / 2
        reach = mu[..., None] * extent / 2
        is_inside = torch.ones_like(area, dtype=torch.bool)
        for centre in (tl_centre, br_centre):
            within = (centre > middle - reach) & (centre < middle + reach)
            is_inside = is_inside & within.all(dim=-1)
        span = (br_centre - tl_centre).prod(dim=-1).abs() / (2 * reach).prod(dim=-1).abs()
        return Match(is_inside & (span <= self.max_span), (-span).exp() if self.weighted else None)


Rule = Callable[[Corners, Corners, Sequence[float], Tensor | None], Match]


class GuidedBranch(Recomputable):
    """The shift from features gathered where the guiding shift points (the paper, section 3.3).

    A 3x3 deformable convolution, whose nine places a 1x1 convolution of the guiding shift gives,
    then as :class:`.outputs.OutputBranch`: (N, in, h, w) and (N, 2, h, w) -> (N, 2, h, w).
    """

    after = ("guiding_shift",)

    def __init__(self, in_channels: int, width: int, kernel: int):
        from torchvision.ops import DeformConv2d

        super().__init__()
        self.places = nn.Conv2d(2, 18, 1, bias=False)
        self.gather = DeformConv2d(in_channels, in_channels, 3, padding=1, bias=False)
        self.branch = OutputBranch(in_channels, width, 2, kernel)
        nn.init.normal_(self.places.weight, std=0.1)
        nn.init.normal_(self.gather.weight, std=0.01)

    def forward(self, x: Tensor, guiding_shift: Tensor) -> Tensor:
        # The shift does not train what guides it.
        return self.branch(self.gather(x, self.places(guiding_shift.detach())))


class CentripetalPairing(Pairing):
    """Output "shift" (N, 2, h, w), loss "centripetal"; guided also "guiding_shift" and "guiding".

    Args:
        rule: what accepts a pair; default: :class:`LogSize`.
        weight: of the smooth L1 loss of the shifts, divided as the offsets' is.
        log_size: what the shifts start from: the mean of log(side / 2), sides in map pixels.
        guided: predict the vector from the corner's cell to the centre too, map pixels, and gather
            the features of the shift along it.
        guiding_weight: of the smooth L1 loss of these vectors.
    """

    decoded = ("shift",)

    @configurable
    def __init__(
        self,
        *,
        rule: Rule | None = None,
        weight: float = 1.0,
        log_size: float = 1.75,
        guided: bool = False,
        guiding_weight: float = 0.05,
    ):
        self.rule, self.log_size, self.guided = rule or LogSize(), log_size, guided
        self.outputs = ("guiding_shift", "shift") if guided else ("shift",)
        self.weights = {"centripetal": weight}
        if guided:
            self.weights["guiding"] = guiding_weight

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        settings = cfg.MODEL.CORNERNET.CENTRIPETAL
        region = settings.REGION
        rules = {
            "log_size": lambda: LogSize(settings.TOLERANCE),
            "central_region": lambda: CentralRegion(
                region.MU_SMALL,
                region.MU_LARGE,
                region.LARGE_AREA,
                region.MAX_SPAN,
                region.WEIGHTED,
            ),
        }
        if settings.RULE not in rules:
            raise ValueError(
                f"MODEL.CORNERNET.CENTRIPETAL.RULE is {settings.RULE!r}; there are "
                f"{', '.join(rules)}"
            )
        return {
            "rule": rules[settings.RULE](),
            "weight": settings.WEIGHT,
            "log_size": settings.LOG_SIZE,
            "guided": settings.GUIDED,
            "guiding_weight": settings.GUIDING_WEIGHT,
        }

    def branches(self, in_channels: int, width: int, kernel: int) -> dict[str, nn.Module]:
        if self.guided:
            guide = OutputBranch(in_channels, width, 2, kernel)
            shift = GuidedBranch(in_channels, width, kernel)
            branches, last = {"guiding_shift": guide, "shift": shift}, shift.branch[1]
        else:
            branches = {"shift": OutputBranch(in_channels, width, 2, kernel)}
            last = branches["shift"][1]
        nn.init.constant_(last.bias, self.log_size)
        return branches

    def losses(
        self, values: CornerValues, batch: TargetBatch, norms: Norms, rules: LossRules
    ) -> dict[str, Tensor]:
        targets = {"centripetal": ("shift", [log_half_sizes(batch)] * 2)}
        if self.guided:
            targets["guiding"] = ("guiding_shift", guiding_shifts(batch))
        return {
            name: sum(
                norms.offset[i] * rules.regression_loss(values[output][i], target[i], batch, i)
                for i in range(2)
            )
            for name, (output, target) in targets.items()
        }

    def match(
        self,
        tl: Corners,
        br: Corners,
        *,
        cell_size: Sequence[float],
        origin: Tensor | None = None,
    ) -> Match:
        return self.rule(tl, br, cell_size, origin)

    @property
    def limit(self) -> float | None:
        return self.rule.tolerance if isinstance(self.rule, LogSize) else None

    def distances(self, tl: Corners, br: Corners) -> Tensor | None:
        """``e`` of :class:`LogSize`, where that is the rule."""
        return self.rule.error(tl, br) if isinstance(self.rule, LogSize) else None

    def statistics(self, values: CornerValues, batch: TargetBatch) -> dict[str, Tensor]:
        """ "shift/error", the mean over objects of what :class:`LogSize` calls ``e``."""
        size = log_half_sizes(batch)
        errors = [(shift.float() - size).abs() for shift in values["shift"]]
        return {"shift/error": torch.maximum(*errors).amax(dim=1).mean()}

    @classmethod
    def recognise(cls, weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
        outputs = {key.partition(".")[0] for key in weights}
        if "shift" not in outputs:
            return None
        return {
            "MODEL.CORNERNET.PAIRING": "centripetal",
            "MODEL.CORNERNET.CENTRIPETAL.GUIDED": "guiding_shift" in outputs,
        }


def log_half_sizes(batch: TargetBatch) -> Tensor:
    """(M, 2), log of half the width and height of the objects' boxes, in map pixels."""
    tl, br = batch.corners.unbind(1)
    return ((br - tl) / 2).log()


def guiding_shifts(batch: TargetBatch) -> list[Tensor]:
    """Per corner (M, 2): from the start of its cell to the centre, map pixels, inwards."""
    centre = batch.corners.mean(dim=1)
    tl, br = (batch.corners - batch.offsets[:, :2]).unbind(1)
    return [centre - tl, br - centre]


@PAIRING_REGISTRY.register()
def centripetal(cfg: CfgNode) -> CentripetalPairing:
    """Shifts to the centre instead of embeddings."""
    return CentripetalPairing(cfg)
