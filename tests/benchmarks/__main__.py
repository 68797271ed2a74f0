"""``python -m tests.benchmarks SUBCOMMAND``: measures one part of the package.

Every number is a ratio to a baseline measured in the same run, in turns with it.
"""

import argparse
import importlib
import sys

SUBCOMMANDS = {
    "op": "corner pooling against a copy, cummax and loops",
    "data": "the training data loader",
    "check": "the check of annotations as many as COCO's",
    "serve": "cornernet serve against the bare model, under load",
    "soft_nms": "soft-NMS against a loop over images and classes",
    "pairing": "inference with each pairing against embeddings",
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="SUBCOMMAND")
    for name, summary in SUBCOMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    arguments = sys.argv[1:] if arguments is None else arguments
    name = parser.parse_args(arguments[:1]).command
    module = importlib.import_module(f".{name}", __package__)  # only the one that runs is imported
    command = argparse.ArgumentParser(prog=f"{parser.prog} {name}", description=SUBCOMMANDS[name])
    module.add_arguments(command)
    return module.run(command.parse_args(arguments[1:]))


if __name__ == "__main__":
    sys.exit(main())
