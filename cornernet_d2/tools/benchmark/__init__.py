"""Measure one part of the package.

Every number is a ratio to a baseline measured in the same run, in turns with it. Each module here
is one part, with ``add_arguments(parser)`` and ``run(args) -> int``.
"""

import argparse
import importlib

PARTS = {
    "inference": "a model and the files it exports to, side by side",
    "train": "training iterations of the whole model",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    for name, summary in PARTS.items():
        module = importlib.import_module(f".{name}", __package__)
        part = parts.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(part)
        part.set_defaults(part_run=module.run)


def run(args: argparse.Namespace) -> int:
    return args.part_run(args)
