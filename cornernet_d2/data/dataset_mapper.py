"""Dataset dict -> what the model trains on: augmented image, instances and corner targets."""

from collections.abc import Sequence

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import filter_empty_instances
from detectron2.modeling import build_backbone
from detectron2.structures import Boxes, Instances
from torch.utils.data import get_worker_info

from ..canvas import Canvas
from ..targets import CornerTargetGenerator
from .annotations import is_ignored
from .augmentation import RandomPixelFlip, RandomScaleCrop, contiguous
from .colors import ColorJitter, PhotometricDistortion
from .reading import read_image
from .validation import checked_boxes

CROWD_MODES = ("ignore", "positive", "drop")


class CornerNetDatasetMapper(DatasetMapper):
    """Detectron2's mapper with the paper's augmentations, ignore regions and corner targets.

    In training the output dict has the keys of the dataset dict without "annotations", and

    * "image": (3, H, W) in 0..255, in ``INPUT.FORMAT``: uint8, or after a colour augmentation,
      whose result is not clipped, float16 (float32 would double what workers hand over; only
      where the fill has to stay the mean exactly it is used all the same);
    * "instances": Instances with gt_boxes (xyxy, pixels of "image") and gt_classes;
    * "ignored": the same of boxes that are neither positive nor negative, if there are any;
    * "corner_targets": :class:`~cornernet_d2.targets.CornerTargets` on the canvas that the model
      pads the image to.

    In inference it is Detectron2's: the image, resized by ``INPUT.MIN_SIZE_TEST`` unless 0. Masks,
    keypoints and proposals are left out: a corner detector has no use for them.

    Args:
        is_train: training or inference.
        augmentations, image_format: as ``DatasetMapper`` takes them.
        target_generator: needed in training.
        size_divisibility: of the backbone, pixels.
        padding: how the model pads; see :class:`~cornernet_d2.canvas.Canvas`.
        crowd: what boxes marked "iscrowd" or "ignore" are: "ignore", "positive" or "drop".
        min_visible: objects of which less than this part of the area is left in the image are
            ignored.
        float_type: of images that an augmentation has made floating point.

    Raises:
        ValueError: an argument outside its range; when called, an image or annotation that cannot
            be trained on, named with its fix.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "BGR",
        target_generator: CornerTargetGenerator | None = None,
        size_divisibility: int = 128,
        padding: str = "bottom_right",
        crowd: str = "ignore",
        min_visible: float = 0.0,
        float_type: torch.dtype = torch.float16,
    ):
        super().__init__(is_train, augmentations=augmentations, image_format=image_format)
        if crowd not in CROWD_MODES:
            raise ValueError(f"INPUT.CORNERNET.CROWD must be one of {CROWD_MODES}, got {crowd!r}")
        if is_train and target_generator is None:
            raise ValueError("CornerNetDatasetMapper needs a target_generator in training")
        self.target_generator = target_generator
        self.size_divisibility = size_divisibility
        self.padding = padding
        self.crowd = crowd
        self.min_visible = min_visible
        self.float_type = float_type

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict:
        stock = super().from_config(cfg, is_train)
        arguments = {key: stock[key] for key in ("is_train", "augmentations", "image_format")}
        if not is_train:
            return arguments
        # Only the backbone knows its stride and divisibility; on "meta" it takes no memory.
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        head = cfg.MODEL.CORNERNET
        stride = shapes[(head.IN_FEATURES or list(shapes))[-1]].stride
        return {
            **arguments,
            "augmentations": train_augmentations(cfg, arguments["augmentations"]),
            "target_generator": CornerTargetGenerator.from_config(cfg, stride=stride),
            "size_divisibility": max(backbone.size_divisibility, stride),
            "padding": head.PADDING,
            "crowd": cfg.INPUT.CORNERNET.CROWD,
            "min_visible": cfg.INPUT.CORNERNET.CROP.MIN_VISIBLE,
            "float_type": torch.float32 if _fills_with_mean(cfg) else torch.float16,
        }

    def __call__(self, dataset_dict: dict) -> dict:
        # A shallow copy: Detectron2's deepcopy of every polygon takes longer than the crop.
        dataset_dict = dict(dataset_dict)
        image = read_image(dataset_dict, self.image_format)
        dataset_dict.setdefault("height", image.shape[0])
        dataset_dict.setdefault("width", image.shape[1])

        annotations, boxes = self._truth(dataset_dict) if self.is_train else ([], None)
        aug_input = T.AugInput(image, boxes=boxes)
        self.augmentations(aug_input)
        dataset_dict["image"] = _image_tensor(aug_input.image, self.float_type)
        if self.is_train:
            size = aug_input.image.shape[:2]
            self._add_truth(dataset_dict, annotations, aug_input.boxes, size)
        dataset_dict.pop("annotations", None)
        dataset_dict.pop("sem_seg_file_name", None)
        return dataset_dict

    def _truth(self, dataset_dict: dict) -> tuple[list[dict], np.ndarray]:
        """Annotations and their boxes (M, 4), without those that ``crowd`` drops."""
        boxes = checked_boxes(dataset_dict, self.target_generator.num_classes)
        annotations = dataset_dict["annotations"]
        if self.crowd != "drop":
            return annotations, boxes
        kept = [i for i, obj in enumerate(annotations) if not is_ignored(obj)]
        return [annotations[i] for i in kept], boxes[kept]

    def _add_truth(
        self,
        dataset_dict: dict,
        annotations: Sequence[dict],
        boxes: np.ndarray,
        image_shape: tuple[int, int],
    ) -> None:
        """Add "instances", "ignored" and "corner_targets" for boxes (M, 4), augmented."""
        height, width = image_shape
        visible = boxes.clip(0, [width, height, width, height])
        ignored = _area(visible) < self.min_visible * _area(boxes)
        if self.crowd == "ignore":
            ignored |= np.array([is_ignored(obj) for obj in annotations], bool)
        kept = ~ignored
        classes = np.array([obj["category_id"] for obj in annotations], np.int64)
        instances = _instances(visible[kept], classes[kept], image_shape)
        dataset_dict["instances"] = instances
        regions = ()
        if ignored.any():
            regions = _instances(visible[ignored], classes[ignored], image_shape)
            dataset_dict["ignored"] = regions
            regions = (regions.gt_boxes.tensor, regions.gt_classes)
        canvas = Canvas.fit(
            [image_shape], self.size_divisibility, self.target_generator.stride, self.padding
        )
        dataset_dict["corner_targets"] = self.target_generator.on_canvas(
            canvas, 0, instances.gt_boxes.tensor, instances.gt_classes, *regions
        )


def _image_tensor(image: np.ndarray, float_type: torch.dtype) -> torch.Tensor:
    """(3, H, W), contiguous as Detectron2's mapper has it, of (H, W, 3)."""
    # Detectron2's resizing returns read-only memory, which torch warns of.
    pixels = torch.from_numpy(np.require(contiguous(image), requirements="W"))
    dtype = float_type if pixels.is_floating_point() else pixels.dtype
    output = torch.empty((pixels.shape[2], *pixels.shape[:2]), dtype=dtype)
    if get_worker_info() is not None:
        output.share_memory_()  # the queue would copy it there
    return output.copy_(pixels.permute(2, 0, 1))


