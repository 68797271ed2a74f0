"""``python -m cornernet_d2.tools.collect_env``: Detectron2's report, and our lines."""

import sys
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


if __name__ == "__main__":
    print(collect())
    sys.exit(0)
