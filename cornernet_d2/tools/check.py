"""Report on a dataset before hours are spent on it.

    cornernet check --data FOLDER | data.yaml | train.json
    cornernet check NAME ... --config-file FILE         registered datasets
    cornernet check --data FOLDER --html report.html --json report.json --strict

What is in it, what is wrong with it, and the ceiling: the AP that ground truth itself reaches when
it goes through corner targets and decoding, which no training can beat. The exit status is 1 if
the data cannot be trained on, with --strict also after any other fault. The page of HTML has
pictures of it, images that look alike, and advice.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from ..data.coco import load_dataset
from ..data.files import add_files
from ..data.validation import Problem, by_kind, dataset_problems
from ..diagnosis.dataset import (
    Contents,
    DatasetReport,
    LookAlikes,
    Rules,
    ceiling,
    dataset_page,
    describe,
    look_alikes,
)
from ..diagnosis.dataset.look_alikes import has_imagehash
from ..diagnosis.dataset.report import problems_dict, spread
from ..model_zoo import load_config
from . import check_output
from .options import add_config, add_data, whole_data

LISTED = 20  # classes and problems printed of each kind
DECODED = 2000  # images read without being asked to: less than half a minute


class Checked(NamedTuple):
    """A dataset that was looked at; no contents where it cannot be trained on."""

    name: str
    dicts: list[dict]
    problems: list[Problem]
    cfg: CfgNode
    contents: Contents | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="registered datasets")
    add_data(parser)
    add_config(parser)
    images = parser.add_mutually_exclusive_group()
    images.add_argument(
        "--read-images", action="store_true", help=f"decode every image, not only {DECODED:,}"
    )
    images.add_argument("--no-images", action="store_true", help="look at the annotations alone")
    parser.add_argument("--max-images", type=int, default=1000, help="images for the ceiling")
    parser.add_argument("--html", type=Path, metavar="FILE", help="report as one page of HTML")
    parser.add_argument("--json", type=Path, metavar="FILE", help="its numbers")
    parser.add_argument("--overwrite", action="store_true", help="replace these files")
    parser.add_argument(
        "--strict", action="store_true", help="end with 1 for any fault, and for images in two sets"
    )


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 if a dataset cannot be trained on."""
    if args.names and args.data:
        raise ValueError("give --data or names of registered datasets, not both")
    for path in filter(None, (args.html, args.json)):
        check_output(path, args.overwrite)
    cfg = load_config(args.config_file or "CornerNet-HG104", args.opts)
    if args.data:
        files = whole_data(args)
        add_files(cfg, files)
        args.names = list(files)
    names = args.names or list(cfg.DATASETS.TRAIN if args.config_file else ())
    if not names:
        raise ValueError("give --data PATH, --config-file, or the name of a registered dataset")
    every = [_check(name, cfg, args) for name in names]
    status = int(any(x.contents is None for x in every))
    if args.html or args.json:
        twins = _write_report(every, args)
        if args.strict and isinstance(twins, LookAlikes) and twins.between:
            status = 1
    return int(status or (args.strict and any(x.problems for x in every)))


def _check(name: str, cfg: CfgNode, args: argparse.Namespace) -> Checked:
    """Look at a dataset, and print what was found."""
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
            files=not args.no_images,
            progress=partial(_bar, what=f"{name}: faults"),
        )
    _print_problems(name, len(dicts), problems)
    if any(problem.fatal for problem in problems):
        return Checked(name, dicts, problems, cfg)
    names = classes or [str(i) for i in range(cfg.MODEL.CORNERNET.NUM_CLASSES)]
    contents = Contents.of(dicts, names)
    _print_contents(contents, dicts)
    _print_ceiling(contents, Rules.of(cfg), args.max_images)
    return Checked(name, dicts, problems, cfg, contents)


def _bar(items: Iterable, what: str) -> Iterable:
    """A progress bar on a terminal, nothing elsewhere."""
    return tqdm(items, what, disable=None, leave=False)


def _write_report(every: Sequence[Checked], args: argparse.Namespace) -> LookAlikes | str:
    sound = [x for x in every if x.contents is not None]
    reports = [describe(x.name, x.dicts, x.contents, x.cfg, Rules.of(x.cfg), _bar) for x in sound]
    twins = _look_alikes(reports, args)
    problems = {x.name: x.problems for x in every}
    if args.json:
        found = twins._asdict() if isinstance(twins, LookAlikes) else twins
        content = {x.name: {"problems": problems_dict(x.problems)} for x in every} | {
            "look_alikes": found
        }
        for each in reports:
            content[each.name] |= each.as_dict()
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    if args.html:
        args.html.write_text(dataset_page(problems, reports, twins), "utf-8")
    return twins


def _look_alikes(reports: Sequence[DatasetReport], args: argparse.Namespace) -> LookAlikes | str:
    """Of all images, or why not."""
    number = sum(len(each.files) for each in reports)
    if args.no_images:
        return "Images were not looked at (--no-images)."
    if not has_imagehash():
        return "They were not looked for: pip install ImageHash."
    if number > DECODED and not args.read_images:
        return f"They were not looked for among {number} images; --read-images does."
    return look_alikes({each.name: each.files for each in reports}, _bar)


def _print_problems(name: str, images: int, problems: Sequence[Problem]) -> None:
    print(f"== {name}: {images} images ==" if images else f"== {name} ==")
    for title, found in by_kind(problems).items():
        print(f"{title}: {len(found)} problems")
        for problem in found[:LISTED]:
            print(f"  {problem}")
        if len(found) > LISTED:
            print(f"  and {len(found) - LISTED} more")


def _print_contents(contents: Contents, dicts: Sequence[Mapping]) -> None:
    """Counts and sizes of images and objects."""
    objects, classes = contents.objects, contents.class_names
    counts, sides = objects.counts, objects.sides
    print(
        f"objects: {len(sides)}, and {int(contents.ignored.sum())} crowd or ignored regions; "
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
    histogram.update(objects.classes.tolist())
    ranked = histogram.most_common()
    print(f"classes: {len(classes)}, without an object: {sum(n == 0 for _, n in ranked)}")
    for category, count in ranked[:LISTED]:
        print(f"  {classes[category]:24} {count}")
    if len(ranked) > LISTED:
        print(f"  ... fewest: {classes[ranked[-1][0]]} {ranked[-1][1]}")


def _print_ceiling(contents: Contents, rules: Rules, max_images: int) -> None:
    """What corner maps of cells can represent of the ground truth, at the images' own size."""
    found = ceiling(contents, rules, _bar(spread(len(contents.sizes), max_images), "ceiling"))
    stride = rules.generator.stride
    print(
        f"on the {stride}-pixel map, of {found.objects} objects in {found.images} images: "
        f"{found.shared} share a corner cell with another, {found.below} have a side below "
        f"{stride} px; {found.crowded} images have more than TOP_K {rules.top_k}"
    )
    print(
        "ceiling (ground truth through targets and decoding): "
        + ", ".join(
            f"{name} {value:.3f}" if value >= 0 else f"{name} none"  # no such objects
            for name, value in found.stats.items()
        )
    )


def _spread(values: np.ndarray) -> str:
    if not len(values):
        return "none"
    low, middle, high = np.percentile(values, [0, 50, 100])
    return f"{low:.0f} to {high:.0f}, median {middle:.0f}"
