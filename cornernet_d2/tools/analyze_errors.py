"""What each output of the network costs: AP with the others as they are and that one perfect.

    python -m cornernet_d2.tools.analyze_errors --config-file CornerNet-BCCD \\
        --opts MODEL.WEIGHTS output/bccd/model_best.pth

After the error analysis of Law & Deng, "CornerNet", section 4.4, which replaces heat maps and
offsets; here the pairing as well: whether the right corners are put together. One scale, without
mirror images, on the datasets of DATASETS.TEST.
"""

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..data import CornerNetDatasetMapper
from ..data.annotations import boxes_xyxy, is_ignored
from ..engine.evaluation import build_evaluator
from ..modeling import CornerNet, InferenceWithTTA
from ..modeling.outputs import CORNERS, CornerMaps
from ..modeling.pairing import EmbeddingPairing, Pairing
from ..modeling.target_batch import TargetBatch
from ..predictor import build_predictor, load_config

# What is replaced by the ground truth, row by row.
ROWS = (
    (),
    ("pairing",),
    ("offset",),
    ("heatmap",),
    ("heatmap", "offset"),
    ("heatmap", "offset", "pairing"),
)
METRICS = ("AP", "AP50", "AP75")
# Cells, along both axes, from an object's corner to a peak that is taken for that corner.
REACH = 2


class GivenMaps:
    """A model as :class:`CornerInference` takes it, whose maps of its one image are ``maps``."""

    def __init__(self, model: CornerNet, maps: CornerMaps, pairing: Pairing) -> None:
        self.canvas, self.preprocess_image = model.canvas, model.preprocess_image
        self.maps, self.pairing = maps, pairing

    def last_maps(self, images: Tensor) -> CornerMaps:
        return self.maps


def perfect_maps(targets: TargetBatch, predicted: CornerMaps) -> CornerMaps:
    """Maps of one image with every value as the truth wants it.

    Heat maps are the targets'. Offsets are the true ones in the cells of true corners, those
    predicted elsewhere. Whatever the model's pairing is, the perfect one is by embeddings: the
    number of the object whose corner is nearest, and NaN, which pairs with nothing, beyond
    ``REACH`` cells of all corners.
    """
    maps = {}
    heatmaps, _ = targets.heatmaps.dense()
    for i, corner in enumerate(CORNERS):
        offset = predicted[corner]["offset"].float().clone()
        height, width = offset.shape[-2:]
        cells = targets.cells[:, i]
        offset.flatten(2)[0][:, cells] = targets.offsets[:, i].T
        maps[corner] = {
            "heatmap": heatmaps[:, i].clamp(1e-6, 1 - 1e-6).logit(),
            "embedding": _nearest(cells, height, width).view(1, 1, height, width),
            "offset": offset,
        }
    return maps


def _replaced(
    model: CornerNet, predicted: CornerMaps, perfect: CornerMaps, names: Sequence[str]
) -> GivenMaps:
    """The model with its maps of an image, those of one of ``ROWS`` perfect."""
    outputs = ["embedding" if name == "pairing" else name for name in names]
    maps = {
        corner: {**side, **{name: perfect[corner][name] for name in outputs}}
        for corner, side in predicted.items()
    }
    return GivenMaps(model, maps, EmbeddingPairing() if "pairing" in names else model.pairing)


def _nearest(cells: Tensor, height: int, width: int) -> Tensor:
    """(h * w,) number of the nearest of M flat cells, NaN where none is within REACH."""
    if not len(cells):
        return torch.full((height * width,), torch.nan, device=cells.device)
    every = torch.arange(height * width, device=cells.device)[:, None]
    rows = (every // width - cells // width).abs()
    columns = (every % width - cells % width).abs()
    distance, number = torch.maximum(rows, columns).min(dim=1)
    return torch.where(distance <= REACH, number.float(), torch.nan)


class TruthMapper:
    """Detectron2's test mapper, which drops the objects, with them in "instances"."""

    def __init__(self, cfg: CfgNode) -> None:
        self.mapper = CornerNetDatasetMapper(cfg, is_train=False)

    def __call__(self, dataset_dict: Mapping) -> dict:
        objects = [obj for obj in dataset_dict["annotations"] if not is_ignored(obj)]
        result = self.mapper(dataset_dict)
        height, width = result["image"].shape[-2:]
        scale = np.array([width / result["width"], height / result["height"]] * 2)
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.from_numpy(boxes_xyxy(objects) * scale))
        instances.gt_classes = torch.tensor([o["category_id"] for o in objects], dtype=torch.int64)
        return {**result, "instances": instances}


@torch.no_grad()
def analyze(cfg: CfgNode, model: CornerNet, name: str) -> list[dict[str, float]]:
    """The evaluator's box metrics on a registered dataset, one dict per entry of ``ROWS``.

    Raises:
        ValueError: the dataset comes without annotations.
    """
    dicts = DatasetCatalog.get(name)
    if not all("annotations" in d for d in dicts):
        raise ValueError(f"{name} has images without 'annotations': there is no truth to put in")
    loader = build_detection_test_loader(
        dataset=dicts, mapper=TruthMapper(cfg), num_workers=cfg.DATALOADER.NUM_WORKERS
    )
    inference = model.corner_inference
    if isinstance(inference, InferenceWithTTA):
        inference = inference.inference
    with tempfile.TemporaryDirectory() as folder:  # a run's own results stay as they are
        evaluators: list[DatasetEvaluator] = [build_evaluator(cfg, name, folder) for _ in ROWS]
        for evaluator in evaluators:
            evaluator.reset()
        for (x,) in loader:
            images, canvas = model.preprocess_image([x])
            targets = model.corner_targets([x], canvas)
            predicted = model.last_maps(images)
            perfect = perfect_maps(TargetBatch.join(targets, model.device), predicted)
            for replaced, evaluator in zip(ROWS, evaluators):
                given = _replaced(model, predicted, perfect, replaced)
                size = x["height"], x["width"]
                (found,) = inference(given, [x["image"]], [size])
                evaluator.process([x], [{"instances": found}])
        with contextlib.redirect_stdout(io.StringIO()):  # a table of COCO's for each
            return [evaluator.evaluate()["bbox"] for evaluator in evaluators]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="a path, or a shipped config's name")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE", help="config keys")
    args = parser.parse_args(argv)
    cfg = load_config(args.config_file, args.opts)
    model = build_predictor(cfg).model
    for name in cfg.DATASETS.TEST:
        rows = analyze(cfg, model, name)
        print(f"{name + ', perfect:':40}" + "".join(f"{metric:>8}" for metric in METRICS))
        for replaced, results in zip(ROWS, rows):
            values = "".join(f"{results[metric]:8.1f}" for metric in METRICS)
            print(f"{', '.join(replaced) or 'nothing':40}{values}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
