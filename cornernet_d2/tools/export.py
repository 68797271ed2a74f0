"""Write a trained model as one file for another runtime, and compare the two.

    cornernet export model.pth --format onnx --output model.onnx
    cornernet export model.pth --compare photos/ --evaluate
    cornernet export model.pth --format openvino --int8 photos/

The file takes any number of images in 0..255, of any size up to --max-side, and gives boxes in
their pixels; docs/deploy.md has its inputs and outputs. The comparison is printed and written
beside it, as FILE.parity.json.
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
from ..export.artifact import check as check_format
from ..export.detector import without_views
from ..export.formats import run as load
from ..predictor import build_predictor, class_names
from ..predictor.images import find_images, network_size, resize
from . import check_output
from .options import add_data, add_model, model_config

# Of a folder.
COMPARED_IMAGES = 20
CALIBRATION_IMAGES = 200


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--format", choices=sorted(FORMATS), default="onnx", help="[%(default)s]")
    parser.add_argument("--output", type=Path, metavar="FILE", help="[MODEL, of another ending]")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")
    parser.add_argument(
        "--int8", type=Path, metavar="FOLDER", help="convolutions in int8, ranges from its images"
    )
    parser.add_argument("--raw", action="store_true", help="pairs of corners, without soft-NMS")
    parser.add_argument(
        "--max-side", type=int, default=MAX_SIDE, help="of images, pixels [%(default)s]"
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="FOLDER",
        help=f"compare on its first {COMPARED_IMAGES} images",
    )
    parser.add_argument(
        "--evaluate", action="store_true", help="compare the AP on DATASETS.TEST, or --data, too"
    )
    add_data(parser)


def run(args: argparse.Namespace) -> int:
    """Exports, compares and reports; 1 if the two differ.

    Raises:
        ValueError: what was asked for cannot be exported.
    """
    if args.raw and (args.compare or args.evaluate):
        raise ValueError("--raw gives no detections: --compare and --evaluate do not go with it")
    cfg = model_config(args)
    ending = FORMATS[args.format].ending
    output = args.output or Path(args.model).with_suffix(f".int8{ending}" if args.int8 else ending)
    check_format(output, args.format, bool(args.int8))
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
        resize=(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST),
        calibration=read_folder(args.int8, cfg, CALIBRATION_IMAGES) if args.int8 else [],
    )
    weights = output.with_suffix(".bin")  # of OpenVINO
    size = sum(path.stat().st_size for path in {output, weights} if path.is_file())
    print(f"{output}: {size / 2**20:.1f} MiB, {metadata['input']}", flush=True)
    if args.raw:
        return 0
    report = _compare(args, cfg, model, output, metadata)
    target = output.with_name(f"{output.name}.parity.json")
    target.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{target}", flush=True)
    return 0 if report["passed"] or args.int8 else 1


def _compare(
    args: argparse.Namespace, cfg: CfgNode, model: nn.Module, output: Path, metadata: dict[str, str]
) -> dict[str, Any]:
    images = read_folder(args.compare, cfg, COMPARED_IMAGES) if args.compare else []
    sides = int(metadata["min_side"]), int(metadata["max_side"])
    report = {**metadata, **compare(model, load(output), images, *sides)}
    print("\n".join(report_lines(report)), flush=True)
    if args.evaluate:
        for name, tested in (("model", without_views(model)), ("file", Artifact(output))):
            results = CornerNetTrainer.test(cfg, tested)
            report[f"AP of the {name}"] = results
            print(f"{name}: {json.dumps(results)}", flush=True)
    return report


def read_folder(folder: Path, cfg: CfgNode, most: int) -> list[Tensor]:
    """The first images of a folder by name, as the network sees them: (3, H, W) uint8.

    Raises:
        ValueError: there are none, or one cannot be read.
    """
    settings, images = cfg.INPUT, []
    for path in find_images([folder])[:most]:
        picture = read_file(str(path), settings.FORMAT)
        sides = settings.MIN_SIZE_TEST, settings.MAX_SIZE_TEST
        view = resize(picture, network_size(*picture.shape[:2], *sides))
        images.append(torch.from_numpy(view.copy()).permute(2, 0, 1))
    return images
