"""The package's side of the comparisons, in one place: what changes here changes with its insides.

Letters: N images, C classes, K pairs, h, w map (cells).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from detectron2.modeling import build_model
from detectron2.structures import Instances
from torch import Tensor, nn

from cornernet_d2 import model_zoo
from cornernet_d2.canvas import Canvas
from cornernet_d2.compat.centernet import CenterNetInference, with_centers
from cornernet_d2.compat.official import OfficialInference, official_soft_nms
from cornernet_d2.heatmaps import Heatmaps, Planes
from cornernet_d2.modeling import CornerHead
from cornernet_d2.modeling.decode import REJECTED, Pairs, decode_corners, top_corners
from cornernet_d2.modeling.inference import Candidates
from cornernet_d2.modeling.pairing import CentripetalPairing, Pairing
from cornernet_d2.modeling.pairing.centripetal import guiding_shifts, log_half_sizes
from cornernet_d2.modeling.pool_blocks import PoolBlock
from cornernet_d2.modeling.soft_nms import batched_soft_nms
from cornernet_d2.modeling.target_batch import TargetBatch
from cornernet_d2.targets import CornerTargets, draw_heatmaps

__all__ = ["Pairs", "batched_soft_nms", "official_soft_nms", "top_corners"]

CORNERS = ("tl", "br")
Maps = Mapping[str, Mapping[str, Tensor]]
# The smallest network with the paper's stride and divisibility.
NETWORK = {
    "MODEL.DEVICE": "cpu",
    "MODEL.HOURGLASS.STACKS": 1,
    "MODEL.HOURGLASS.WIDTHS": [2] * 6,
    "MODEL.HOURGLASS.BLOCKS": [1] * 6,
    "MODEL.HOURGLASS.STEM_WIDTH": 2,
    "MODEL.HOURGLASS.OUT_CHANNELS": 2,
    "MODEL.CORNERNET.HEAD_WIDTH": 2,
    "MODEL.CORNERNET.POOL_WIDTH": 2,
}


def small_config(preset: str, settings: Mapping[str, Any] | None = None) -> Any:
    """A preset with the smallest network in it, for what does not depend on the network."""
    cfg = model_zoo.get_config(preset)
    changed = {**NETWORK, **(settings or {})}
    cfg.merge_from_list([item for pair in changed.items() for item in pair])
    return cfg


def small_model(preset: str, settings: Mapping[str, Any] | None = None) -> nn.Module:
    """In eval mode."""
    return build_model(small_config(preset, settings)).eval()


def maps_of(arrays: Mapping[str, np.ndarray], outputs: Mapping[str, str]) -> dict:
    """``tl_heat``, ``br_heat``, ... as our maps; ``outputs`` says how theirs are called here."""
    return {
        corner: {
            ours: torch.from_numpy(arrays[f"{corner}_{theirs}"])
            for theirs, ours in outputs.items()
            if f"{corner}_{theirs}" in arrays
        }
        for corner in CORNERS
    }


def decode(maps: Maps, **settings: Any) -> Pairs:
    """As the authors, who keep boxes without area."""
    return decode_corners(maps, **settings, keep_empty=True)


def canvas_of(size: Sequence[int], border: Sequence[float], num_images: int) -> Canvas:
    """Images that fill the canvas (H, W) between these top, bottom, left and right, pixels."""
    top, bottom, left, right = (int(side) for side in border)
    sizes, borders = [(bottom - top, right - left)] * num_images, [(top, left)] * num_images
    mirrored = (False,) * num_images
    return Canvas(tuple(size), 4, "center_mean", tuple(sizes), tuple(borders), mirrored)


def decode_on(model: nn.Module, maps: Maps, canvas: Canvas, **settings: Any) -> Pairs:
    """What the model's inference decodes, boxes in pixels of the images, before soft-NMS."""
    inference = without_views(model).corner_inference
    inference.decoding = settings
    return inference.to_image(inference.decode(maps, canvas, model.pairing), canvas)


def shift_targets(batch: TargetBatch) -> dict[str, list[Tensor]]:
    """What is to be regressed, by output: (M, 2) for each corner."""
    return {
        "offset": list(batch.offsets.unbind(1)),
        "shift": [log_half_sizes(batch)] * 2,
        "guiding_shift": guiding_shifts(batch),
    }


def guided_head(in_channels: int, num_classes: int) -> CornerHead:
    """With MMDetection's widths."""
    return CornerHead(in_channels, num_classes, pairing=CentripetalPairing(guided=True))


def pool_block(branch: str, channels: int) -> PoolBlock:
    """Of a head with cascade corner pooling and a branch for centres, with the authors' widths."""
    return getattr(CornerHead(channels, 1, center=True, cascade=True), branch).pool


def join(criterion: Any, targets: Sequence[CornerTargets]) -> TargetBatch:
    """Targets of N images as the criterion takes them."""
    return criterion.prepare(targets, torch.device("cpu"))


def dense_batch(
    heatmaps: Tensor, image_index: Tensor, cells: Tensor, offsets: Tensor
) -> TargetBatch:
    """From heat maps of two or three points that are drawn already, (N, Q, C, h, w)."""
    positives = (heatmaps == 1).sum(dim=(0, 2, 3, 4)).tolist()
    shape = (heatmaps.shape[0], heatmaps.shape[2])
    index = torch.arange(math.prod(shape))
    planes = Planes(index, tuple(index.tolist()), shape)
    return TargetBatch(
        heatmaps=Heatmaps(heatmaps.transpose(1, 2).flatten(0, 1), None, planes),
        image_index=image_index,
        cells=cells,
        offsets=offsets,
        counts=torch.tensor([len(image_index), *positives], dtype=torch.float64),  # official
        objects=tuple(image_index.bincount(minlength=len(heatmaps)).tolist()),
    )


