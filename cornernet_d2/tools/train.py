"""Train a model.

    cornernet train --data cards/                       own data, in any of the usual layouts
    cornernet train --config-file CornerNet-HG104 --num-gpus 8
    cornernet train --config-file output/cards/config.yaml --resume

With --data the starter CornerNet-Small is fitted to the data (docs/data.md), unless --config-file
names a config, of which then only classes and datasets change. KEY VALUE ... at the end override
everything. The whole config and log are in OUTPUT_DIR, and report.html says what was learnt.
"""

import argparse

from ..diagnosis.training_report import write_report
from ..engine.run import add_processes, run_training
from .options import add_config, add_data, training_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    add_config(parser)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    add_processes(parser)


def run(args: argparse.Namespace) -> int:
    run_training(training_config(args), args, resume=args.resume, after=write_report)
    return 0
