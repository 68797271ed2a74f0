"""targets.npz: heat maps, offsets and both shifts of the training targets."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..check import Case, Check
from ..ours import CORNERS, TargetBatch, dense, join, shift_targets, small_model
from ..reference import CENTRIPETAL_MMDET, Arrays, Reference, each_case

OUTPUTS = {"offset": "offset", "guiding_shift": "guiding_shift", "centripetal_shift": "shift"}


def run(folder: Reference, file: str) -> Iterator[Check]:
    return each_case(folder, file, _case)


def _case(case: Case, want: Arrays) -> Iterator[Check]:
    shape = want["mmdet_tl_heatmap_shape"]
    batch = make_batch(want, *shape[:2])
    heatmaps, maps = dense(batch), shift_targets(batch)
    yield case.exact("map size", heatmaps.shape[-2:], want["output_size"])
    for code in ("mmdet", "authors"):
        for i, corner in enumerate(CORNERS):
            wanted = _dense(want, f"{code}_{corner}_heatmap")
            yield case.exact(f"{code} {corner} ones", heatmaps[:, i] == 1, wanted == 1)
            yield case.absolute(f"{code} {corner} heat map", heatmaps[:, i], wanted, 1e-6)
            for theirs, ours in OUTPUTS.items():
                wanted = _dense(want, f"{code}_{corner}_{theirs}")
                got = _map(batch, i, maps[ours][i], wanted.shape)
                yield case.absolute(f"{code} {corner} {theirs}", got, wanted, 1e-4)


def make_batch(
    want: Arrays, num_images: int, num_classes: int, criterion: Any = None
) -> TargetBatch:
    """Targets of all images, as a model of the preset makes them."""
    settings = {"MODEL.CORNERNET.NUM_CLASSES": int(num_classes)}
    model = small_model(CENTRIPETAL_MMDET, settings)
    size = tuple(int(side) for side in want["input_size"])
    images = [want["box_image"] == index for index in range(num_images)]
    targets = [
        model.target_generator(
            torch.from_numpy(want["boxes"][mine]), torch.from_numpy(want["classes"][mine]), size
        )
        for mine in images
    ]
    return join(criterion or model.criterion, targets)


def _dense(arrays: Arrays, name: str) -> np.ndarray:
    result = np.zeros(arrays[f"{name}_shape"], np.float32)
    result.reshape(-1)[arrays[f"{name}_index"]] = arrays[f"{name}_value"]
    return result


def _map(
    batch: TargetBatch, corner: int, values: torch.Tensor, shape: tuple[int, ...]
) -> np.ndarray:
    """Values (M, 2) in their objects' cells; of those that share one the last counts."""
    result = np.zeros(shape, np.float32)
    cells = batch.cells[:, corner].tolist()
    for image, cell, value in zip(batch.image_index.tolist(), cells, values.numpy()):
        result[image, :, cell // shape[-1], cell % shape[-1]] = value
    return result