def dense(batch: TargetBatch) -> Tensor:
    """(N, 2, C, h, w) heat maps."""
    return batch.heatmaps.dense()[0]


def draw(targets: Sequence[CornerTargets]) -> Tensor:
    """(N, 2, C, h, w) heat maps."""
    return draw_heatmaps(targets).dense()[0]


def dense_targets(targets: CornerTargets) -> Tensor:
    """(2, C, h, w) heat maps of one image."""
    return draw([targets])[0]


def preprocess(model: nn.Module, images: Sequence[Tensor]) -> tuple[Tensor, list]:
    """The network's input (N, 3, H, W) and the images' (top, left) on it, pixels."""
    pixels, canvas = model.preprocess_image([{"image": image} for image in images])
    return pixels, list(canvas.borders)


def targets_of(model: nn.Module, batch: Sequence[dict[str, Any]]) -> list[CornerTargets]:
    """What the model trains on."""
    return model.corner_targets(batch, model.preprocess_image(batch)[1])


def with_maps(model: nn.Module, maps: Callable[[Tensor], Maps]) -> nn.Module:
    """The model with a function of the normalised images in place of the network."""
    model.last_maps = maps
    return model


def without_views(model: nn.Module) -> nn.Module:
    """The model without the scales and mirror images that its config asks for."""
    model.corner_inference = getattr(model.corner_inference, "inference", model.corner_inference)
    return model


def blank_maps(pixels: Tensor, stride: int = 4) -> dict[str, dict[str, Tensor]]:
    """Maps of the size that a network of this stride would give."""
    size = [-(-side // stride) for side in pixels.shape[-2:]]
    return {corner: {"heatmap": pixels.new_zeros(len(pixels), 1, *size)} for corner in CORNERS}


class StoredCorners(OfficialInference):
    """The pipeline with decoded corners of a file in place of the network's.

    Attributes:
        pending: (2, n, 8) decoded rows of each scale to come: of the image and its mirror image.
        origins: (x, y) of the image on the map at each scale so far.
    """

    pending: list[np.ndarray]
    origins: list[np.ndarray]

    def decode(self, maps: Maps, canvas: Canvas, pairing: Pairing) -> Pairs:
        rows = torch.from_numpy(self.pending.pop(0))
        self.origins.append(canvas.origin()[0].numpy())
        return Pairs(rows[..., :4], rows[..., 4], rows[..., 5:7], rows[..., 7].long())


def detect_stored(
    model: nn.Module, cfg: Any, image: Tensor, decoded: Sequence[np.ndarray]
) -> tuple[Instances, list[Tensor], list[np.ndarray]]:
    """Detections around given decoded corners.

    Args:
        image: (3, height, width).
        decoded: (2, n, 8) rows of each scale, see :class:`StoredCorners`; without mirror images
            (1, n, 8).

    Returns:
        the detections in pixels of the image; of each scale, what the network was given and
        where the image's top-left corner is on the map.
    """
    inputs: list[Tensor] = []
    stride = model.target_generator.stride
    model = with_maps(model, lambda pixels: inputs.append(pixels) or blank_maps(pixels, stride))
    stored = StoredCorners(cfg)
    if hasattr(model.corner_inference, "inference"):  # inside test-time augmentation
        model.corner_inference.inference = stored
    else:
        model.corner_inference = stored
    stored.pending, stored.origins = list(decoded), []
    (instances,) = model.inference([{"image": image}], do_postprocess=False)
    return instances, inputs, stored.origins


class StoredTriplets(CenterNetInference):
    """The same with the centres of a file, too.

    Attributes:
        pending: of each scale to come: "decoded" (2, n, 8), "valid" (2,) and "centers" (2, P, 4).
        found: the rows after the centre check: class, box, score, corner scores.
    """

    pending: list[Mapping[str, np.ndarray]]
    found: np.ndarray

    def decode(self, maps: Maps, canvas: Canvas, pairing: Pairing) -> Pairs:
        stored = self.pending.pop(0)
        rows, centers = (torch.from_numpy(stored[name]) for name in ("decoded", "centers"))
        is_row = torch.arange(rows.shape[1]) < torch.from_numpy(stored["valid"])[:, None]
        scores = torch.where(is_row, rows[..., 4], REJECTED)
        pairs = Pairs(rows[..., :4], scores, rows[..., 5:7], rows[..., 7].long())
        return with_centers(pairs, centers[..., 3], centers[..., 2].long(), centers[..., :2])

    def checked(self, candidates: Candidates) -> Candidates:
        checked = super().checked(candidates)
        kept = checked.take(checked.scores > REJECTED)
        fields = kept.classes[:, None], kept.boxes, kept.scores[:, None], kept.corner_scores
        self.found = torch.cat(fields, dim=1).numpy()
        return checked


class Triplets(NamedTuple):
    """Detections in pixels of the image, the network's inputs, and the rows after the check."""

    instances: Instances
    inputs: list[Tensor]
    checked: np.ndarray


def detect_stored_triplets(
    model: nn.Module, cfg: Any, image: Tensor, scales: Sequence[Mapping[str, np.ndarray]]
) -> Triplets:
    """Detections around given corners and centres; see :class:`StoredTriplets`."""
    inputs: list[Tensor] = []
    model = with_maps(model, lambda pixels: inputs.append(pixels) or blank_maps(pixels))
    stored = model.corner_inference.inference = StoredTriplets(cfg)
    stored.pending = list(scales)
    (instances,) = model.inference([{"image": image}], do_postprocess=False)
    return Triplets(instances, inputs, stored.found)
