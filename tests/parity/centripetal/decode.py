"""decode.npz: boxes decoded from given maps by each code's central regions."""

from collections.abc import Iterator

import torch

from ..check import Case, Check, match_rows, to_array
from ..ours import canvas_of, decode_on, maps_of, small_model
from ..reference import Arrays, Reference, each_case
from .losses import OUTPUTS, PRESETS


def run(folder: Reference, file: str) -> Iterator[Check]:
    return each_case(folder, file, _case)


def _case(case: Case, want: Arrays) -> Iterator[Check]:
    maps = maps_of(want, OUTPUTS)
    images, classes = want["tl_heat"].shape[:2]
    canvas = canvas_of(want["input_size"].tolist(), want["border"].tolist(), images)
    for code, preset in PRESETS.items():
        settings = {"MODEL.CORNERNET.NUM_CLASSES": classes}
        if code == "mmdet":
            span = float(want["distance_threshold"])
            settings["MODEL.CORNERNET.CENTRIPETAL.REGION.MAX_SPAN"] = span
        pairs = decode_on(
            small_model(preset, settings),
            maps,
            canvas,
            top_k=int(want["K"]),
            nms_kernel=int(want["kernel"]),
            max_detections=int(want["num_dets"]),
        )
        rows = torch.cat([pairs.boxes, pairs.scores[..., None], pairs.classes[..., None]], -1)
        for image in range(images):
            name, valid = f"{code} image {image}", want[f"{code}_valid"][image]
            theirs = want[f"{code}_detections"][image][valid]
            ours = to_array(rows[image][pairs.scores[image] > -1])
            yield case.exact(f"{name} rows", len(ours), len(theirs))
            if len(ours) == len(theirs):
                ours = match_rows(ours, theirs)
                yield case.absolute(f"{name} boxes", ours[:, :4], theirs[:, :4], 1e-3)
                yield case.absolute(f"{name} scores", ours[:, 4], theirs[:, 4], 1e-5)
                yield case.exact(f"{name} classes", ours[:, 5], theirs[:, 5])
