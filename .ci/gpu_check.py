"""``python .ci/gpu_check.py``: everything that has to be true, and known, on this GPU.

Builds the CUDA kernels if they are missing, tests them, and measures kernels, model and data
loading; the tables are ready for the README. Needs a clone of the repository, torch and Detectron2;
neither network nor make. Every step runs in a process of its own and within a time of its own, so
that one that fails, hangs or breaks the CUDA context leaves the others alone.

    python .ci/gpu_check.py --plan                  what would run, without a GPU
    python .ci/gpu_check.py --json gpu.json         all of it, within 15 minutes
    python .ci/gpu_check.py --only bandwidth        some of it
    python .ci/gpu_check.py --device cpu --tiny     the same code on small sizes, without a GPU
"""

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / ".ci")]  # the operator is built in place

from gpu_checks import STEPS, Settings, Step, report  # noqa: E402

CPU_PATIENCE = 10  # the steps' times are for a machine with a GPU


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python .ci/gpu_check.py", description=__doc__.splitlines()[0]
    )
    names = [step.name for step in STEPS]
    parser.add_argument("--plan", action="store_true", help="print the steps and run none")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results there, too")
    parser.add_argument("--only", nargs="+", choices=names, metavar="STEP", help=", ".join(names))
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the check itself")
    parser.add_argument("--step", choices=names, help=argparse.SUPPRESS)  # in a process of its own
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)  # where it writes
    return parser.parse_args(argv)


def run_step(name: str, settings: Settings, rows: Path) -> int:
    """Run one step here, and write each row as soon as it is known; 1 if one is not ok."""
    if settings.tiny:
        # bfloat16 convolutions of small channels_last maps crash in torch 2.14's oneDNN on two.
        torch.set_num_threads(1)
    module = importlib.import_module(f"gpu_checks.{name}")
    good = True
    with rows.open("a") as file:
        for row in module.run(settings):
            good &= row.get("ok", True) is not False
            file.write(json.dumps(row) + "\n")
            file.flush()
    return 0 if good else 1


def environment() -> dict[str, str]:
    """This one, with the repository on the path, and without news that are not about the GPU."""
    path = [str(ROOT), str(ROOT / ".ci"), os.environ.get("PYTHONPATH", "")]
    quiet = "ignore::FutureWarning,ignore::UserWarning,ignore::DeprecationWarning"
    changes = {"PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONWARNINGS": quiet}
    return {**os.environ, **changes}


def supervise(step: Step, settings: Settings) -> dict[str, Any]:
    """Run one step in a process of its own; what became of it."""
    print(f"\n## {step.title}\n", flush=True)
    command = [sys.executable, __file__, "--step", step.name, "--device", settings.device]
    command += ["--tiny"] if settings.tiny else []
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows"
        rows.touch()
        # A group of its own, so that its children end with it.
        process = subprocess.Popen(
            [*command, "--rows", str(rows)], cwd=ROOT, env=environment(), start_new_session=True
        )
        limit = step.seconds * (CPU_PATIENCE if settings.device == "cpu" else 1)
        try:
            status = "FAILED" if process.wait(limit) else "ok"
        except subprocess.TimeoutExpired:
            status = f"FAILED: not done within {limit} s"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        found = [json.loads(line) for line in rows.read_text().splitlines()]
    skipped = [row["skipped"] for row in found if "skipped" in row]
    if status == "ok" and skipped:
        status = f"NOT RUN: {skipped[0]}"
    seconds = time.monotonic() - start
    print(report.table(found))
    print(f"\n{step.name}: {status}, {seconds:.0f} s", flush=True)
    return {"name": step.name, "status": status, "seconds": round(seconds, 1), "rows": found}


def main(argv: list[str] | None = None) -> int:
    args = arguments(argv)
    settings = Settings(args.device, args.tiny)
    if args.step:
        return run_step(args.step, settings, args.rows)
    steps = [step for step in STEPS if not args.only or step.name in args.only]
    if args.plan:
        print(report.plan(steps))
        return 0
    results = [supervise(step, settings) for step in steps]
    print(f"\n## Summary\n\n{report.summary(results)}")
    if args.json:
        args.json.write_text(
            json.dumps({"settings": settings._asdict(), "steps": results}, indent=1)
        )
    return 1 if any(result["status"].startswith("FAILED") for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
