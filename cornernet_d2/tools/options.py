"""Arguments that several subcommands take, and the config that they come to."""

import argparse
from pathlib import Path

import torch
from detectron2.config import CfgNode

from ..checkpoint.config import read_config as config_in_file
from ..checkpoint.contents import read_contents
from ..data.files import register_files
from ..data.recipe import own_data
from ..data.sources import find_data
from ..model_zoo import load_config, read_config
from ..predictor import Predictor, load
from ..predictor.build import override

STARTER = "CornerNet-Small"


def add_config(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """``--config-file``, and with it KEY VALUE at the end, which command.py takes off."""
    note = f" [{default}]" if default else ""
    parser.add_argument(
        "--config-file",
        metavar="NAME",
        default=default,
        help=f"a path, or a shipped config's name{note}; KEY VALUE ... at the end override it",
    )
    parser.set_defaults(opts=[])


def add_data(parser: argparse.ArgumentParser) -> None:
    """``--data``, ``--val`` and ``--images``: a dataset that is not registered."""
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="own data: COCO json, YOLO data.yaml, or a folder of COCO, Roboflow, YOLO or VOC",
    )
    parser.add_argument("--val", metavar="PATH", help="COCO json to evaluate on [found, or a part]")
    parser.add_argument("--images", metavar="FOLDER", help="folder of a json's images [found]")


def whole_data(args: argparse.Namespace) -> dict[str, dict]:
    """What --data names, as entries of DATASETS.FILES, with nothing held out of one set."""
    files = find_data(args.data, args.val, args.images)
    train = next(iter(files))
    return {train: files[train]} if files[train].pop("PART", None) else files


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="file of trained weights")
    add_config(parser)


def model_config(args: argparse.Namespace) -> CfgNode:
    """The config of ``args.model``: --config-file, else the one in the file.

    Raises:
        ValueError: there is no such file, or it tells no config.
    """
    weights = Path(args.model)
    if not weights.is_file():
        raise ValueError(f"{weights} does not exist")
    if args.config_file:
        cfg = load_config(args.config_file, args.opts)
    else:
        cfg, _ = config_in_file(read_contents(str(weights), mmap=True), str(weights))
        cfg.OUTPUT_DIR = str(weights.parent)
        if not torch.cuda.is_available():
            cfg.MODEL.DEVICE = "cpu"
        override(cfg, args.opts)
        register_files(cfg)
    cfg.MODEL.WEIGHTS = str(weights)
    if getattr(args, "data", None):
        files = find_data(args.data, args.val, args.images)
        cfg = own_data(cfg, files, keep=True, opts=args.opts)
    return cfg


def load_predictor(args: argparse.Namespace, *opts: object) -> Predictor:
    """The model of ``args.model`` with the config in the file, or of --config-file; says so.

    Args:
        opts: keys and values before those of the command line.

    Raises:
        ValueError: there is no such file, or it tells no config.
    """
    opts = [*opts, *args.opts]
    if args.config_file is None:
        predictor = load(args.model, args.device, opts=opts)
    else:
        cfg = load_config(args.config_file, opts)
        if args.model is not None:
            cfg.MODEL.WEIGHTS = args.model
        if args.device != "auto":
            cfg.MODEL.DEVICE = args.device
        predictor = Predictor.from_config(cfg)
    names = predictor.class_names
    known = f": {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else ""
    kind = ", averaged weights" if predictor.averaged else ""
    number = predictor.cfg.MODEL.CORNERNET.NUM_CLASSES
    print(f"{predictor.cfg.MODEL.WEIGHTS}: {number} classes{known}{kind}", flush=True)
    return predictor


def training_config(args: argparse.Namespace) -> CfgNode:
    """The config of a training: --config-file, with --data the starter, and KEY VALUE on top.

    Of weights to start from (--from) it is their own.

    Raises:
        ValueError: neither of both is given, or what they name cannot be used.
    """
    if args.start_from and not args.data:
        raise ValueError("--from FILE goes with --data FOLDER; for a config, set MODEL.WEIGHTS")
    if not args.data:
        if not args.config_file:
            raise ValueError("give --data FOLDER for own data, or --config-file NAME")
        return read_config(args.config_file, args.opts)
    files = find_data(args.data, args.val, args.images)
    if args.start_from and not args.config_file:
        if not Path(args.start_from).is_file():
            raise ValueError(f"{args.start_from} does not exist")
        cfg, _ = config_in_file(read_contents(args.start_from, mmap=True), args.start_from)
        cfg.DATASETS.FILES.clear()  # of the run that made it
        cfg.OUTPUT_DIR = f"output/{next(iter(files)).removesuffix('_train')}"
    else:
        cfg = read_config(args.config_file or STARTER)
    keep = bool(args.config_file or args.start_from)
    cfg = own_data(cfg, files, keep=keep, opts=args.opts)
    begun = Path(cfg.OUTPUT_DIR) / "config.yaml"
    # The recipe looks at free memory: a run goes on with what it began with.
    return read_config(str(begun), args.opts) if args.resume and begun.is_file() else cfg
