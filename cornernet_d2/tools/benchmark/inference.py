"""Models and the files that they export to, measured in turns: one call of each, again and again.

    cornernet benchmark inference model.pth --int8 photos/ --evaluate --picture speed.png
    cornernet benchmark inference CornerNet-HG104 CornerNet-Squeeze --size 511 \\
        --variants plain float32 bfloat16

A model is a file of weights, or a shipped config's name: then its weights are random, and it finds
as many objects as it may. Test-time augmentation is left out. "ms" is the median time of a batch,
"speed" the median ratio to the first row's time in the same turn, "memory" what loading and a call
take at their peak. On a busy machine `--threads 1 --clock cpu` counts what this process computes.
"""

import argparse
import contextlib
import json
import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

from ...engine import CornerNetTrainer
from ...export import Artifact
from ...export.detector import without_views
from ...hardware import hardware_precision
from ...model_zoo import load_config
from ...predictor import build_predictor
from .. import check_output
from ..export import CALIBRATION_IMAGES, read_folder
from ..options import model_config
from .meters import CudaMeter, LinuxMeter
from .picture import draw
from .stages import STAGES, measure
from .train import noise_batch
from .variants import EAGER, EXPORTED, VARIANTS, caller, make, options, write_files


class Subject(NamedTuple):
    """What is measured: a row is one of these at one size and batch.

    Attributes:
        model: the name of the file or config.
        variant: one of VARIANTS.
        made: the model, or what calls a file's runtime.
        memory: bytes that loading it and a call took, None where the system does not tell.
        file: the exported file.
        cfg: the model's config.
    """

    model: str
    variant: str
    made: nn.Module | Callable
    memory: int | None
    file: Path | None
    cfg: CfgNode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="file of weights, or config")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, help="[all but compiled, aoti]")
    parser.add_argument("--size", type=int, nargs="+", default=[511], help="of images, pixels")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1], help="[1]")
    parser.add_argument("--rounds", type=int, default=5, help="turns, after one [%(default)s]")
    parser.add_argument("--int8", type=Path, metavar="FOLDER", help="images like those to come")
    parser.add_argument("--image", type=Path, metavar="PATH", help="measure on it, not on noise")
    parser.add_argument("--evaluate", action="store_true", help="also the AP on DATASETS.TEST")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as they choose")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="[%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw times and stages")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE")


def run(args: argparse.Namespace) -> int:
    """Prints the tables.

    Raises:
        ValueError: a model or a variant that cannot be.
    """
    for path in filter(None, (args.json, args.picture)):
        check_output(path, args.overwrite)
    logging.getLogger("detectron2").setLevel(logging.ERROR)
    if args.threads:
        torch.set_num_threads(args.threads)
    clock = _clock(args)
    report: dict[str, Any] = {"machine": machine(args), "rows": [], "stages": []}
    print("  ".join(f"{name}: {text}" for name, text in report["machine"].items()))
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        subjects = []
        for number, name in enumerate(args.models):
            (part := Path(folder) / str(number)).mkdir()
            subjects += _subjects(name, part, args)
        for size in args.size:
            for batch in args.batch_size:
                images = _images(args, size, batch)
                report["rows"] += _rows(subjects, images, clock, args.rounds)
        images = _images(args, args.size[0], 1)
        for subject in subjects:
            if subject.variant in EAGER and subject.variant != "compiled":
                spent = measure(subject.made, images, clock, args.rounds)
                report["stages"].append({"model": subject.model, "variant": subject.variant})
                report["stages"][-1] |= {stage: 1e3 * spent[stage] for stage in spent}
        if report["stages"]:
            _print_stages(report["stages"])
        if args.evaluate:
            report["AP"] = [_evaluate(subject, args.threads) for subject in subjects]
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.picture:
        draw(report, args.picture)
    return 0


def machine(args: argparse.Namespace) -> dict[str, str]:
    """What the numbers are of, as texts."""
    lines = Path("/proc/cpuinfo")
    names = lines.read_text().splitlines() if lines.is_file() else []
    cpu = next((x.partition(":")[2].strip() for x in names if x.startswith("model name")), "")
    name = torch.cuda.get_device_name() if args.device.startswith("cuda") else cpu
    return {
        "device": name or platform.processor(),
        "threads": str(args.threads or torch.get_num_threads()),
        "clock": args.clock,
        "fast": hardware_precision(args.device)[1],
        "torch": torch.__version__,
    }


def _clock(args: argparse.Namespace) -> Callable[[], float]:
    if args.clock == "cpu":
        return time.process_time
    if not args.device.startswith("cuda"):
        return time.perf_counter

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return clock


