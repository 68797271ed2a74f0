"""What a training run logs besides its losses: counts, and how well the pairing can work.

Letters: N images, M objects, h x w map pixels.
"""

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.evaluation.evaluator import inference_context
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn

from ..targets import CornerTargets
from ..visualize import TrainingView, training_picture
from .outputs import CORNERS, CornerMaps
from .pairing import Corners, Pairing
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
def log_picture(model: nn.Module, example: dict, maps: CornerMaps, targets: CornerTargets) -> None:
    """Every ``model.vis_period`` iterations, put a picture of an example into the EventStorage.

    Only the main process draws: writers are there alone, and elsewhere nobody would free the
    pictures.

    Args:
        model: a CornerNet in training mode; a period of 0 draws nothing.
        example: a training dict with "image" and "instances".
        maps: of the last stack; the example is the first of the batch.
        targets: of the example.
    """
    draws = model.vis_period > 0 and comm.is_main_process()
    storage = current_storage() if draws else None
    if storage is None or storage.iter % model.vis_period or "instances" not in example:
        return
    with inference_context(model):
        detections = model.inference([example], do_postprocess=False)[0]
    picture = draw_example(model, example, maps, targets, detections)
    storage.put_image("training", picture.transpose(2, 0, 1))


def draw_example(
    model: nn.Module, example: dict, maps: CornerMaps, targets: CornerTargets, detections: Instances
) -> np.ndarray:
    """:func:`.training_picture` of an image with ground truth, (H', W', 3) uint8 RGB.

    Args: as of :func:`log_picture`, and
        detections: in pixels of the example's "image".
    """
    picture = convert_image_to_rgb(
        example["image"].float().clamp(0, 255).permute(1, 2, 0), model.input_format
    )
    heatmaps = torch.stack([maps[point]["heatmap"][0].float().sigmoid() for point in maps])
    ratio = np.array(targets.cells_per_pixel)
    corners = _corners(targets).numpy() / ratio - targets.border[::-1]
    distances = pair_distances(maps, targets, model.pairing) if len(targets) else None
    view = TrainingView(
        picture,
        example["instances"].to("cpu"),
        detections.to("cpu"),
        heatmaps.cpu(),
        targets.to("cpu").dense_heatmaps(),
        corners.reshape(-1, 4),
        targets.classes.cpu().numpy(),
        distances,
        model.pairing.limit,
        stride=model.target_generator.stride,
        origin=targets.border,
    )
    names = MetadataCatalog.get(model.vis_dataset).get("thing_classes") if model.vis_dataset else ()
    return training_picture(view, names)


def pair_distances(
    maps: CornerMaps, targets: CornerTargets, pairing: Pairing, image: int = 0
) -> np.ndarray | None:
    """(M, M) :meth:`.Pairing.distances` of the true corners of one image of a batch's maps."""
    xy = _corners(targets)
    sides = []
    for i, corner in enumerate(CORNERS):
        values = {}
        for name in pairing.decoded:
            output = maps[corner][name]
            cells = targets.cells[:, i].to(output.device)
            at = at_cells(output, torch.full_like(cells, image), cells)
            values[name] = at[None].float().cpu()
        places = xy[None, :, i]
        sides.append(Corners(places[..., 0], targets.classes[None], places, places, values))
    distances = pairing.distances(*sides)
    return None if distances is None else distances[0].numpy()


def _corners(targets: CornerTargets) -> torch.Tensor:
    """(M, 2, 2) float32 as (corner, xy), map pixels, on the host."""
    number, width = len(CORNERS), targets.map_size[1]
    cells, offsets = targets.cells[:, :number].cpu(), targets.offsets[:, :number].cpu()
    return torch.stack((cells % width, cells // width), dim=-1) + offsets
