"""Tries hostile inputs through the command line, and writes what came of each as a table.

    python -m tests.hostile docs/hostile-inputs.md

Every command runs as a process of its own. Fails where one shows a traceback, dies of a signal,
runs code of a file, or ends with another exit status than it should.
"""

import argparse
import contextlib
import fcntl
import importlib
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from hostile import files  # noqa: E402
from hostile.cases import MODEL, NETWORK, SECTIONS, TRAIN, Case  # noqa: E402

from cornernet_d2.engine import hooks  # noqa: E402
from cornernet_d2.tools import command  # noqa: E402

LIMIT = 300  # seconds
HEAD = """# Hostile inputs

What was tried through the command line, and what it said: one line, no traceback, nothing run that
was in a file. Written by `python -m tests.hostile docs/hostile-inputs.md`, which makes the files
([tests/hostile/files.py](../tests/hostile/files.py)) and runs every command as a process of its
own; it fails where one shows a traceback or has another exit status than expected. Exit status 0
stands where the input is used, or only noted.
"""


class Outcome(NamedTuple):
    status: int
    said: str
    faults: list[str]


def full() -> None:
    """Files end after 20 kB, as on a disk without space."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def small() -> None:
    usage = shutil.disk_usage(".")
    shutil.disk_usage = lambda path: usage._replace(free=1000)


def cut() -> None:
    for path in Path("output/cards").glob("model_*.pth"):
        os.truncate(path, 1000)


def interrupt() -> None:
    step = hooks.Forecast.after_step

    def after_step(hook: hooks.Forecast) -> None:
        step(hook)
        if hook.trainer.iter == 1:
            signal.raise_signal(signal.SIGINT)

    hooks.Forecast.after_step = after_step


WORLDS: dict[str, Callable[[], None]] = {f.__name__: f for f in (full, small, cut, interrupt)}


def run(case: Case) -> Outcome:
    """Runs one case in a process that has this one's imports."""
    reader, writer = os.pipe()
    lock = contextlib.ExitStack()
    if case.around == "locked":  # by this process
        file = lock.enter_context(open("output/cards/.lock", "w"))
        fcntl.lockf(file, fcntl.LOCK_EX)
        file.write("process 1234 on otherhost\n")
        file.flush()
    child = os.fork()
    if not child:
        _child(case, writer)
    os.close(writer)
    timer = threading.Timer(LIMIT, os.kill, (child, signal.SIGKILL))
    timer.start()
    with open(reader, encoding="utf-8", errors="replace") as stream:
        text = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    timer.cancel()
    lock.close()
    Path("log.txt").write_text(text)
    return judge(case, status, text)


def _child(case: Case, out: int) -> None:
    """Never returns."""
    os.setpgrp()
    os.dup2(out, 1), os.dup2(out, 2)
    os.close(out)
    words = case.line.split()
    if words[0] in ("train", "overfit") and "--data" in words:
        words += _pairs(NETWORK, words)
    code = 70
    try:
        WORLDS.get(case.around, bool)()
        code = command.main(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(code or 0)


def _pairs(network: tuple[str, ...], words: list[str]) -> list[str]:
    """The overrides of a tiny network that the line does not set itself."""
    pairs = zip(network[::2], network[1::2])
    return [word for key, value in pairs if key not in words for word in (key, value)]


def judge(case: Case, status: int, text: str) -> Outcome:
    """What a process said at its end, and what is wrong with that."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("cornernet")]
    faults = []
    if "Traceback (most recent call last)" in text:
        faults.append("traceback")
    if "--debug shows the traceback" in text:
        faults.append("an error that only its type explains")
    if Path("was_run").exists():
        faults.append("code of a file was run")
        os.rmdir("was_run")
    if status < 0:
        faults.append(f"ended by signal {-status}")
    elif case.around == "interrupt":
        if status != 130:
            faults.append(f"status {status} after Ctrl-C")
    elif (status == 0) != case.passes:
        faults.append(f"status {status}")
    # The report of `check` goes on after the problem, which stands indented.
    problems = [line for line in lines if line.startswith("  ")] if "problems" in text else []
    saved = [line for line in lines if "continue with --resume" in line]
    return Outcome(status, _said(errors or problems[:1] or saved or lines), faults)


def _said(lines: list[str]) -> str:
    line = lines[-1].strip() if lines else ""
    line = line.replace(os.getcwd() + "/", "").replace("|", "\\|")
    line = line.split("]: ", 1)[1] if line.startswith("\x1b[") and "]: " in line else line
    return line if len(line) < 300 else line[:297] + "..."


def report(section: str, outcomes: list[tuple[Case, Outcome]]) -> str:
    rows = [f"\n## {section}\n", "| `cornernet` | status | last line |", "|---|---|---|"]
    for case, outcome in outcomes:
        what = f" ({case.what})" if case.what else ""
        rows.append(f"| `{case.line}`{what} | {outcome.status} | {outcome.said} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, nargs="?", help="the table [none is written]")
    parser.add_argument("--only", default="", help="sections whose name holds this")
    args = parser.parse_args()
    output = args.output and args.output.resolve()
    for name in command.COMMANDS:
        importlib.import_module(f"cornernet_d2.tools.{name.replace('-', '_')}")
    parts, faults, number = [HEAD], 0, 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        files.make_data()
        trained = run(Case(TRAIN, passes=True))
        if trained.faults:
            sys.exit(f"{TRAIN}: {trained}\n{Path('log.txt').read_text()}")
        shutil.copytree("output/cards", "kept")
        assert Path(MODEL).is_file()
        for make in (files.make_json, files.make_other_layouts, files.make_images,
                     files.make_weights, files.make_configs):  # fmt: skip
            make()
        for section, cases in SECTIONS.items():
            if args.only.lower() not in section.lower():
                continue
            outcomes = []
            for case in cases:
                outcome = run(case)
                outcomes.append((case, outcome))
                mark = f"FAULT {', '.join(outcome.faults)}" if outcome.faults else "ok"
                print(f"{mark}: {case.line} -> {outcome.status} {outcome.said}", flush=True)
                if outcome.faults:
                    print(Path("log.txt").read_text("utf-8", "replace")[-3000:])
                faults += bool(outcome.faults)
                number += 1
                if case.around == "cut":
                    shutil.rmtree("output/cards")
                    shutil.copytree("kept", "output/cards")
            parts.append(report(section, outcomes))
    print(f"{number} command lines, {faults} with a fault")
    if output:
        output.write_text("".join([HEAD, f"\n{number} command lines.\n", *parts[1:]]))
    return min(faults, 1)


if __name__ == "__main__":
    raise SystemExit(main())
