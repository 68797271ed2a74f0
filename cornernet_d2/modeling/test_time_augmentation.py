"""Scales and mirror images around an inference: the shape of Detectron2's GeneralizedRCNNWithTTA.

What is found in all views of an image goes through soft-NMS together, in the image's pixels.
"""

from collections.abc import Iterable, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import Instances
from torch import Tensor, nn

from ..canvas import Size
from .inference import INFERENCE_REGISTRY, Candidates, CornerInference


class InferenceWithTTA:
    """An inference on several sizes of each image and on mirror images, with the same call.

    Args:
        inference: what is done with each view, and with the boxes of all.
        scales: factors of the image size, each above 0; ignored if ``min_sizes`` are given.
        min_sizes: lengths of the shorter side, as ``TEST.AUG.MIN_SIZES`` of Detectron2, pixels.
        max_size: with ``min_sizes``, the most that the longer side may have, pixels.
        flip: also the mirror image of each size.

    Raises:
        ValueError: no scales, or one not above 0; sizes below 1.
    """

    def __init__(
        self,
        inference: CornerInference,
        scales: Sequence[float] = (1.0,),
        min_sizes: Sequence[int] = (),
        max_size: int = 4000,
        flip: bool = False,
    ) -> None:
        if not scales or not all(scale > 0 for scale in scales):
            raise ValueError(f"scales must be one or more numbers above 0, got {scales}")
        if not all(side > 0 for side in (*min_sizes, max_size)):
            raise ValueError(f"sizes must be above 0, got {min_sizes}, at most {max_size}")
        self.inference, self.flip = inference, flip
        self.scales, self.min_sizes, self.max_size = tuple(scales), tuple(min_sizes), max_size

    @property
    def one_view(self) -> CornerInference:
        """What is done with one view of an image."""
        return self.inference

    @torch.no_grad()
    def __call__(
        self,
        model: nn.Module,
        images: Sequence[Tensor],
        output_sizes: Sequence[Size] | None = None,
    ) -> list[Instances]:
        """As :meth:`CornerInference.__call__`."""
        given = [(image.shape[-2], image.shape[-1]) for image in images]
        scales = [None] * len(self.min_sizes) or self.scales
        views = zip(*(self.view_sizes(size) for size in given))
        parts = [self._candidates(model, images, *view) for view in zip(views, scales)]
        candidates = Candidates(*(torch.cat(field) for field in zip(*parts)))
        return self.inference.select(candidates, given, output_sizes)

    def _candidates(
        self,
        model: nn.Module,
        images: Sequence[Tensor],
        sizes: Sequence[Size],
        scale: float | None,
    ) -> Candidates:
        """Candidates of N images at N sizes, in pixels of the images as given."""
        views = [self.inference.resize(*pair, model.device) for pair in zip(images, sizes)]
        factors = [
            self.inference.factor((image.shape[-2], image.shape[-1]), size, scale)[::-1]
            for image, size in zip(images, sizes)
        ]
        if self.flip:
            mirrored = [False] * len(views) + [True] * len(views)
            found = self.inference.candidates(model, views * 2, mirrored)
            found = found._replace(images=found.images % len(views))
        else:
            found = self.inference.candidates(model, views)
        found = self.inference.of_scale(found, scale)
        factor = torch.tensor(factors, dtype=torch.float32).repeat(1, 2)
        factor = factor.to(found.boxes.device, non_blocking=True)
        return found._replace(boxes=found.boxes / factor[found.images])

    def view_sizes(self, size: Size) -> list[Size]:
        """(height, width) of each view of an image of a size, mirror images apart."""
        if not self.min_sizes:
            return [_at_least_one(side * scale for side in size) for scale in self.scales]
        edges = (
            ResizeShortestEdge.get_output_shape(*size, side, self.max_size)
            for side in self.min_sizes
        )
        return [_at_least_one(edge) for edge in edges]  # of a 1x3000 image there may be no row


def _at_least_one(size: Iterable[float]) -> Size:
    height, width = (max(1, int(side)) for side in size)
    return height, width


def build_inference(cfg: CfgNode) -> CornerInference | InferenceWithTTA:
    """The inference that ``MODEL.CORNERNET.TEST.CONVENTION`` names, with the views of the config.

    Views are MODEL.CORNERNET.TEST.SCALES and FLIP, or with TEST.AUG.ENABLED its MIN_SIZES,
    MAX_SIZE and FLIP, as of any Detectron2 model.

    Raises:
        ValueError: the name is not registered, or both SCALES and TEST.AUG ask for sizes.
    """
    test, aug = cfg.MODEL.CORNERNET.TEST, cfg.TEST.AUG
    if test.CONVENTION not in INFERENCE_REGISTRY:
        raise ValueError(
            f"MODEL.CORNERNET.TEST.CONVENTION {test.CONVENTION!r} is not registered; there are "
            f"{sorted(name for name, _ in INFERENCE_REGISTRY)}"
        )
    inference = INFERENCE_REGISTRY.get(test.CONVENTION)(cfg)
    scales = tuple(test.SCALES)
    if aug.ENABLED:
        if scales != (1.0,):
            raise ValueError(
                "MODEL.CORNERNET.TEST.SCALES and TEST.AUG.MIN_SIZES both ask for sizes: set "
                "SCALES to [1.0] or TEST.AUG.ENABLED to False"
            )
        flip = test.FLIP or aug.FLIP
        return InferenceWithTTA(inference, scales, aug.MIN_SIZES, aug.MAX_SIZE, flip)
    if scales == (1.0,) and not test.FLIP:
        return inference
    return InferenceWithTTA(inference, scales, flip=test.FLIP)
