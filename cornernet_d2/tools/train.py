"""Train a model.

    cornernet train --data cards/                       own data, in any of the usual layouts
    cornernet train --data cards/ --from coco.pth       from trained weights of any code base
    cornernet train --config-file CornerNet-HG104 --num-gpus 8
    cornernet train --config-file output/cards/config.yaml --resume

With --data the starter CornerNet-Small is fitted to the data (docs/data.md), unless --config-file
names a config, of which then only classes and datasets change. KEY VALUE ... at the end override
everything. The whole config and log are in OUTPUT_DIR, and report.html says what was learnt.

With --from the network and its settings are the file's: its heat maps keep the classes that the
data has by name, the others start from nothing. They are written to OUTPUT_DIR/start.pth.
"""

import argparse
from pathlib import Path

from detectron2.config import CfgNode

from ..diagnosis.training_report import write_report
from ..engine.run import add_processes, run_training
from .convert import convert
from .options import add_config, add_data, training_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    add_config(parser)
    parser.add_argument(
        "--from", dest="start_from", metavar="FILE", help="weights to start from, with --data"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    add_processes(parser)


def run(args: argparse.Namespace) -> int:
    cfg = training_config(args)
    if args.start_from and not args.resume:
        start_from(args.start_from, cfg)
    run_training(cfg, args, resume=args.resume, after=write_report)
    return 0


def start_from(source: str, cfg: CfgNode) -> None:
    """Fit the weights of a file to the classes of the data, and say which were known."""
    destination = Path(cfg.OUTPUT_DIR) / "start.pth"
    destination.parent.mkdir(parents=True, exist_ok=True)
    classes = cfg.DATASETS.FILES[cfg.DATASETS.TRAIN[0]].CLASSES
    report = convert(
        source,
        str(destination),
        classes=classes,
        allow_new_classes=True,
        overwrite=True,
    )
    cfg.MODEL.WEIGHTS = str(destination)
    for title, value in report:
        if title.startswith("classes"):
            print(f"{title:<34} {value}")