def _instances(boxes: np.ndarray, classes: np.ndarray, image_shape: tuple[int, int]) -> Instances:
    """Instances of the boxes that have an area."""
    instances = Instances(image_shape)
    instances.gt_boxes = Boxes(torch.from_numpy(boxes))
    instances.gt_classes = torch.from_numpy(classes)
    return filter_empty_instances(instances)


def train_augmentations(
    cfg: CfgNode, augmentations: Sequence[T.Augmentation]
) -> list[T.Augmentation]:
    """Detectron2's training augmentations with those of ``INPUT.CORNERNET`` put in.

    The scale crop takes the place of the resizing. Colours are changed after it, unless it fills
    with the mean, which is to stay the mean. Flips come last, as views until the image becomes a
    tensor.
    """
    settings, crop = cfg.INPUT.CORNERNET, cfg.INPUT.CORNERNET.CROP
    fills = {"black": 0, "mean": list(cfg.MODEL.PIXEL_MEAN)}
    if crop.FILL not in fills:
        raise ValueError(f"INPUT.CORNERNET.CROP.FILL must be one of {list(fills)}, got {crop.FILL}")
    moves, flips, colors = [], [], []
    for augmentation in augmentations:
        if isinstance(augmentation, T.RandomFlip):
            pixel = settings.PIXEL_FLIP and augmentation.horizontal
            flips.append(RandomPixelFlip(augmentation.prob) if pixel else augmentation)
        elif crop.ENABLED and isinstance(augmentation, T.ResizeShortestEdge):
            fill = fills[crop.FILL]
            options = (crop.SIZE, crop.SCALES, crop.BORDER, fill, crop.CENTER_INSIDE)
            moves.append(RandomScaleCrop(*options))
        else:
            moves.append(augmentation)
    if settings.COLOR_JITTER > 0 or settings.LIGHTING > 0:
        colors.append(ColorJitter(settings.COLOR_JITTER, settings.LIGHTING, cfg.INPUT.FORMAT))
    if settings.PHOTOMETRIC_DISTORTION:
        colors.append(PhotometricDistortion(cfg.INPUT.FORMAT))
    return (colors + moves if _fills_with_mean(cfg) else moves + colors) + flips


def _fills_with_mean(cfg: CfgNode) -> bool:
    return cfg.INPUT.CORNERNET.CROP.ENABLED and cfg.INPUT.CORNERNET.CROP.FILL == "mean"


def _area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
