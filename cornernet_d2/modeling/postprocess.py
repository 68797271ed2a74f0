"""The test pipeline: images -> canvas, scales and mirror images -> decode -> soft-NMS -> Instances.

``CornerInference(convention=...)`` chooses between three sets of rules:

==================  =====================  ========================  =======================
step                default                official                  mmdet
==================  =====================  ========================  =======================
decode              boxes without area     kept                      corners moved into the
                    rejected                                         image first, then boxes
                                                                     without area rejected
scale != 1          antialiased, on the    OpenCV bilinear, 8 bit    as official
                    image's device
back to the image   by the true ratio of   by the nominal scale      by the true ratio
                    sizes
clip to the image   yes                    yes                       left and top only
soft-NMS            soft_nms               soft_nms_official         soft_nms
best K per image    exactly K, best        all that reach the K-th   exactly K, best
                    first                  score, class by class     first
==================  =====================  ========================  =======================

The authors' rules are those of their ``test/coco.py`` and ``external/nms.pyx``, without the
rounding to two decimals in which they write results to file. All conventions mirror boxes at the
width of the view, ``x -> width - x``; the authors train with ``width - 1 - x``, so that theirs
come back one pixel to the right. The padding is the model's, a setting of its own.

Letters: N images, K pairs per image, M candidates of all images; boxes are ``x0 y0 x1 y1``.
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import torch
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances
from torch import Tensor

from .canvas import Preprocessor, Size, network_views, resize
from .decode import REJECTED, decode_corners
from .soft_nms import batched_soft_nms, batched_soft_nms_merge, check_settings
from .soft_nms_official import official_soft_nms

CONVENTIONS = ("default", "official", "mmdet")

Maps = dict[str, dict[str, Tensor]]
Decoded = tuple[Tensor, Tensor, Tensor, Tensor]  # as decode_corners returns


class CornerModel(Preprocessor, Protocol):
    """What the pipeline needs of a model: its padding, its preprocessing and its best maps."""

    def best_maps(self, images: Tensor) -> Maps:
        """Normalised (V, 3, H, W) -> what :func:`decode_corners` takes."""


class Candidates(NamedTuple):
    """Boxes before soft-NMS, of all images, scales and mirror images together.

    Attributes:
        boxes: (M, 4) float32, pixels of the image as given.
        scores: (M,) float32.
        corner_scores: (M, 2) float32, of the top-left and bottom-right corners.
        classes: (M,) int64.
        images: (M,) int64, which image of the batch.
    """

    boxes: Tensor
    scores: Tensor
    corner_scores: Tensor
    classes: Tensor
    images: Tensor


class CornerInference:
    """Detects objects in images with a model that predicts corner maps.

    Args:
        top_k, nms_kernel, embedding_threshold: see :func:`decode_corners`.
        max_pairs: K, pairs kept of each image, scale and mirror image.
        convention: "default", "official" or "mmdet"; see the table of the module.
        scales: factors of the image size that are evaluated, each above 0.
        flip: also evaluate the mirror images.
        soft_nms_method, sigma, iou_threshold, min_score: see :func:`batched_soft_nms`.
        merge_exponent: merge boxes, see :func:`batched_soft_nms_merge`; None: do not.
        max_detections: detections kept per image.

    Raises:
        ValueError: an unknown convention or method, or a scale, sigma or exponent not above 0.
    """

    def __init__(
        self,
        *,
        top_k: int = 100,
        nms_kernel: int = 3,
        embedding_threshold: float = 0.5,
        max_pairs: int = 1000,
        convention: str = "default",
        scales: tuple[float, ...] = (1.0,),
        flip: bool = False,
        soft_nms_method: str = "gaussian",
        sigma: float = 0.5,
        iou_threshold: float = 0.5,
        min_score: float = 0.001,
        merge_exponent: float | None = None,
        max_detections: int = 100,
    ) -> None:
        if convention not in CONVENTIONS:
            raise ValueError(f"convention must be one of {CONVENTIONS}, got {convention!r}")
        if not scales or not all(scale > 0 for scale in scales):
            raise ValueError(f"scales must be one or more numbers above 0, got {scales}")
        check_settings(soft_nms_method, sigma, merge_exponent)
        self.top_k, self.nms_kernel = top_k, nms_kernel
        self.embedding_threshold, self.max_pairs = embedding_threshold, max_pairs
        self.convention, self.scales, self.flip = convention, tuple(scales), flip
        self.soft_nms = {
            "method": soft_nms_method,
            "sigma": sigma,
            "iou_threshold": iou_threshold,
            "min_score": min_score,
        }
        self.merge_exponent, self.max_detections = merge_exponent, max_detections

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "CornerInference":
        """Built from ``MODEL.CORNERNET.TEST`` and ``TEST.DETECTIONS_PER_IMAGE``."""
        test = cfg.MODEL.CORNERNET.TEST
        return cls(
            top_k=test.TOP_K,
            nms_kernel=test.NMS_KERNEL,
            embedding_threshold=test.EMBEDDING_THRESHOLD,
            max_pairs=test.MAX_PAIRS,
            convention=test.CONVENTION,
            scales=test.SCALES,
            flip=test.FLIP,
            soft_nms_method=test.SOFT_NMS.METHOD,
            sigma=test.SOFT_NMS.SIGMA,
            iou_threshold=test.SOFT_NMS.IOU_THRESHOLD,
            min_score=test.SOFT_NMS.MIN_SCORE,
            merge_exponent=test.MERGE.EXPONENT if test.MERGE.ENABLED else None,
            max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
        )

    @torch.no_grad()
    def __call__(self, model: CornerModel, images: list[Tensor]) -> list[Instances]:
        """Detect objects.

        Args:
            model: in eval mode.
            images: N tensors (3, H, W) in 0..255, channels as the model's ``INPUT.FORMAT``, on its
                device; uint8 or float, of any sizes.

        Returns:
            N Instances in pixels of the images as given: pred_boxes, scores, pred_classes.
        """
        parts = [part for scale in self.scales for part in self._at_scale(model, images, scale)]
        candidates = Candidates(*(torch.cat(field) for field in zip(*parts)))
        # By image, and within an image in the order of scales, mirror images last.
        order = candidates.images.argsort(stable=True)
        candidates = Candidates(*(field[order] for field in candidates))
        return self.select(candidates, [tuple(image.shape[-2:]) for image in images])

    def decode(self, maps: Maps, origin: Tensor) -> Decoded:
        """Maps to boxes in map pixels; ``origin`` as in :func:`decode_corners`."""
        return decode_corners(
            maps,
            self.top_k,
            self.nms_kernel,
            self.embedding_threshold,
            self.max_pairs,
            origin=origin if self.convention == "mmdet" else None,
            keep_empty=self.convention == "official",
        )

    def select(self, candidates: Candidates, image_sizes: list[Size]) -> list[Instances]:
        """Soft-NMS, or merging, and the best ``max_detections`` of each image.

        Args:
            candidates: in the order that decides among equal scores.
            image_sizes: (height, width) of the N images, pixels.

        Returns:
            N Instances: pred_boxes, scores, pred_classes; in the order of the module's table.
        """
        boxes, scores, corner_scores, classes, images = candidates
        stride = int(classes.max()) + 1 if len(classes) else 1
        groups = images * stride + classes
        if self.convention == "official":
            rows = official_soft_nms(
                boxes,
                scores,
                corner_scores,
                groups,
                **self.soft_nms,
                merge_exponent=self.merge_exponent,
            )
            boxes, scores, groups = rows.boxes, rows.scores, rows.classes
        elif self.merge_exponent is not None:
            keep, scores, boxes = batched_soft_nms_merge(
                boxes, scores, corner_scores, groups, **self.soft_nms, exponent=self.merge_exponent
            )
            groups = groups[keep]
        else:
            keep, scores = batched_soft_nms(boxes, scores, groups, **self.soft_nms)
            boxes, groups = boxes[keep], groups[keep]
        results = []
        for image, size in enumerate(image_sizes):
            mine = (groups // stride == image).nonzero().squeeze(1)
            if len(mine) > self.max_detections:
                if self.convention == "official":
                    least = scores[mine].topk(self.max_detections).values[-1]
                    mine = mine[scores[mine] >= least]
                else:
                    mine = mine[: self.max_detections]
            result = Instances(size)
            result.pred_boxes = Boxes(boxes[mine])
            result.scores = scores[mine]
            result.pred_classes = groups[mine] % stride
            results.append(result)
        return results

    def _at_scale(
        self, model: CornerModel, images: list[Tensor], scale: float
    ) -> Iterator[Candidates]:
        """Candidates of all images at one scale, one batch of the network after the other."""
        given = [(image.shape[-2], image.shape[-1]) for image in images]
        sizes = [(max(1, int(h * scale)), max(1, int(w * scale))) for h, w in given]
        scaled = [resize(*pair, self.convention != "default") for pair in zip(images, sizes)]
        factors = [(new[0] / old[0], new[1] / old[1]) for new, old in zip(sizes, given)]
        if self.convention == "official":
            factors = [(scale, scale)] * len(images)
        for views in network_views(model, scaled, factors, self.flip):
            maps = model.best_maps(views.pixels)
            map_size = maps["tl"]["heatmap"].shape[-2:]
            boxes, scores, classes, corners = self.decode(maps, views.origin(map_size))
            boxes = views.to_images(boxes, map_size, clip_end=self.convention != "mmdet")
            found = scores > REJECTED
            if self.convention == "default":
                found &= (boxes[..., 2:] > boxes[..., :2]).all(-1)
            images_of = views.images[:, None].expand_as(classes)
            fields = (boxes, scores, corners, classes, images_of)
            yield Candidates(*(field[found] for field in fields))
