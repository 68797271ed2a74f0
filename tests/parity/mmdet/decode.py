"""decode.npz: boxes decoded from given maps, and detections of the test pipeline around them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..check import Case, Check, match_rows, to_array
from ..ours import maps_of, small_model, with_maps
from ..reference import MMDET, Arrays, Reference, each_case
from .losses import OUTPUTS

# Rows of the mirror image with its own soft-NMS (3.x): ours merge views before soft-NMS, as 2.x.
NOT_COMPARED = ("final_tta3",)


def run(folder: Reference, file: str) -> Iterator[Check]:
    return each_case(folder, file, _case)


def _case(case: Case, want: Arrays) -> Iterator[Check]:
    maps = maps_of(want, OUTPUTS)
    for view, name in enumerate(("raw_image", "raw_mirror")):
        if name in want:
            rows = _raw_rows(_view(maps, view), want)
            yield from check_rows(case, name, rows, want[name], 1e-3, 1e-5)
    for name, flip in (("final", False), ("final_flip2", True)):
        if name in want:
            rows = _detected(maps if flip else _view(maps, 0), want, flip)
            yield from check_rows(case, name, rows, want[name], 1e-2, 1e-4)


def _view(maps: dict, view: int) -> dict:
    return {
        corner: {name: value[view : view + 1] for name, value in side.items()}
        for corner, side in maps.items()
    }


def _settings(want: Arrays, **more: Any) -> dict[str, Any]:
    return {"MODEL.CORNERNET.NUM_CLASSES": int(want["tl_heat"].shape[1]), **more}


def _detected(maps: dict, want: Arrays, flip: bool, **settings: Any) -> np.ndarray:
    """Detections of a model that sees these maps, (M, 6): box, score, class; best first."""
    chosen = _settings(want, **{"MODEL.CORNERNET.TEST.FLIP": flip}, **settings)
    model = with_maps(small_model(MMDET, chosen), lambda pixels: maps)
    image = torch.zeros(3, *(int(side) for side in want["size"]), dtype=torch.uint8)
    (found,) = model.inference([{"image": image}], do_postprocess=False)
    boxes, scores, classes = found.pred_boxes.tensor, found.scores, found.pred_classes
    return torch.cat([boxes, scores[:, None], classes[:, None].float()], 1).numpy()


def _raw_rows(maps: dict, want: Arrays) -> np.ndarray:
    """All decoded pairs: a soft-NMS that lowers nothing lets every box through."""
    untouched = {
        "MODEL.CORNERNET.TEST.SOFT_NMS.METHOD": "hard",
        "MODEL.CORNERNET.TEST.SOFT_NMS.IOU_THRESHOLD": 2.0,
        "MODEL.CORNERNET.TEST.SOFT_NMS.MIN_SCORE": 0.0,
        "TEST.DETECTIONS_PER_IMAGE": -1,
    }
    return _detected(maps, want, flip=False, **untouched)


def check_rows(
    case: Case, name: str, got: Any, want: np.ndarray, pixels: float, score: float
) -> Iterator[Check]:
    """Compare (M, 6) rows of box, score and class; as sets, as near scores may change places."""
    got = to_array(got)
    yield case.exact(f"{name} rows", len(got), len(want))
    if len(got) == len(want):
        got = match_rows(got, want)
        yield case.exact(f"{name} classes", got[:, 5], want[:, 5])
        yield case.absolute(f"{name} boxes", got[:, :4], want[:, :4], pixels)
        yield case.absolute(f"{name} scores", got[:, 4], want[:, 4], score)
