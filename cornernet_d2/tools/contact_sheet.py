"""Draw predictions beside ground truth for some images of a dataset, on one sheet.

    cornernet contact-sheet --config-file CornerNet-Shapes \\
        MODEL.WEIGHTS output/shapes/model_final.pth
    cornernet contact-sheet --config-file CornerNet-Shapes \\
        --predictions output/shapes/inference/shapes_val/coco_instances_results.json

Each pair shows the ground truth on the left and the predictions on the right.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import Boxes, BoxMode, Instances

from cornernet_d2.model_zoo import load_config
from cornernet_d2.predictor import build_predictor, class_names
from cornernet_d2.tools import check_output
from cornernet_d2.tools.options import add_config
from cornernet_d2.visualize import draw_boxes, draw_instances, grid, side_by_side

Predict = Callable[[dict[str, Any], np.ndarray], Instances]


def from_results(path: str, dataset: str) -> Predict:
    """Reads predictions that COCOEvaluator wrote.

    Args:
        path: its ``coco_instances_results.json``.
        dataset: the name of the dataset that it belongs to, which has been loaded.

    Raises:
        ValueError: the file is missing, of another kind, or of a dataset with other categories.
    """
    to_class = getattr(MetadataCatalog.get(dataset), "thing_dataset_id_to_contiguous_id", None)
    by_image: dict[Any, list[tuple]] = {}
    try:
        for item in json.loads(Path(path).read_text()):
            index = to_class[item["category_id"]] if to_class else item["category_id"]
            found = (item["bbox"], item["score"], index)
            by_image.setdefault(item["image_id"], []).append(found)
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no COCO results for {dataset}: {error!r}") from error

    def predict(item: dict[str, Any], picture: np.ndarray) -> Instances:
        found = by_image.get(item["image_id"], [])
        boxes = torch.tensor([box for box, _, _ in found], dtype=torch.float32).reshape(-1, 4)
        return Instances(
            picture.shape[:2],
            pred_boxes=Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)),
            scores=torch.tensor([score for _, score, _ in found]),
            pred_classes=torch.tensor([index for _, _, index in found], dtype=torch.int64),
        )

    return predict


def from_model(cfg: CfgNode) -> Predict:
    """Runs the model of a config on each image."""
    predictor = build_predictor(cfg)
    return lambda item, picture: predictor(picture)["instances"].to("cpu")


def draw_pair(
    item: dict[str, Any],
    predict: Predict,
    min_score: float,
    names: list[str] | None,
) -> np.ndarray:
    """Draws ground truth (left) and predictions (right) of one dataset dict, (H, W, 3) RGB."""
    picture = read_image(item["file_name"], "BGR")
    rgb = np.ascontiguousarray(picture[..., ::-1])
    truth = [x for x in item.get("annotations", []) if not x.get("iscrowd", 0)]
    boxes = [BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in truth]
    left = draw_boxes(
        rgb, np.reshape(boxes, (-1, 4)), [x["category_id"] for x in truth], None, names
    )
    return side_by_side([left, draw_instances(rgb, predict(item, picture), names, min_score)])


def draw_sheet(
    items: list[dict[str, Any]],
    predict: Predict,
    number: int,
    columns: int,
    min_score: float,
    names: list[str] | None,
) -> np.ndarray:
    """Draws images spread evenly over a dataset.

    Args:
        items: dataset dicts.
        predict: dataset dict and (H, W, 3) BGR picture -> Instances in image pixels.
        number, columns: pairs on the sheet, and pairs in a row.
        min_score: predictions below are left out.
        names: class names by index.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    chosen = np.linspace(0, len(items) - 1, min(number, len(items))).round().astype(int)
    pairs = [draw_pair(items[index], predict, min_score, names) for index in chosen]
    return grid(pairs, columns)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument("--dataset", help="a registered dataset [first of DATASETS.TEST]")
    parser.add_argument("--predictions", help="coco_instances_results.json [run the model]")
    parser.add_argument("--number", type=int, default=12, help="images [%(default)s]")
    parser.add_argument("--columns", type=int, default=3, help="pairs in a row [%(default)s]")
    parser.add_argument("--confidence-threshold", type=float, default=0.4, help="[%(default)s]")
    parser.add_argument("--output", type=Path, help="[OUTPUT_DIR/contact_sheet.png]")
    parser.add_argument("--overwrite", action="store_true", help="replace a file at --output")


def run(args: argparse.Namespace) -> int:
    if args.number < 1 or args.columns < 1:
        raise ValueError("--number and --columns must be at least 1")
    if not args.config_file:
        raise ValueError("give --config-file NAME")
    cfg = load_config(args.config_file, args.opts)
    output = args.output or Path(cfg.OUTPUT_DIR) / "contact_sheet.png"
    check_output(output, args.overwrite)
    dataset = args.dataset or (cfg.DATASETS.TEST or ("",))[0]
    if dataset not in DatasetCatalog.list():
        raise ValueError(f"dataset {dataset!r} is not registered: set --dataset")
    items, names = DatasetCatalog.get(dataset), class_names(cfg)
    predict = from_results(args.predictions, dataset) if args.predictions else from_model(cfg)
    sheet = draw_sheet(items, predict, args.number, args.columns, args.confidence_threshold, names)
    if not cv2.imwrite(str(output), sheet[..., ::-1]):
        raise ValueError(f"{output} could not be written")
    print(f"ground truth (left) and predictions (right): {output}")
    return 0
