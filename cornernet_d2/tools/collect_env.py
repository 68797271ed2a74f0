"""What is installed, which kernels run, and why others do not: to be sent with a report."""

import argparse
from importlib.util import find_spec

from detectron2.utils.collect_env import collect_env_info

from cornernet_d2 import __version__
from cornernet_d2.layers.extension import report


def collect() -> str:
    """Detectron2's environment report, followed by this package's version and operator."""
    lines = [f"{name:<24}{value}" for name, value in report().items()]
    extras = [name for name in ("onnx", "onnxruntime", "tensorboard") if find_spec(name)]
    lines.append(f"{'optional packages':<24}{', '.join(extras) or 'none'}")
    return "\n".join([collect_env_info(), f"{'cornernet_d2':<24}{__version__}", *lines])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(args: argparse.Namespace) -> int:
    print(collect())
    return 0
