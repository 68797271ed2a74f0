#!/usr/bin/env python
"""Train or evaluate a CornerNet from a config file; the command line is Detectron2's.

Runs in one process, in --num-gpus processes per machine, or under torchrun, which then decides
about the processes. `cornernet train` and `cornernet eval` are the same with fewer words.
"""

import argparse
import sys
from typing import Any

import cornernet_d2  # noqa: F401  first: Detectron2's deprecations are no news for a user

# isort: split
from detectron2.engine import default_argument_parser

from cornernet_d2.diagnosis.training_report import write_report
from cornernet_d2.engine.run import run_evaluation, run_training
from cornernet_d2.model_zoo import read_config
from cornernet_d2.tools.command import guarded


def main(args: argparse.Namespace) -> dict[str, Any] | None:
    """Run what the arguments of Detectron2's parser say; returns the results of evaluation."""
    if not args.config_file:
        raise ValueError("give --config-file FILE")
    cfg = read_config(args.config_file, args.opts)
    if args.eval_only:
        return run_evaluation(cfg, args, resume=args.resume)
    return run_training(cfg, args, resume=args.resume, after=write_report)


def command_line() -> int:
    parser = default_argument_parser()
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args()
    return guarded(lambda: main(args) and 0, "train_net.py", args.debug)


if __name__ == "__main__":
    sys.exit(command_line())
