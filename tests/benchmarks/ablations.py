"""What a part of the method, or a way of pairing, is worth: a training with one thing changed.

    python -m tests.benchmarks.ablations --output ablations --seeds 1 2 KEY VALUE ...
    python -m tests.benchmarks.ablations --about pairing --config-file CornerNet-BCCD ...

Every variant is trained with every seed in a process of its own and evaluated; finished ones are
skipped, stopped ones go on, so that the command can be repeated until its table is full. More
variants: --variant "NAME=KEY VALUE KEY VALUE". Variants of the test alone take the baseline's
weights. The data is made by `python .ci/make_shapes.py`.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cornernet_d2.diagnosis.training_report import read_metrics
from cornernet_d2.engine.run import evaluate, train
from cornernet_d2.model_zoo import read_config
from cornernet_d2.tools.command import split_overrides

from .variants import BASELINE, SETS, Variant

METRICS = ("AP", "AP50", "AP75")
RESULT = "result.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--output", type=Path, default=Path("output/ablations"), help="[%(default)s]")
    add("--about", choices=SETS, default="method", help="which variants [%(default)s]")
    add("--config-file", default="CornerNet-Shapes", help="[%(default)s]")
    add("--iterations", type=int, default=800, help="of each training [%(default)s]")
    add("--seeds", type=int, nargs="+", default=[1, 2], help="[1 2]")
    add("--variants", nargs="+", metavar="NAME", help="these alone, and the baseline")
    add("--variant", action="append", default=[], metavar="NAME=KEY VALUE", help="one more")
    add("--run", nargs=2, metavar=("NAME", "SEED"), help=argparse.SUPPRESS)


def variants_of(args: argparse.Namespace) -> list[Variant]:
    """Those asked for, the baseline first.

    Raises:
        ValueError: an unknown name, or no pairs of key and value.
    """
    every = list(SETS[args.about])
    for text in args.variant:
        name, _, keys = text.partition("=")
        overrides = shlex.split(keys)
        if not name or not overrides or len(overrides) % 2:
            raise ValueError(f"--variant {text!r} is not NAME=KEY VALUE ...")
        every.append(Variant(name, overrides))
    names = [x.name for x in every]
    unknown = set(args.variants or ()) - set(names)
    if unknown:
        raise ValueError(f"no variant is called {', '.join(unknown)}; there are {', '.join(names)}")
    return [x for x in every if not args.variants or x.name in (BASELINE, *args.variants)]


def run_one(args: argparse.Namespace, variant: Variant, seed: int) -> dict[str, float]:
    """Train and evaluate in this process; the metrics are written to :data:`RESULT`, too."""
    folder = args.output / variant.folder / str(seed)
    cfg = read_config(args.config_file, [*args.opts, *variant.overrides])
    cfg.SOLVER.MAX_ITER, cfg.SEED, cfg.OUTPUT_DIR = args.iterations, seed, str(folder)
    cfg.SOLVER.STEPS = [step for step in cfg.SOLVER.STEPS if step < args.iterations]
    cfg.SOLVER.CHECKPOINT_PERIOD = max(1, args.iterations // 4)
    folder.mkdir(parents=True, exist_ok=True)
    with variant.change():
        if variant.at_test:
            baseline = args.output / BASELINE / str(seed)
            cfg.MODEL.WEIGHTS = str(baseline / "model_final.pth")
            results = evaluate(cfg, resume=False)["bbox"]
        else:
            train(cfg, resume=True)
            metrics = read_metrics(folder / "metrics.json")
            results = {name: metrics[f"bbox/{name}"][-1][1] for name in METRICS}
    found = {name: float(results[name]) for name in METRICS}
    (folder / RESULT).write_text(json.dumps(found) + "\n")
    return found


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """A row a variant: mean and standard deviation over the seeds, and what the mean AP gained.

    Args:
        found: name -> metrics of each seed, the baseline's among them.
    """

    def mean(name: str, metric: str) -> float:
        return statistics.fmean(x[metric] for x in found[name])

    lines = [f"{'':36}{'seeds':>6}" + "".join(f"{m:>14}" for m in METRICS) + f"{'AP gained':>11}"]
    for name, results in found.items():
        cells = []
        for metric in METRICS:
            spread = statistics.stdev([x[metric] for x in results]) if len(results) > 1 else 0.0
            cells.append(f"{mean(name, metric):7.1f} ± {spread:3.1f} ")
        gained = mean(name, "AP") - mean(BASELINE, "AP")
        line = f"{name:36}{len(results):6}" + "".join(f"{cell:>14}" for cell in cells)
        lines.append(line + ("" if name == BASELINE else f"{gained:+11.1f}"))
    return "\n".join(lines)


def run(args: argparse.Namespace, argv: Sequence[str] = ()) -> int:
    """Run what is missing, seed by seed, and print the table; 1 if a training failed."""
    variants, failed = variants_of(args), []
    if args.run:
        name, seed = args.run
        run_one(args, next(x for x in variants if x.name == name), int(seed))
        return 0
    for seed in args.seeds:
        for variant in variants:
            if (args.output / variant.folder / str(seed) / RESULT).is_file():
                continue
            print(f"{variant.name}, seed {seed}", flush=True)
            if _start(argv, variant.name, seed):
                failed.append(f"{variant.name}, seed {seed}")
    found = read_all(args, variants)
    if BASELINE in found:
        print(table(found))
    if failed:
        print(f"failed: {'; '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def read_all(
    args: argparse.Namespace, variants: Sequence[Variant]
) -> dict[str, list[dict[str, Any]]]:
    """Name -> metrics of the seeds that are done; without variants that have none."""
    found: dict[str, list[dict[str, Any]]] = {}
    for variant in variants:
        for seed in args.seeds:
            path = args.output / variant.folder / str(seed) / RESULT
            if path.is_file():
                found.setdefault(variant.name, []).append(json.loads(path.read_text()))
    return found


def _start(argv: Sequence[str], name: str, seed: int) -> int:
    """One run in a process of its own; returns its exit status."""
    command = [sys.executable, "-m", __spec__.name, "--run", name, str(seed), *argv]
    return subprocess.run(command, stdout=subprocess.DEVNULL).returncode


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; KEY VALUE at their end are ``opts``."""
    given, opts = split_overrides(argv)
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.ablations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    args = parser.parse_args(given)
    args.opts = opts
    return args


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    return run(parse(argv), argv)


if __name__ == "__main__":
    sys.exit(main())
