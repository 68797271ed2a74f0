"""What a training run logs besides its losses: counts, and how well the pairing can work.

Letters: N images, M objects, h x w map pixels.
"""

import torch
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.evaluation.evaluator import inference_context
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn

from ..visualize import training_picture
from .outputs import CORNERS, CornerMaps
from .pairing import Pairing
from .target_batch import TargetBatch, at_cells

# Reading a value back waits for the device, so that scalars are logged every so many iterations:
# as often as Detectron2's writers print them.
PERIOD = 20


def current_storage() -> EventStorage | None:
    """The active EventStorage, None in a plain training loop that has none."""
    try:
        return get_event_storage()
    except AssertionError:
        return None


@torch.no_grad()
def log_batch(maps: CornerMaps, batch: TargetBatch, pairing: Pairing) -> None:
    """Put the number of objects and :meth:`.Pairing.statistics` of a batch into the EventStorage.

    Args:
        maps: of the last stack, (N, ., h, w).
        batch: of the same images.
        pairing: whose outputs are in the maps.
    """
    storage = current_storage()
    if storage is None or storage.iter % PERIOD:
        return
    storage.put_scalar("objects_per_batch", sum(batch.objects), smoothing_hint=False)
    if not sum(batch.objects):
        return
    values = {
        name: [
            at_cells(maps[corner][name], batch.image_index, batch.cells[:, i])
            for i, corner in enumerate(CORNERS)
        ]
        for name in pairing.outputs
    }
    if statistics := pairing.statistics(values, batch):
        numbers = torch.stack(list(statistics.values())).tolist()  # one look at the device
        for name, number in zip(statistics, numbers):
            storage.put_scalar(name, number, smoothing_hint=False)


@torch.no_grad()
def log_picture(model: nn.Module, example: dict, maps: CornerMaps, border: tuple[int, int]) -> None:
    """Every ``model.vis_period`` iterations, put a picture of an example into the EventStorage.

    It shows ground truth, what the model detects in eval mode, and the heat maps. Only the main
    process draws: writers are there alone, and elsewhere nobody would free the pictures.

    Args:
        model: a CornerNet in training mode; a period of 0 draws nothing.
        example: a training dict with "image" and "instances".
        maps: of the last stack; the example is the first of the batch.
        border: (top, left) of its image on the canvas, pixels.
    """
    draws = model.vis_period > 0 and comm.is_main_process()
    storage = current_storage() if draws else None
    if storage is None or storage.iter % model.vis_period or "instances" not in example:
        return
    with inference_context(model):
        detections = model.inference([example], do_postprocess=False)[0]
    picture = convert_image_to_rgb(
        example["image"].float().clamp(0, 255).permute(1, 2, 0), model.input_format
    )
    heatmaps = torch.stack([maps[corner]["heatmap"][0].float().sigmoid() for corner in maps])
    picture = training_picture(
        picture,
        example["instances"].to("cpu"),
        detections.to("cpu"),
        heatmaps.cpu(),
        stride=model.target_generator.stride,
        origin=border,
    )
    storage.put_image("ground truth, detections, corner pairs, heat maps", picture)
