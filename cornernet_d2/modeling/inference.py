"""Images -> Instances: the network's maps, pairs of corners, soft-NMS.

Rules of other code bases are subclasses, in :mod:`cornernet_d2.compat`; scales and mirror images
are around it, in :mod:`.test_time_augmentation`.

Letters: N images, K pairs of an image, M pairs of all; boxes are ``x0 y0 x1 y1``.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.structures import Boxes, Instances
from fvcore.common.registry import Registry
from torch import Tensor, nn

from ..canvas import Canvas, Size
from .center import CenterCheck
from .decode import REJECTED, Candidates, Pairs, decode_corners
from .outputs import CornerMaps
from .pairing import Pairing
from .soft_nms import batched_soft_nms, check_settings

INFERENCE_REGISTRY = Registry("INFERENCE")
INFERENCE_REGISTRY.__doc__ = """
Inferences by their name in MODEL.CORNERNET.TEST.CONVENTION: called with a config, they give a
:class:`CornerInference`.
"""


class CornerInference:
    """Detects objects in images with a model that predicts corner maps.

    Subclasses change single steps: see the methods.

    Args:
        top_k, nms_kernel: see :func:`.decode.decode_corners`.
        max_pairs: pairs kept of each image, scale and mirror image.
        center: the centre check of a model that predicts centres; None: there is none.
        soft_nms_method, sigma, iou_threshold, min_score: see
            :func:`.soft_nms.batched_soft_nms`.
        merge_exponent: merge boxes, see there; None: do not.
        max_detections: detections kept per image, negative: all. Where it is larger than ``top_k``
            or ``max_pairs``, so are they, if it is more than ``enough_for``.

    Raises:
        ValueError: an unknown method, or a sigma or exponent not above 0.
    """

    # Whether results end at the right and bottom edges, too, and have an area.
    clips_end = True
    # Detections for which ``top_k`` and ``max_pairs`` are enough as they are.
    enough_for = 0

    @configurable
    def __init__(
        self,
        *,
        top_k: int = 100,
        nms_kernel: int = 3,
        max_pairs: int = 1000,
        soft_nms_method: str = "gaussian",
        sigma: float = 0.5,
        iou_threshold: float = 0.5,
        min_score: float = 0.001,
        merge_exponent: float | None = None,
        max_detections: int = 100,
        center: CenterCheck | None = None,
    ) -> None:
        check_settings(soft_nms_method, sigma, merge_exponent)
        room = max_detections if max_detections > self.enough_for else 0
        self.decoding = {
            "top_k": max(top_k, room),
            "nms_kernel": nms_kernel,
            "max_detections": max(max_pairs, room),
            "center": center,
        }
        self.soft_nms = {
            "method": soft_nms_method,
            "sigma": sigma,
            "iou_threshold": iou_threshold,
            "min_score": min_score,
        }
        self.merge_exponent = merge_exponent
        self.max_detections = None if max_detections < 0 else max_detections

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        test = cfg.MODEL.CORNERNET.TEST
        return {
            "top_k": test.TOP_K,
            "nms_kernel": test.NMS_KERNEL,
            "max_pairs": test.MAX_PAIRS,
            "soft_nms_method": test.SOFT_NMS.METHOD,
            "sigma": test.SOFT_NMS.SIGMA,
            "iou_threshold": test.SOFT_NMS.IOU_THRESHOLD,
            "min_score": test.SOFT_NMS.MIN_SCORE,
            "merge_exponent": test.MERGE.EXPONENT if test.MERGE.ENABLED else None,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "center": CenterCheck.from_config(cfg),
        }

    @torch.no_grad()
    def __call__(
        self,
        model: nn.Module,
        images: Sequence[Tensor],
        output_sizes: Sequence[Size] | None = None,
    ) -> list[Instances]:
        """Detect objects.

        Args:
            model: a :class:`.cornernet.CornerNet` in eval mode.
            images: N tensors (3, height, width) in 0..255, channels as the model's
                ``INPUT.FORMAT``; uint8 or float, of any sizes.
            output_sizes: (height, width) of what boxes are given in the pixels of; None: the
                images as given.

        Returns:
            N Instances: pred_boxes, scores, pred_classes.
        """
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        return self.select(self.candidates(model, images), sizes, output_sizes)

    @property
    def one_view(self) -> "CornerInference":
        """What is done with one view of an image: this, unless views are around it."""
        return self

    @torch.no_grad()
    def detect(
        self,
        maps: CornerMaps,
        canvas: Canvas,
        pairing: Pairing,
        output_sizes: Sequence[Size] | None = None,
    ) -> list[Instances]:
        """Detect in the maps of the canvas's images; returns what :meth:`__call__` does."""
        pairs = self.to_image(self.decode(maps, canvas, pairing), canvas)
        numbers = torch.arange(len(pairs.classes), device=pairs.classes.device)
        return self.select(Candidates.of(pairs, numbers), canvas.image_sizes, output_sizes)

    def candidates(
        self, model: nn.Module, images: Sequence[Tensor], mirrored: Sequence[bool] = ()
    ) -> Candidates:
        """Pairs of corners in images, some of which the network sees mirrored.

        Images of equal canvases go through the network together: an image's result does not depend
        on the others.

        Args:
            model, images: as in :meth:`__call__`.
            mirrored: N; empty: none.
        """
        mirrored = mirrored or [False] * len(images)
        together: dict[Size, list[int]] = {}
        for i, image in enumerate(images):
            together.setdefault(model.canvas([image.shape[-2:]]).size, []).append(i)
        parts = []
        for members in together.values():
            inputs = [{"image": images[i]} for i in members]
            pixels, canvas = model.preprocess_image(inputs, [mirrored[i] for i in members])
            pairs = self.decode(model.last_maps(pixels), canvas, model.pairing)
            pairs = self.to_image(pairs, canvas)
            numbers = torch.tensor(members).to(pairs.classes.device, non_blocking=True)
            parts.append(Candidates.of(pairs, numbers))
        if len(parts) == 1:
            return parts[0]
        return Candidates(*(torch.cat(field) for field in zip(*parts)))

    def decode(self, maps: CornerMaps, canvas: Canvas, pairing: Pairing) -> Pairs:
        """Maps to pairs, boxes in map pixels: of corners in the images alone."""
        inside = canvas.inside(maps["tl"]["heatmap"].device)
        return self.decode_corners(maps, canvas, pairing, inside=inside)

    def decode_corners(
        self, maps: CornerMaps, canvas: Canvas, pairing: Pairing, **rules: Any
    ) -> Pairs:
        """:func:`.decode.decode_corners` with this inference's settings, and ``rules``."""
        cell_size = [1 / cells for cells in canvas.cells_per_pixel]
        rules = {**self.decoding, **rules}
        return decode_corners(maps, **rules, pairing=pairing, cell_size=cell_size)

    def to_image(self, pairs: Pairs, canvas: Canvas) -> Pairs:
        """Boxes to pixels of the images, clipped; what has no area then is rejected."""
        boxes = canvas.to_image(pairs.boxes)
        has_area = (boxes[..., 2:] > boxes[..., :2]).all(-1)
        return pairs._replace(boxes=boxes, scores=torch.where(has_area, pairs.scores, REJECTED))

    def resize(self, image: Tensor, size: Size, device: torch.device) -> Tensor:
        """An image (3, h, w) of another size (height, width): bilinear, antialiased, float32."""
        image = image.to(device, non_blocking=True)
        if tuple(image.shape[-2:]) == tuple(size):
            return image
        return F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]

    def of_scale(self, candidates: Candidates, scale: float | None) -> Candidates:
        """What is kept of the candidates of a view; ``scale`` as in :meth:`factor`."""
        return candidates

    def factor(self, given: Size, resized: Size, scale: float | None) -> tuple[float, float]:
        """(y, x), what boxes in a resized image are divided by.

        Args:
            given, resized: (height, width) of the image.
            scale: what was asked for; None: a size was.
        """
        return resized[0] / given[0], resized[1] / given[1]

    def suppress(self, candidates: Candidates) -> Candidates:
        """Soft-NMS, or merging, and the best of each image: image after image, best first."""
        boxes, scores, corner_scores, classes, images = candidates
        merging = {} if self.merge_exponent is None else {"corner_scores": corner_scores}
        keep, scores, *merged = batched_soft_nms(
            boxes,
            scores,
            classes,
            **self.soft_nms,
            images=images,
            **merging,
            exponent=self.merge_exponent,
            max_detections=self.max_detections,
        )
        kept = candidates.take(keep)._replace(scores=scores)
        return kept._replace(boxes=merged[0]) if merged else kept

    def select(
        self,
        candidates: Candidates,
        image_sizes: Sequence[Size],
        output_sizes: Sequence[Size] | None = None,
    ) -> list[Instances]:
        """Soft-NMS, the best of each image, and Instances.

        Args:
            candidates: in the order that decides among equal scores.
            image_sizes: (height, width) of the N images, pixels.
            output_sizes: see :meth:`__call__`.
        """
        found = self.suppress(candidates)
        if output_sizes is None:
            return _instances(found, image_sizes)
        return _instances(self.to_output(found, image_sizes, output_sizes), output_sizes)

    def to_output(
        self, found: Candidates, image_sizes: Sequence[Size], output_sizes: Sequence[Size]
    ) -> Candidates:
        """Boxes to other pixels, as Detectron2's ``detector_postprocess``, for all images at once.

        They are clipped; what has no area then is of no image: its number is N.
        """
        numbers = [
            (width / w, height / h) * 2 + (width, height) * 2
            for (h, w), (height, width) in zip(image_sizes, output_sizes)
        ]
        numbers = torch.tensor(numbers, dtype=torch.float32)
        numbers = numbers.to(found.boxes.device, non_blocking=True)[found.images]
        boxes = found.boxes * numbers[:, :4]
        if not self.clips_end:
            return found._replace(boxes=boxes)
        boxes = torch.minimum(boxes.clamp(min=0), numbers[:, 4:])
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
        images = torch.where(has_area, found.images, len(image_sizes))
        return found._replace(boxes=boxes, images=images)


def _instances(found: Candidates, sizes: Sequence[Size]) -> list[Instances]:
    """Instances of N images of these sizes; their order within an image stays."""
    found = found.take(found.images.sort(stable=True).indices)
    every = torch.arange(len(sizes), device=found.images.device)
    counts = (found.images == every[:, None]).sum(1).tolist()  # the final look at the device
    rest = len(found.images) - sum(counts)
    boxes, scores, _, classes, _ = (field.split([*counts, rest]) for field in found)
    results = []
    for i, size in enumerate(sizes):
        result = Instances(size)
        result.pred_boxes, result.scores = Boxes(boxes[i]), scores[i]
        result.pred_classes = classes[i]
        results.append(result)
    return results


@INFERENCE_REGISTRY.register()
def default(cfg: CfgNode) -> CornerInference:
    """What this project holds to be right: no corners outside the image, no boxes without area."""
    return CornerInference(cfg)
