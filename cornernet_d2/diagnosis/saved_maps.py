"""The network's maps of each image in a folder, for analyses that need not run it again.

A file an image, NumPy's ``npz`` without pickle: the maps as they are, "tl.heatmap" (1, C, h, w) and
so on, and the name of the image. Of COCO's 80 classes and maps of 128 x 128 cells that is 10 MB.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from ..modeling.outputs import CornerMaps


def save_maps(folder: Path, number: int, x: Mapping, maps: CornerMaps) -> None:
    """Write the maps of the image ``number`` of a dataset, whose dict is ``x``."""
    folder.mkdir(parents=True, exist_ok=True)
    # bfloat16 is unknown to NumPy, and float32 holds it
    arrays = {
        f"{corner}.{name}": value.detach().float().cpu().numpy()
        for corner, side in maps.items()
        for name, value in side.items()
    }
    np.savez(folder / f"{number:06d}.npz", image=np.array(_image(x)), **arrays)


def load_maps(folder: Path, number: int, x: Mapping, device: torch.device) -> CornerMaps:
    """The maps that :func:`save_maps` wrote, float32.

    Raises:
        ValueError: there is no such file, or it is another image's.
    """
    path = folder / f"{number:06d}.npz"
    if not path.is_file():
        raise ValueError(f"{path} does not exist: write the maps with --save-maps {folder}")
    maps: CornerMaps = {}
    with np.load(path, allow_pickle=False) as arrays:
        if str(arrays["image"]) != _image(x):
            raise ValueError(f"{path} is of {arrays['image']}, where {_image(x)} is expected")
        for key in arrays.files:
            if key != "image":
                corner, name = key.split(".")
                maps.setdefault(corner, {})[name] = torch.from_numpy(arrays[key]).to(device)
    return maps


def _image(x: Mapping) -> str:
    """The image, and the size that the network saw it in."""
    height, width = x["image"].shape[-2:]
    return f"{Path(x['file_name']).name} {height} x {width}"
