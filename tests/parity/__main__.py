"""Compare every computation with a folder of what another implementation computed.

    python -m tests.parity FOLDER
    python -m tests.parity FOLDER --only losses,decode --verbose
    python -m tests.parity FOLDER --json report.json

FOLDER holds .npz files as their README describes, of the authors' code, of MMDetection, of
CentripetalNet, of CenterNet or of CornerNet-Squeeze, and there or beside it is the weights.py that
they were made with, which is run. Which of these it is, its files tell. Exits with 0 if every
comparison holds, 1 if one does not, 2 if there was none.
"""

import argparse
import fnmatch
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from . import centernet, centripetal, mmdet, official, squeeze
from .check import Check
from .reference import (
    CenterNetReference,
    CentripetalReference,
    MMDetReference,
    OfficialReference,
    Reference,
    SqueezeReference,
)

Runner = Callable[[Reference, str], Iterator[Check]]
# File pattern -> what compares it. A folder without the marks of any other kind is the last.
KINDS: dict[type[Reference], dict[str, Runner]] = {
    CenterNetReference: centernet.RUNNERS,
    CentripetalReference: centripetal.RUNNERS,
    MMDetReference: mmdet.RUNNERS,
    SqueezeReference: squeeze.RUNNERS,
    OfficialReference: official.RUNNERS,
}


def open_folder(path: str) -> Reference:
    """A folder of the kind that its files tell.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    *marked, other = KINDS
    folder = Reference(path)
    return next((kind for kind in marked if kind.recognises(folder)), other)(path)


def compare(folder: Reference, only: Sequence[str] = ()) -> Iterator[Check]:
    """Run every comparison of a folder.

    Args:
        folder: the reference.
        only: beginnings of file names to restrict it to.
    """
    for pattern, run in KINDS[type(folder)].items():
        for file in fnmatch.filter(folder.files(), pattern):
            if not only or file.startswith(tuple(only)):
                yield from _guarded(run, folder, file)


def _guarded(run: Runner, folder: Reference, file: str) -> Iterator[Check]:
    """An error ends a file's comparisons and counts as one that does not hold."""
    case = "-"
    try:
        for check in run(folder, file):
            case = check.case
            yield check
    except Exception as error:
        traceback.print_exc()
        note = f"{type(error).__name__} after this case: {error}"
        yield Check(file, case, "run", float("nan"), float("nan"), 0.0, "exact", note)


def survey(folder: Reference, only: Sequence[str] = ()) -> list[str]:
    """What in the folder will not be compared, and what of the layout it lacks."""
    files = folder.files()
    known = [*KINDS[type(folder)], *folder.support]
    lines = [
        f"unknown file: {file}"
        for file in files
        if not any(fnmatch.fnmatch(file, pattern) for pattern in known)
    ]
    lines += [
        f"not in the folder: {pattern}"
        for pattern in KINDS[type(folder)]
        if not fnmatch.filter(files, pattern) and (not only or pattern.startswith(tuple(only)))
    ]
    return lines


def summarise(checks: Sequence[Check]) -> list[Check]:
    """One check a case and measure: the one nearest to, or furthest beyond, its tolerance."""
    worst: dict[tuple[str, str, str], Check] = {}
    for check in checks:
        key = (check.file, check.case, check.measure)
        if key not in worst or _margin(check) > _margin(worst[key]):
            worst[key] = check
    return list(worst.values())


def _margin(check: Check) -> float:
    if not check.passed:
        return float("inf")
    error = check.max_rel if check.measure == "relative" else check.max_abs
    return error / check.tolerance if check.tolerance else 0.0


def _row(check: Check) -> str:
    limit = "exact" if check.measure == "exact" else f"{check.tolerance:.0e} {check.measure[:3]}"
    verdict = "holds" if check.passed else "FAILS"
    return (
        f"{check.file:<22} {check.case:<19} {check.quantity[:46]:<46} "
        f"{check.max_abs:9.2e} {check.max_rel:9.2e} {limit:>10}  {verdict} {check.note}"
    )


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.parity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=[], help="files: network,losses,..."
    )
    parser.add_argument("--verbose", action="store_true", help="every comparison, not one a case")
    parser.add_argument("--json", metavar="FILE", help="also write all comparisons there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and print the table."""
    args = get_parser().parse_args(argv)
    try:
        folder = open_folder(args.folder)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    start = time.perf_counter()
    checks = list(compare(folder, args.only))
    title = f"{'file':<22} {'case':<19} {'quantity (nearest to its tolerance)':<46}"
    print(f"{title} {'max abs':>9} {'max rel':>9} {'tolerance':>10}  verdict")
    for check in checks if args.verbose else summarise(checks):
        print(_row(check))
    for line in survey(folder, args.only):
        print(line)
    failed = [check for check in checks if not check.passed]
    cases = {(check.file, check.case) for check in checks}
    print(
        f"{len(checks) - len(failed)} of {len(checks)} comparisons hold, in {len(cases)} cases "
        f"({time.perf_counter() - start:.0f} s)"
    )
    if args.json:
        _write_json(args.json, checks)
    return 2 if not checks else int(bool(failed))


def _write_json(path: str, checks: Sequence[Check]) -> None:
    rows: list[dict[str, Any]] = [{**vars(check), "passed": check.passed} for check in checks]
    with open(path, "w") as f:
        json.dump(rows, f, indent=1)


if __name__ == "__main__":
    sys.exit(main())
