"""The CornerNet meta-architecture: list of dicts in, losses or Instances out.

Letters: N images, C classes, H x W canvas (the padded image that the network sees, pixels),
h x w map pixels.
"""

import logging
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import Instances
from torch import Tensor, nn

from ..canvas import Canvas, Size
from ..hardware import prefers_channels_last
from ..targets import CornerTargetGenerator, CornerTargets
from . import monitoring
from .corner_head import CornerHead
from .criterion import CornerCriterion, build_criterion
from .inference import CornerInference
from .outputs import CornerMaps
from .pairing import EmbeddingPairing, Pairing, build_pairing
from .test_time_augmentation import InferenceWithTTA, build_inference
from .transfer import to_device

logger = logging.getLogger(__name__)


@META_ARCH_REGISTRY.register()
class CornerNet(nn.Module):
    """Objects as pairs of corners (Law & Deng, ECCV 2018).

    Takes what Detectron2's mappers make. In training the dicts may carry "corner_targets" of
    :class:`CornerNetDatasetMapper`; without, targets are made here from "instances".

    Args:
        backbone: gives feature maps of one stride; the last in ``in_features`` is the best.
        num_classes: C.
        criterion: the losses.
        target_generator: makes targets where the mapper made none that fit. With its ``center``
            the head predicts centres, too.
        pairing: what the head predicts besides heat maps and offsets, its losses, and which corners
            belong together.
        inference: decoding and soft-NMS, and around them test-time augmentation if there is any.
        pixel_mean, pixel_std: per channel, in ``input_format``'s order, 0..255 scale.
        padding: how images are placed on the canvas; see ``MODEL.CORNERNET.PADDING``.
        in_features: names of the backbone outputs that get a head each; empty: all of them.
        head_width, pool_width, norm, head_kernel: see :class:`CornerHead`.
        cascade: cascade corner pooling in the head.
        recompute_head: recompute the head's activations in the backward pass.
        channels_last: keep weights and activations in that memory format.
        input_format: "BGR" or "RGB"; for pictures in TensorBoard alone.
        vis_period: iterations between pictures in TensorBoard; 0 for none.
        vis_dataset: a registered dataset whose class names they show; empty: numbers.

    Raises:
        ValueError: an unknown feature, or features of another stride than the targets'.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        criterion: CornerCriterion,
        target_generator: CornerTargetGenerator,
        inference: CornerInference | InferenceWithTTA,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        pairing: Pairing = EmbeddingPairing(),
        padding: str = "bottom_right",
        in_features: Sequence[str] = (),
        head_width: int = 256,
        pool_width: int = 128,
        norm: str = "BN",
        head_kernel: int = 3,
        cascade: bool = False,
        recompute_head: bool = False,
        channels_last: bool = False,
        input_format: str = "BGR",
        vis_period: int = 0,
        vis_dataset: str = "",
    ):
        super().__init__()
        shapes = backbone.output_shape()
        self.in_features = list(in_features) or list(shapes)
        stride = _common_stride(self.in_features, shapes)
        if stride != target_generator.stride:
            raise ValueError(
                f"the features have stride {stride}, target_generator {target_generator.stride}"
            )
        self.backbone = backbone
        settings = num_classes, head_width, pool_width, norm, recompute_head, pairing, head_kernel
        branches = {"center": target_generator.center, "cascade": cascade}
        self.head = nn.ModuleList(
            CornerHead(shapes[name].channels, *settings, **branches) for name in self.in_features
        )
        self.pairing, self.criterion = pairing, criterion
        self.target_generator, self.corner_inference = target_generator, inference
        self.padding, self.input_format = padding, input_format
        self.vis_period, self.vis_dataset = vis_period, vis_dataset
        self.register_buffer("pixel_mean", _per_channel(pixel_mean), False)
        self.register_buffer("pixel_std", _per_channel(pixel_std), False)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)
        # Set by a trainer that accumulates gradients over several batches: what
        # :meth:`count_targets` gives for all of them together.
        self.loss_counts: Tensor | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        settings = cfg.MODEL.CORNERNET
        in_features = settings.IN_FEATURES or list(shapes)
        return {
            "backbone": backbone,
            "num_classes": settings.NUM_CLASSES,
            "criterion": build_criterion(cfg),
            "target_generator": CornerTargetGenerator.from_config(
                cfg, stride=_common_stride(in_features, shapes)
            ),
            "inference": build_inference(cfg),
            "pairing": build_pairing(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "padding": settings.PADDING,
            "in_features": in_features,
            "head_width": settings.HEAD_WIDTH,
            "pool_width": settings.POOL_WIDTH,
            "norm": settings.NORM,
            "head_kernel": settings.HEAD_KERNEL,
            "cascade": settings.CASCADE_POOLING,
            "recompute_head": cfg.MODEL.HOURGLASS.RECOMPUTE != "none",
            "channels_last": _channels_last(cfg),
            "input_format": cfg.INPUT.FORMAT,
            "vis_period": cfg.VIS_PERIOD,
            "vis_dataset": next(iter(cfg.DATASETS.TRAIN), ""),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def compile_parts(self) -> None:
        """torch.compile backbone and heads in place: weights keep their names, losses stay eager.

        Raises:
            ValueError: the model recomputes activations, which Dynamo cannot trace.
        """
        if any(getattr(module, "recompute", False) for module in self.modules()):
            raise ValueError(
                "SOLVER.COMPILE does not go with MODEL.HOURGLASS.RECOMPUTE: set RECOMPUTE to "
                '"none", as the compiler decides itself what to recompute, or turn COMPILE off'
            )
        self.backbone.compile()
        for head in self.head:
            head.compile()

    def forward(self, batched_inputs: list[dict]) -> object:
        """
        Args:
            batched_inputs: N dicts as Detectron2 defines them: "image" (3, H, W) in 0..255,
                "height" and "width" of the output, and in training "instances" with gt_boxes
                (xyxy, pixels of "image") and gt_classes, or "corner_targets".

        Returns:
            in training loss_heatmap, loss_offset, the pairing's losses (loss_pull and loss_push of
            embeddings) and those of a centre branch, to be summed; else N dicts with "instances":
            pred_boxes (xyxy, output pixels), scores, pred_classes.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images, canvas = self.preprocess_image(batched_inputs)
        targets = self.corner_targets(batched_inputs, canvas)
        batch = self.criterion.prepare(targets, self.device, self.loss_counts)
        stacks = self.corner_maps(images)
        losses = self.criterion(stacks, batch, self.pairing)
        monitoring.log_batch(stacks[-1], batch, self.pairing)
        monitoring.log_picture(self, batched_inputs[0], stacks[-1], targets[0])
        return losses

    def corner_maps(self, images: Tensor) -> list[CornerMaps]:
        """Normalised images (N, 3, H, W) -> maps of every stack; see :class:`CornerHead`."""
        features = self.backbone(images.contiguous(memory_format=self.memory_format))
        return [head(features[name]) for head, name in zip(self.head, self.in_features)]

    def last_maps(self, images: Tensor) -> CornerMaps:
        """The maps of the last stack alone, as inference needs them."""
        features = self.backbone(images.contiguous(memory_format=self.memory_format))
        return self.head[-1](features[self.in_features[-1]])

    def inference(self, batched_inputs: list[dict], do_postprocess: bool = True) -> list:
        """Detect objects; without ``do_postprocess``, Instances in pixels of "image"."""
        images = [x["image"] for x in batched_inputs]
        if not do_postprocess:
            return self.corner_inference(self, images)
        sizes = [
            (x.get("height", image.shape[-2]), x.get("width", image.shape[-1]))
            for x, image in zip(batched_inputs, images)
        ]
        results: list[Instances] = self.corner_inference(self, images, sizes)
        return [{"instances": result} for result in results]

    @property
    def divisibility(self) -> int:
        """What canvas sides are multiples of (or one short of), pixels."""
        # Of newer Detectron2's ViT, which has no other place for it, and spells it so.
        constraints = getattr(self.backbone, "padding_constraints", {})
        least = constraints.get("size_divisiblity", 0)
        return max(self.backbone.size_divisibility, least, self.target_generator.stride)

    def canvas(self, sizes: Sequence[Size], mirrored: Sequence[bool] = ()) -> Canvas:
        """The canvas of images of these sizes (height, width); see :meth:`.Canvas.fit`."""
        return Canvas.fit(
            sizes,
            self.divisibility,
            self.target_generator.stride,
            self.padding,
            mirrored=mirrored,
            training=self.training,
        )

    def preprocess_image(
        self, batched_inputs: list[dict], mirrored: Sequence[bool] = ()
    ) -> tuple[Tensor, Canvas]:
        """Normalised images on one canvas (N, 3, H, W), and the canvas."""
        images = to_device([x["image"] for x in batched_inputs], self.device)
        canvas = self.canvas([image.shape[-2:] for image in images], mirrored)
        return canvas.paste(images, self.pixel_mean, self.pixel_std), canvas

    def count_targets(self, batched_inputs: list[dict]) -> Tensor:
        """:meth:`.CornerCriterion.count` of a batch, to add up for ``loss_counts``."""
        canvas = self.canvas([x["image"].shape[-2:] for x in batched_inputs])
        return self.criterion.count(self.corner_targets(batched_inputs, canvas))

    def corner_targets(self, batched_inputs: list[dict], canvas: Canvas) -> list[CornerTargets]:
        """Targets on the canvas: the mapper's where they fit, else made from "instances"."""
        targets = []
        for i, x in enumerate(batched_inputs):
            ready = x.get("corner_targets")
            if ready is not None:
                ready = ready.fitted(self.target_generator, canvas, i)
            if ready is None and "instances" not in x:
                raise ValueError(
                    "training needs 'instances' (or 'corner_targets' that fit the canvas) in "
                    f"every dict; the one of {x.get('file_name', 'an image')} has {sorted(x)}"
                )
            if ready is None:
                truth = [x[name].to("cpu") for name in ("instances", "ignored") if name in x]
                parts = [p for each in truth for p in (each.gt_boxes.tensor, each.gt_classes)]
                ready = self.target_generator.on_canvas(canvas, i, *parts)
            targets.append(ready)
        return targets


