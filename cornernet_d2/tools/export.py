"""Write a trained model as one file for another runtime, and compare the two.

    cornernet export model.pth --format onnx --output model.onnx
    cornernet export model.pth --images photos/ --evaluate

The file takes images in 0..255 of any size and gives boxes in their pixels; docs/deploy.md has its
inputs and outputs. The comparison is printed and written beside it, as FILE.parity.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from ..data.reading import read_file
from ..engine import CornerNetTrainer
from ..export import FORMATS, Artifact, compare, export, report_lines
from ..export.artifact import MAX_SIDE
from ..export.detector import without_views
from ..export.formats import run as load
from ..predictor import build_predictor, class_names
from . import check_output
from .options import add_model, model_config

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
MOST_IMAGES = 20  # of a folder, for the comparison


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--format", choices=sorted(FORMATS), default="onnx", help="[%(default)s]")
    parser.add_argument("--output", type=Path, metavar="FILE", help="[MODEL, of another ending]")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")
    parser.add_argument("--raw", action="store_true", help="pairs of corners, without soft-NMS")
    parser.add_argument(
        "--max-side", type=int, default=MAX_SIDE, help="of images, pixels [%(default)s]"
    )
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help=f"compare on its first {MOST_IMAGES} images"
    )
    parser.add_argument(
        "--evaluate", action="store_true", help="compare the AP on DATASETS.TEST, too"
    )


def run(args: argparse.Namespace) -> int:
    """Exports, compares and reports; 1 if the two differ.

    Raises:
        ValueError: what was asked for cannot be exported.
    """
    if args.raw and (args.images or args.evaluate):
        raise ValueError("--raw gives no detections: --images and --evaluate do not go with it")
    cfg = model_config(args)
    output = args.output or Path(args.model).with_suffix(FORMATS[args.format][0])
    check_output(output, args.overwrite)
    cfg.MODEL.CORNERNET.TEST.FAST = False  # the file computes in float32: compare it with that
    model = build_predictor(cfg).model
    metadata = export(
        model,
        output,
        args.format,
        max_side=args.max_side,
        raw=args.raw,
        class_names=class_names(cfg) or [],
        preset=Path(args.config_file or "").stem,
    )
    print(f"{output}: {output.stat().st_size / 2**20:.1f} MiB, {metadata['input']}", flush=True)
    if args.raw:
        return 0
    report = _compare(args, cfg, model, output, metadata)
    target = output.with_name(f"{output.name}.parity.json")
    target.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{target}", flush=True)
    return 0 if report["passed"] else 1


def _compare(
    args: argparse.Namespace, cfg: CfgNode, model: nn.Module, output: Path, metadata: dict[str, str]
) -> dict[str, Any]:
    images = read_folder(args.images, cfg.INPUT.FORMAT) if args.images else []
    sides = int(metadata["min_side"]), int(metadata["max_side"])
    report = {**metadata, **compare(model, load(output), images, *sides)}
    print("\n".join(report_lines(report)), flush=True)
    if args.evaluate:
        for name, tested in (("model", without_views(model)), ("file", Artifact(output))):
            results = CornerNetTrainer.test(cfg, tested)
            report[f"AP of the {name}"] = results
            print(f"{name}: {json.dumps(results)}", flush=True)
    return report


def read_folder(folder: Path, image_format: str) -> list[Tensor]:
    """The first images of a folder by name, (3, H, W) uint8.

    Raises:
        ValueError: there are none, or one cannot be read.
    """
    files = [path for path in sorted(folder.glob("*")) if path.suffix.lower() in IMAGES]
    if not files:
        raise ValueError(f"{folder} has no image")
    pixels = [read_file(str(path), image_format) for path in files[:MOST_IMAGES]]
    return [torch.from_numpy(image.copy()).permute(2, 0, 1) for image in pixels]
