"""What the release of CenterNet's authors computes (Duankaiwen/CenterNet, ``test/coco.py``).

Losses, input and soft-NMS are those of CornerNet's release (:mod:`.official`), with a third heat
map and offset. What is done with centres differs from :mod:`cornernet_d2.modeling.center`:

* the border rule: a box that reaches ``BORDER`` pixels or more beyond its (resized) image is
  rejected;
* the check comes after the views: boxes of all scales and mirror images are held against the
  centres of scale 1, the image's before the mirror image's, in pixels of the image as given;
* the order rule: of several centres in a box's middle the first of that list counts: the best of
  the image's own, whose order is by score, though the mirror image's may be better;
* boxes then go into soft-NMS by falling score.

Centres are taken however low their score is, as here.
"""

import torch
from detectron2.config import CfgNode
from torch import Tensor

from ..canvas import Canvas
from ..modeling.center import CenterCheck
from ..modeling.decode import REJECTED, Pairs, top_corners
from ..modeling.inference import INFERENCE_REGISTRY, Candidates, CornerInference
from ..modeling.outputs import CornerMaps
from ..modeling.pairing import Pairing
from .official import OfficialInference

BORDER = 5  # pixels


class CenterNetInference(OfficialInference):
    """The authors' test loop.

    Centres travel with the pairs: as boxes without extent, whose corner scores are NaN.
    """

    def decode(self, maps: CornerMaps, canvas: Canvas, pairing: Pairing) -> Pairs:
        if "center" not in maps:
            raise ValueError(
                "MODEL.CORNERNET.TEST.CONVENTION centernet needs a model with "
                "MODEL.CORNERNET.CENTER.ENABLED True"
            )
        pairs = self.decode_corners(maps, canvas, pairing, keep_empty=True, center=None)
        settings = self.decoding["top_k"], self.decoding["nms_kernel"]
        return with_centers(pairs, *top_corners(maps["center"], (), *settings)[:3])

    def to_image(self, pairs: Pairs, canvas: Canvas) -> Pairs:
        boxes = canvas.to_image(pairs.boxes, clip=False)
        sizes = torch.tensor(canvas.image_sizes, device=boxes.device).flip(1)[:, None]
        low, high = boxes.split(2, dim=-1)
        leaves = ((low <= -BORDER) | (high >= sizes + BORDER)).any(dim=-1)
        scores = torch.where(leaves & ~_is_center(pairs.corner_scores), REJECTED, pairs.scores)
        return super().to_image(pairs._replace(scores=scores), canvas)

    def of_scale(self, candidates: Candidates, scale: float | None) -> Candidates:
        if scale in (None, 1):
            return candidates
        return candidates.take(~_is_center(candidates.corner_scores))

    def suppress(self, candidates: Candidates) -> Candidates:
        return super().suppress(self.checked(candidates))

    def checked(self, candidates: Candidates) -> Candidates:
        """The pairs of all images with their scores after the check, by falling score.

        Raises:
            ValueError: no view is of scale 1.
        """
        is_center = _is_center(candidates.corner_scores)
        pairs, centers = candidates.take(~is_center), candidates.take(is_center)
        if len(pairs.scores) and not len(centers.scores):
            raise ValueError(
                "MODEL.CORNERNET.TEST.CONVENTION centernet takes its centres from scale 1: put 1.0 "
                "into MODEL.CORNERNET.TEST.SCALES"
            )
        check = self.decoding["center"] or CenterCheck()
        scores = torch.full_like(pairs.scores, REJECTED)
        for image in pairs.images.unique():
            mine, theirs = pairs.images == image, centers.take(centers.images == image)
            scores[mine] = _scores(check, pairs.take(mine), theirs)
        return pairs._replace(scores=scores).take(scores.argsort(descending=True, stable=True))


def with_centers(pairs: Pairs, scores: Tensor, classes: Tensor, xy: Tensor) -> Pairs:
    """Pairs (N, K) followed by centres: (N, P), (N, P), (N, P, 2)."""
    unknown = scores[..., None].expand(-1, -1, 2) * torch.nan
    parts = (xy.repeat(1, 1, 2), scores, unknown, classes)
    return Pairs(*(torch.cat(fields, dim=1) for fields in zip(pairs, parts)))


def _is_center(corner_scores: Tensor) -> Tensor:
    return corner_scores.isnan().all(dim=-1)


def _scores(check: CenterCheck, pairs: Candidates, centers: Candidates) -> Tensor:
    """Scores of one image's pairs, with the first centre that fits each."""
    fits = check.fits(
        pairs.boxes[None],
        pairs.classes[None],
        centers.boxes[None, :, :2],
        centers.classes[None],
        (1, 1),
    )[0]
    first = centers.scores[fits.byte().argmax(dim=1)]  # of equal ones the first
    keeps = fits.any(dim=1) & (pairs.scores > REJECTED)
    return torch.where(keeps, (2 * pairs.scores + first) / 3, REJECTED)


@INFERENCE_REGISTRY.register()
def centernet(cfg: CfgNode) -> CornerInference:
    return CenterNetInference(cfg)
