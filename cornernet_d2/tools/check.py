"""Report on a dataset before hours are spent on it.

    cornernet check --data FOLDER | data.yaml | train.json
    cornernet check NAME ... --config-file FILE         registered datasets

What is in it, what is wrong with it, and the ceiling: the AP that ground truth itself reaches when
it goes through corner targets and decoding, which no training can beat. The exit status is 1 if
the data cannot be trained on.
"""

import argparse
import contextlib
import dataclasses
import io
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..canvas import Canvas
from ..data import CornerNetDatasetMapper
from ..data.annotations import boxes_xyxy, is_ignored
from ..data.coco import load_dataset
from ..data.files import add_files
from ..data.reading import image_size
from ..data.validation import Problem, dataset_problems
from ..model_zoo import load_config
from ..modeling.decode import decode_corners
from ..targets import CornerTargets
from .options import add_config, add_data, whole_data

LISTED = 20  # classes and problems printed of each kind
DECODED = 2000  # images read without being asked to: less than half a minute


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="registered datasets")
    add_data(parser)
    add_config(parser)
    parser.add_argument(
        "--read-images", action="store_true", help=f"decode every image, not only {DECODED:,}"
    )
    parser.add_argument("--max-images", type=int, default=1000, help="images for the ceiling")


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 if a dataset cannot be trained on."""
    if args.names and args.data:
        raise ValueError("give --data or names of registered datasets, not both")
    cfg = load_config(args.config_file or "CornerNet-HG104", args.opts)
    if args.data:
        files = whole_data(args)
        add_files(cfg, files)
        args.names = list(files)
    names = args.names or list(cfg.DATASETS.TRAIN if args.config_file else ())
    if not names:
        raise ValueError("give --data PATH, --config-file, or the name of a registered dataset")
    return max(_report(name, cfg, args) for name in names)


def _report(name: str, cfg: CfgNode, args: argparse.Namespace) -> int:
    dicts, problems = load_dataset(name)
    classes = MetadataCatalog.get(name).get("thing_classes")
    cfg = cfg.clone()
    if not args.config_file and classes and "MODEL.CORNERNET.NUM_CLASSES" not in args.opts:
        cfg.MODEL.CORNERNET.NUM_CLASSES = len(classes)
    if not any(problem.fatal for problem in problems):
        problems += dataset_problems(
            dicts,
            cfg.MODEL.CORNERNET.NUM_CLASSES,
            classes,
            decoded=len(dicts) if args.read_images else DECODED,
            check_sizes=True,
            image_format=cfg.INPUT.FORMAT,
        )
    _print_problems(name, len(dicts), problems)
    if any(problem.fatal for problem in problems):
        return 1
    print_contents(dicts, classes or [str(i) for i in range(cfg.MODEL.CORNERNET.NUM_CLASSES)])
    print_ceiling(dicts, cfg, args.max_images)
    return 0


def _print_problems(name: str, images: int, problems: Sequence[Problem]) -> None:
    print(f"== {name}: {images} images ==" if images else f"== {name} ==")
    for title, fatal in (("cannot be trained on", True), ("can be trained on, but", False)):
        found = [problem for problem in problems if problem.fatal == fatal]
        print(f"{title}: {len(found)} problems")
        for problem in found[:LISTED]:
            print(f"  {problem}")
        if len(found) > LISTED:
            print(f"  and {len(found) - LISTED} more")


def print_contents(dicts: Sequence[Mapping], classes: Sequence[str]) -> None:
    """Counts and sizes of images and objects."""
    annotations = [obj for d in dicts for obj in d["annotations"]]
    objects = [obj for obj in annotations if not is_ignored(obj)]
    boxes = boxes_xyxy(objects)
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    counts = np.array([sum(not is_ignored(obj) for obj in d["annotations"]) for d in dicts])
    print(
        f"objects: {len(objects)}, and {len(annotations) - len(objects)} crowd or ignored regions; "
        f"per image {_spread(counts)}; images without: {int((counts == 0).sum())}"
    )
    for side in ("width", "height"):
        known = [d[side] for d in dicts if side in d]
        print(f"image {side}: {_spread(np.array(known))} px")
    small, large = int((sides < 32).sum()), int((sides >= 96).sum())  # COCO's limits
    print(
        f"object side (root of the area): {_spread(sides)} px; "
        f"small {small}, medium {len(sides) - small - large}, large {large}"
    )
    histogram = Counter({i: 0 for i in range(len(classes))})
    histogram.update(obj["category_id"] for obj in objects)
    ranked = histogram.most_common()
    print(f"classes: {len(classes)}, without an object: {sum(n == 0 for _, n in ranked)}")
    for category, count in ranked[:LISTED]:
        print(f"  {classes[category]:24} {count}")
    if len(ranked) > LISTED:
        print(f"  ... fewest: {classes[ranked[-1][0]]} {ranked[-1][1]}")


def print_ceiling(dicts: Sequence[Mapping], cfg: CfgNode, max_images: int) -> None:
    """What corner maps of cells can represent of the ground truth, at the images' own size."""
    mapper = CornerNetDatasetMapper(cfg, is_train=True)
    step = max(1, -(-len(dicts) // max_images))
    stride = mapper.target_generator.stride
    total = shared = below = crowded = 0
    images, truth, found = [], [], []
    for image_id, d in enumerate(dicts[::step]):
        objects = [obj for obj in d["annotations"] if not is_ignored(obj)]
        boxes = boxes_xyxy(objects)
        categories = np.array([obj["category_id"] for obj in objects], np.int64)
        size = image_size(d)
        canvas = Canvas.fit([size], mapper.size_divisibility, stride, mapper.padding)
        targets = mapper.target_generator.on_canvas(
            canvas, 0, torch.from_numpy(boxes), torch.from_numpy(categories)
        )
        total += len(targets)
        below += int(((boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) < stride).sum())
        crowded += len(targets) > cfg.MODEL.CORNERNET.TEST.TOP_K
        shared += _sharing(targets.cells)
        images.append({"id": image_id, "height": size[0], "width": size[1]})
        for obj, box in zip(d["annotations"], boxes_xyxy(d["annotations"])):
            truth.append(_coco(image_id, obj["category_id"], box, iscrowd=int(is_ignored(obj))))
        for category, box, score in _decoded(targets, canvas, cfg):
            found.append(_coco(image_id, category, box, score=score))
    print(
        f"on the {stride}-pixel map, of {total} objects in {len(images)} images: {shared} share a "
        f"corner cell with another, {below} have a side below {stride} px; {crowded} images have "
        f"more than TOP_K {cfg.MODEL.CORNERNET.TEST.TOP_K}"
    )
    stats = _coco_stats(images, truth, found, cfg.MODEL.CORNERNET.NUM_CLASSES)
    print(
        "ceiling (ground truth through targets and decoding): "
        + ", ".join(f"{name} {value:.3f}" for name, value in stats.items())
    )


def _decoded(
    targets: CornerTargets, canvas: Canvas, cfg: CfgNode
) -> list[tuple[int, np.ndarray, float]]:
    """(class, box in image pixels, score) that perfect maps of the targets decode to."""
    if not len(targets):
        return []
    height, width = targets.map_size
    present, compact = targets.classes.unique(return_inverse=True)
    # Channels of absent classes would be empty: leave them out.
    generator = dataclasses.replace(targets.generator, num_classes=len(present))
    targets = dataclasses.replace(targets, classes=compact, generator=generator)
    heat = targets.dense_heatmaps().clamp(1e-6, 1 - 1e-6).logit()
    maps = {}
    for corner, side in enumerate(("tl", "br")):
        # NaN pairs with nothing; objects that share a cell overwrite each other, as they must.
        embedding = torch.full((1, height * width), torch.nan)
        embedding[0, targets.cells[:, corner]] = torch.arange(len(targets)).float()
        offset = torch.zeros(2, height * width)
        offset[:, targets.cells[:, corner]] = targets.offsets[:, corner].T
        maps[side] = {
            "heatmap": heat[corner][None],
            "embedding": embedding.view(1, 1, height, width),
            "offset": offset.view(1, 2, height, width),
        }
    test = cfg.MODEL.CORNERNET.TEST
    pairs = decode_corners(
        maps, test.TOP_K, test.NMS_KERNEL, test.EMBEDDING_THRESHOLD, test.MAX_PAIRS
    )
    kept = pairs.scores[0] > 0
    boxes = canvas.to_image(pairs.boxes[:, kept])[0].numpy()
    categories = present[pairs.classes[0, kept]].tolist()
    return list(zip(categories, boxes, pairs.scores[0, kept].tolist()))


def _coco_stats(
    images: list[dict], truth: list[dict], found: list[dict], num_classes: int
) -> dict[str, float]:
    coco = COCO()
    for i, annotation in enumerate(truth):
        annotation["id"] = i + 1  # COCOeval takes 0 for "no match"
    categories = [{"id": i} for i in range(num_classes)]
    coco.dataset = {"images": images, "annotations": truth, "categories": categories}
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    if not found:
        return dict.fromkeys((*names, "AR100"), float("nan"))
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {**dict(zip(names, evaluation.stats)), "AR100": evaluation.stats[8]}


def _coco(image_id: int, category: int, box: np.ndarray, **rest: float) -> dict:
    x0, y0, x1, y1 = (float(value) for value in box)
    area = (x1 - x0) * (y1 - y0)
    bbox = [x0, y0, x1 - x0, y1 - y0]
    return dict(image_id=image_id, category_id=int(category), bbox=bbox, area=area, **rest)


def _sharing(cells: torch.Tensor) -> int:
    """Number of objects with a corner in the same cell as another object's, same corner."""
    hit = torch.zeros(len(cells), dtype=torch.bool)
    for side in cells.T:
        _, inverse, counts = side.unique(return_inverse=True, return_counts=True)
        hit |= counts[inverse] > 1
    return int(hit.sum())


def _spread(values: np.ndarray) -> str:
    if not len(values):
        return "none"
    low, middle, high = np.percentile(values, [0, 50, 100])
    return f"{low:.0f} to {high:.0f}, median {middle:.0f}"