def _images(args: argparse.Namespace, size: int, batch: int) -> list[Tensor]:
    if args.image is None:
        return [x["image"] for x in noise_batch(batch, size, 1)]
    cfg = CfgNode({"INPUT": {"FORMAT": "BGR", "MIN_SIZE_TEST": size, "MAX_SIZE_TEST": size}})
    return read_folder(args.image, cfg, 1) * batch


def _subjects(name: str, folder: Path, args: argparse.Namespace) -> list[Subject]:
    """All variants of a model, each loaded and called once."""
    torch.manual_seed(0)
    trained = Path(name).is_file() and not name.endswith((".yaml", ".yml"))
    if trained:
        cfg = model_config(argparse.Namespace(model=name, config_file=None, opts=[]))
    else:
        cfg = load_config(name)
    cfg.MODEL.DEVICE, cfg.MODEL.CORNERNET.TEST.FAST = args.device, False
    cfg.OUTPUT_DIR = str(folder)  # the evaluator writes there
    model = without_views(build_predictor(cfg).model if trained else build_model(cfg).eval())
    variants = args.variants or [x for x in VARIANTS if x not in ("compiled", "aoti", "float16")]
    if args.int8 is None:
        variants = [x for x in variants if x not in EXPORTED or not EXPORTED[x][1]]
    images = read_folder(args.int8, cfg, CALIBRATION_IMAGES) if args.int8 else []
    most = max(*args.size, 4 * model.divisibility)
    files = write_files(model, variants, folder, most, images)
    subjects = []
    for variant in variants:
        meter = CudaMeter() if args.device.startswith("cuda") else _linux_meter()
        made = make(model, variant, files.get(variant), args.threads)
        caller(made)(_images(args, args.size[0], args.batch_size[0]))
        memory = meter.added() if meter else None
        title = Path(name).stem
        subjects.append(Subject(title, variant, made, memory, files.get(variant), cfg))
    return subjects


def _linux_meter() -> LinuxMeter | None:
    with contextlib.suppress(OSError):
        return LinuxMeter(trim=True)
    return None


def _rows(
    subjects: Sequence[Subject], images: list[Tensor], clock: Callable[[], float], rounds: int
) -> list[dict[str, Any]]:
    """A row of each subject, all called in turns; printed, too."""
    height, width = images[0].shape[-2:]
    print(f"\n{len(images)} x {height} x {width} pixels")
    print(f"{'':<36}{'ms':>9}{'images/s':>10}{'speed':>8}{'memory':>10}")
    times: list[list[float]] = []
    for turn in range(rounds + 1):  # the first one warms up
        spent = []
        for subject in subjects:
            start = clock()
            caller(subject.made)(images)
            spent.append(clock() - start)
        times += [spent] if turn else []
    rows = []
    for i, subject in enumerate(subjects):
        seconds = statistics.median(spent[i] for spent in times)
        speed = statistics.median(spent[0] / spent[i] for spent in times)
        row = {"model": subject.model, "variant": subject.variant, "batch": len(images)}
        row |= {"height": height, "width": width, "ms": 1e3 * seconds}
        row |= {"images_per_second": len(images) / seconds, "speed": speed}
        row["memory_mb"] = None if subject.memory is None else subject.memory / 1e6
        rows.append(row)
        memory = "" if subject.memory is None else f"{subject.memory / 1e6:.0f} MB"
        print(
            f"{subject.model + ', ' + subject.variant:<36}{row['ms']:9.1f}"
            f"{row['images_per_second']:10.2f}{speed:7.2f}x{memory:>10}",
            flush=True,
        )
    return rows


def _print_stages(rows: Sequence[dict[str, Any]]) -> None:
    print(f"\n{'share of the time, %':<36}" + "".join(f"{x[:10]:>11}" for x in STAGES))
    for row in rows:
        shares = "".join(f"{100 * row[stage] / row['total']:11.1f}" for stage in STAGES)
        print(f"{row['model'] + ', ' + row['variant']:<36}{shares}")
        rest = 100 * (1 - row["convolutions"] / row["total"])
        print(f"{'':<36}  not in a convolution: {rest:.1f} %", flush=True)


def _evaluate(subject: Subject, threads: int) -> dict[str, Any]:
    tested = subject.made
    if subject.file is not None:
        tested = Artifact(subject.file, **options(subject.variant, threads))
    results = CornerNetTrainer.test(subject.cfg, tested)
    print(f"{subject.model}, {subject.variant}: {json.dumps(results)}", flush=True)
    return {"model": subject.model, "variant": subject.variant, **results}
