"""Dataset dict -> what the model trains on: augmented image, instances and corner targets."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.modeling import build_backbone
from detectron2.structures import Boxes, Instances

from ..targets import CornerTargetGenerator, canvas_size
from .augmentation import ColorJitter, Lighting, RandomPixelFlip, RandomScaleCrop
from .reading import read_image
from .validation import annotation_problems, boxes_xyxy

CROWD_MODES = ("ignore", "positive", "drop")


class CornerNetDatasetMapper(DatasetMapper):
    """Detectron2's mapper with the paper's augmentations, ignore regions and corner targets.

    In training the output dict has, besides what Detectron2's has,

    * "image": (3, H, W) in 0..255, in ``INPUT.FORMAT``: uint8, or float16 after a colour
      augmentation, whose result is not clipped and would take twice the bytes as float32;
    * "ignored": Instances (gt_boxes, gt_classes) that are neither positive nor negative, if any;
    * "corner_targets": :class:`~cornernet_d2.targets.CornerTargets` on the canvas that the model
      will pad the image to.

    In inference it is Detectron2's: the image, resized by ``INPUT.MIN_SIZE_TEST`` unless 0.

    Args:
        is_train: training or inference.
        target_generator: None leaves the targets to the model.
        size_divisibility: of the backbone, pixels.
        padding: how the model pads; see :func:`~cornernet_d2.targets.canvas_size`.
        crowd: what boxes marked "iscrowd" or "ignore" are: "ignore", "positive" or "drop".
        min_visible: objects of which less than this part of the area is left in the image are
            ignored.
        kwargs: of ``DatasetMapper``.

    Raises:
        ValueError: an unknown ``crowd``; when called, an image or annotation that cannot be
            trained on, named with its fix.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        target_generator: CornerTargetGenerator | None = None,
        size_divisibility: int = 128,
        padding: str = "bottom_right",
        crowd: str = "ignore",
        min_visible: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(is_train, **kwargs)
        if crowd not in CROWD_MODES:
            raise ValueError(f"INPUT.CORNERNET.CROWD must be one of {CROWD_MODES}, got {crowd!r}")
        self.target_generator = target_generator
        self.size_divisibility = size_divisibility
        self.padding = padding
        self.crowd = crowd
        self.min_visible = min_visible

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        arguments = super().from_config(cfg, is_train)
        if not is_train:
            return arguments
        # Only the backbone knows its stride and divisibility; on "meta" it takes no memory.
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        head, targets = cfg.MODEL.CORNERNET, cfg.MODEL.CORNERNET.TARGETS
        stride = shapes[(head.IN_FEATURES or list(shapes))[-1]].stride
        return {
            **arguments,
            "augmentations": train_augmentations(cfg, arguments["augmentations"]),
            "target_generator": CornerTargetGenerator(
                head.NUM_CLASSES,
                stride=stride,
                min_overlap=targets.MIN_OVERLAP,
                formula=targets.RADIUS_FORMULA,
                fixed_radius=targets.FIXED_RADIUS,
                gaussian=targets.GAUSSIAN,
            ),
            "size_divisibility": max(backbone.size_divisibility, stride),
            "padding": head.PADDING,
            "crowd": cfg.INPUT.CORNERNET.CROWD,
            "min_visible": cfg.INPUT.CORNERNET.CROP.MIN_VISIBLE,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        # Detectron2's deepcopy of every polygon takes longer than the augmentation.
        dataset_dict = dict(dataset_dict)
        annotations = dataset_dict.pop("annotations", None)
        image = read_image(dataset_dict, self.image_format)
        dataset_dict.setdefault("height", image.shape[0])
        dataset_dict.setdefault("width", image.shape[1])

        aug_input = T.AugInput(image)
        transforms = self.augmentations(aug_input)
        pixels = np.ascontiguousarray(aug_input.image.transpose(2, 0, 1))
        image = torch.from_numpy(pixels)
        dataset_dict["image"] = image.half() if image.is_floating_point() else image
        if self.is_train:
            dataset_dict["annotations"] = annotations
            self._transform_annotations(dataset_dict, transforms, pixels.shape[1:])
        return dataset_dict

    def _transform_annotations(
        self, dataset_dict: dict, transforms: T.TransformList, image_shape: Sequence[int]
    ) -> None:
        """Replace "annotations" by "instances", "ignored" and "corner_targets"."""
        faults = annotation_problems(dataset_dict, self.target_generator.num_classes)
        fatal = [str(fault) for fault in faults if fault.fatal]
        if fatal:
            raise ValueError("\n".join(fatal))
        annotations = dataset_dict.pop("annotations")
        height, width = image_shape
        boxes = transforms.apply_box(boxes_xyxy(annotations))
        visible = boxes.clip(0, [width, height, width, height])
        ignored = _area(visible) < self.min_visible * _area(boxes)
        marked = np.array([bool(o.get("iscrowd") or o.get("ignore")) for o in annotations], bool)
        if self.crowd == "ignore":
            ignored |= marked
        kept = ~ignored & ~marked if self.crowd == "drop" else ~ignored

        dataset_dict["annotations"] = [
            {**obj, "iscrowd": 0} for obj, keep in zip(annotations, kept) if keep
        ]
        super()._transform_annotations(dataset_dict, transforms, image_shape)
        if ignored.any():
            regions = Instances(tuple(image_shape), gt_boxes=Boxes(visible[ignored]))
            ids = [obj["category_id"] for obj, hide in zip(annotations, ignored) if hide]
            regions.gt_classes = torch.tensor(ids, dtype=torch.int64)
            dataset_dict["ignored"] = regions
        self._add_targets(dataset_dict, image_shape)

    def _add_targets(self, dataset_dict: dict, image_shape: Sequence[int]) -> None:
        canvas, (top, left) = canvas_size(image_shape, self.size_divisibility, self.padding)
        shift = torch.tensor([left, top, left, top])
        arguments = []
        for name in ("instances", "ignored"):
            if name in dataset_dict:
                found = dataset_dict[name]
                arguments.append((found.gt_boxes.tensor + shift, found.gt_classes))
        dataset_dict["corner_targets"] = self.target_generator(
            *arguments[0], canvas, *(arguments[1] if len(arguments) > 1 else ())
        )


def train_augmentations(
    cfg: CfgNode, augmentations: Sequence[T.Augmentation]
) -> list[T.Augmentation]:
    """Detectron2's training augmentations with those of ``INPUT.CORNERNET`` put in.

    The scale crop takes the place of the resizing, the pixel flip that of the flip; colours come
    last.
    """
    settings, image_format = cfg.INPUT.CORNERNET, cfg.INPUT.FORMAT
    crop = settings.CROP
    fills = {"black": 0, "mean": list(cfg.MODEL.PIXEL_MEAN)}
    if crop.FILL not in fills:
        raise ValueError(
            f"INPUT.CORNERNET.CROP.FILL must be one of {list(fills)}, got {crop.FILL!r}"
        )
    result = []
    for augmentation in augmentations:
        if crop.ENABLED and isinstance(augmentation, T.ResizeShortestEdge):
            augmentation = RandomScaleCrop(crop.SIZE, crop.SCALES, crop.BORDER, fills[crop.FILL])
        elif (
            settings.PIXEL_FLIP
            and isinstance(augmentation, T.RandomFlip)
            and augmentation.horizontal
        ):
            augmentation = RandomPixelFlip(augmentation.prob)
        result.append(augmentation)
    if settings.COLOR_JITTER > 0:
        result.append(ColorJitter(settings.COLOR_JITTER, image_format))
    if settings.LIGHTING > 0:
        result.append(Lighting(settings.LIGHTING, image_format))
    return result


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
