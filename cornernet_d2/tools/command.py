"""The command ``cornernet``: finds the subcommand, and turns its errors into one line."""

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from detectron2.config import CfgNode, get_cfg

from ..config import add_cornernet_config

# Each is a module of this folder: tools/check.py, with _ for -.
COMMANDS = {
    "train": "train a model, on your own data with --data",
    "eval": "evaluate a trained model",
    "predict": "draw what a trained model finds on images or a video",
    "check": "report on a dataset before hours are spent on it",
    "analyze": "why a trained model misses, and what each output costs in AP",
    "export": "write a trained model as one file for another runtime",
    "serve": "answer HTTP requests with detections, and show a page",
    "convert": "convert checkpoints between code bases",
    "overfit": "learn a few images by heart, to check a change",
    "contact-sheet": "draw ground truth beside predictions",
    "benchmark": "measure one part of the package",
    "collect-env": "what is installed, and which kernels run",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``cornernet ARGUMENTS``; returns the exit status: 0, or 1 after an error in one line.

    Args:
        argv: the arguments, by default those of the process.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="cornernet",
        description="Train and use CornerNet.",
        epilog="`cornernet SUBCOMMAND --help` tells the arguments of each.",
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="SUBCOMMAND")
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary, add_help=False)
    name = parser.parse_args(argv[:1]).name
    module = importlib.import_module(f".{name.replace('-', '_')}", __package__)
    args = parse(module, name, argv[1:])
    return guarded(lambda: module.run(args), f"cornernet {name}", args.debug)


def parse(module: ModuleType, name: str, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of one subcommand; leaves the program at unknown ones, and after --help."""
    parser = argparse.ArgumentParser(
        prog=f"cornernet {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    if parser.get_default("opts") is None:  # no config to override
        return parser.parse_args(argv)
    end = argv.index("--") if "--" in argv else len(argv)  # names that begin with a dash
    given, opts = split_overrides(argv[:end])
    args = parser.parse_intermixed_args(given)
    if rest := argv[end + 1 :]:
        if "inputs" not in args:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        args.inputs += rest
    if len(opts) % 2:
        parser.error(f"overrides are pairs of KEY and VALUE: {' '.join(opts)}")
    args.opts = opts
    return args


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments, and the ``KEY VALUE ...`` at their end: from the first name of a config key on.

    A file with such a name is written with its folder: ``./SEED``.
    """
    cfg = get_cfg()
    add_cornernet_config(cfg)
    for i, word in enumerate(argv):
        section, dot, _ = word.partition(".")
        if re.fullmatch(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_a-z-]+)*", word) and section in cfg:
            if dot == "." and isinstance(cfg[section], CfgNode):
                return list(argv[:i]), list(argv[i:])
            if not dot and not isinstance(cfg[section], CfgNode):
                return list(argv[:i]), list(argv[i:])
    return list(argv), []


def guarded(run: Callable[[], Any], prog: str, debug: bool = False) -> int:
    """Call ``run`` and return its exit status; an error becomes one line on stderr and 1.

    Args:
        run: returns the exit status, None for 0.
        prog: begins the line.
        debug: let errors through, with their traceback.
    """
    try:
        return run() or 0
    except KeyboardInterrupt:
        if debug:
            raise
        print(f"{prog}: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        print(f"{prog}: {one_line(error)}", file=sys.stderr)
        return 1


def one_line(error: Exception) -> str:
    """What an error says, without line breaks; the errors of programmers with their name."""
    text = str(error)
    if type(error).__name__ == "ProcessRaisedException":  # the traceback of another process
        text = text.strip().rpartition("\n")[2]
    text = " ".join(text.split())
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory: {text}" if text else "out of memory"
    expected = isinstance(error, (ValueError, OSError)) or type(error).__name__ in (
        *("CheckpointError", "ProcessRaisedException", "DecompressionBombError"),
    )
    if expected and text:
        return text
    return f"{type(error).__name__}: {text} (--debug shows the traceback)"
