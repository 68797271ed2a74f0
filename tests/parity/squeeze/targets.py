"""targets.npz: cells, offsets and heat maps at stride 8, images squashed to the input's size."""

from collections.abc import Iterator

import numpy as np
import torch

from cornernet_d2.targets import CornerTargetGenerator, CornerTargets

from ..check import Case, Check
from ..official.targets import check_heat
from ..ours import draw
from ..reference import SQUEEZE, Arrays, Reference, each_case
from .postprocess import small


def run(folder: Reference, file: str) -> Iterator[Check]:
    return each_case(folder, file, _case)


def _case(case: Case, want: Arrays) -> Iterator[Check]:
    num_classes = int(want["tl_heat_shape"][1])
    model, _ = small({"MODEL.CORNERNET.NUM_CLASSES": num_classes})
    images = range(len(want["image_sizes"]))
    targets = [_targets(model.target_generator, want, image) for image in images]
    counts = [len(t) for t in targets]
    yield case.exact(f"map size of {SQUEEZE}", targets[0].map_size, want["output_size"])
    yield case.exact("count", counts, want["count"])
    yield case.exact("mask", counts, want["mask"].sum(axis=1))
    heat = draw(targets)
    for corner, name in enumerate(("tl", "br")):
        for image, count in enumerate(counts):
            wanted = want[f"{name}_ind"][image][:count]
            yield case.exact(f"{name} indices", targets[image].cells[:, corner], wanted)
            wanted = want[f"{name}_off"][image][:count]
            yield case.absolute(f"{name} offsets", targets[image].offsets[:, corner], wanted, 1e-6)
        yield from check_heat(case, name, heat[:, corner], want, f"{name}_heat")


def _targets(generator: CornerTargetGenerator, want: Arrays, image: int) -> CornerTargets:
    boxes = want["boxes"][want["box_image"] == image]
    ratio = (want["input_size"] / want["image_sizes"][image]).astype(np.float32)  # height, width
    placed = boxes[:, :4] * ratio[[1, 0, 1, 0]]  # in float32, as theirs
    size = tuple(int(side) for side in want["input_size"])
    classes = torch.from_numpy(boxes[:, 4].astype(np.int64) - 1)  # 1-based in the reference
    return generator(torch.from_numpy(placed), classes, size)
