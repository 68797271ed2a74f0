"""From nothing to a trained, evaluated and drawn CornerNet, in minutes on two CPU cores.

    python .ci/quickstart.py        (in the root of the repository; `make quickstart` calls it)

Runs the commands that a user would, and prints each. What an earlier run left is used: finished
training is evaluated again, stopped training goes on.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils.logger import create_small_table

from cornernet_d2 import load_config
from cornernet_d2.engine.precision import choose_precision, precision_name

CONFIG = "configs/CornerNet-Shapes-centripetal.yaml"


def run(*arguments: str) -> None:
    """Prints and runs a Python command line; leaves the program where it fails."""
    print(f"\n$ python {shlex.join(arguments)}", flush=True)
    code = subprocess.run([sys.executable, *arguments]).returncode
    if code:
        sys.exit(f"quickstart: stopped, the command above failed (exit status {code})")


def last_evaluation(metrics: Path) -> dict[str, float]:
    """Reads the latest COCO results, in percent, from the metrics.json of a run.

    Raises:
        ValueError: there are none in it.
    """
    prefix = "bbox/"
    for line in reversed(metrics.read_text().splitlines()):
        found = json.loads(line)
        if f"{prefix}AP" in found:
            return {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
    raise ValueError(f"{metrics} holds no evaluation")


def describe(cfg: CfgNode) -> str:
    """What the training that ``cfg`` describes uses of this machine, and what it does."""
    precision, reason = choose_precision(cfg)
    solver = cfg.SOLVER
    return (
        f"device {cfg.MODEL.DEVICE} with {torch.get_num_threads()} threads, precision "
        f"{precision_name(precision)} ({reason}); {solver.MAX_ITER} iterations of "
        f"{solver.IMS_PER_BATCH} images"
    )


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the head of this file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    if not os.path.isfile(CONFIG):
        sys.exit(f"quickstart: {CONFIG} is not here; run it in the root of the repository")
    start = time.monotonic()
    cfg = load_config(CONFIG)
    output, dataset = Path(cfg.OUTPUT_DIR), cfg.DATASETS.TEST[0]
    predictions = output / "inference" / dataset / "coco_instances_results.json"
    sheet = output / "contact_sheet.png"

    print(f"quickstart: {describe(cfg)}. A line says how long, once 25 of them are done.")
    run(".ci/make_shapes.py")
    run("train_net.py", "--config-file", CONFIG, "--resume")
    draw = ("-m", "cornernet_d2", "contact-sheet", "--config-file", CONFIG)
    run(*draw, "--predictions", str(predictions), "--output", str(sheet), "--overwrite")

    results = last_evaluation(output / "metrics.json")
    print(f"\nCOCO box AP on {dataset}, percent, after {(time.monotonic() - start) / 60:.1f} min:")
    print(create_small_table(dict(sorted(results.items(), key=lambda item: "-" in item[0]))))
    weights = output / "model_final.pth"
    print(f"""
trained model   {weights}
curves          tensorboard --logdir {output}    ({output / 'metrics.json'})
predictions     {predictions}
pictures        {sheet}

draw on a picture of your own:
  cornernet predict {weights} FILE --output drawn/
train anew: remove {output}""")


if __name__ == "__main__":
    main()