def _channels_last(cfg: CfgNode) -> bool:
    """MODEL.CORNERNET.CHANNELS_LAST, or what the machine prefers."""
    if cfg.MODEL.CORNERNET.CHANNELS_LAST is not None:
        return cfg.MODEL.CORNERNET.CHANNELS_LAST
    amp = cfg.SOLVER.AMP
    half = amp.ENABLED and amp.PRECISION != "float32"
    chosen, reason = prefers_channels_last(cfg.MODEL.DEVICE, half)
    logger.info("Memory format %s: %s", "channels_last" if chosen else "contiguous", reason)
    return chosen


def _per_channel(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)


def _common_stride(names: Sequence[str], shapes: dict[str, ShapeSpec]) -> int:
    """Pixels per cell of the named features; ValueError if there is none or more than one."""
    unknown = [name for name in names if name not in shapes]
    if unknown:
        raise ValueError(
            f"MODEL.CORNERNET.IN_FEATURES names {unknown}; the backbone has {list(shapes)}"
        )
    strides = {name: shapes[name].stride for name in names}
    if len(set(strides.values())) != 1:
        raise ValueError(
            f"the features {strides} differ in stride: MODEL.CORNERNET.IN_FEATURES must name "
            "features of one stride"
        )
    return strides[names[-1]]
