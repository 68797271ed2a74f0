"""Why a trained model misses objects, and what each output of the network costs in AP.

    cornernet analyze output/bccd/model_best.pth --html report.html

Prints the causes of missed objects and false detections, and AP with outputs of the network
replaced by the truth (Law & Deng, "CornerNet", section 4.4). One scale, without mirror images, on
the datasets of DATASETS.TEST.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..diagnosis import Analysis, analyze
from ..diagnosis.oracle import METRICS
from ..diagnosis.page import page
from ..predictor import build_predictor
from . import check_output
from .options import add_data, add_model, model_config


def add_report(parser: argparse.ArgumentParser) -> None:
    """Arguments that say what is analysed, and where it is written to."""
    parser.add_argument("--html", type=Path, metavar="FILE", help="report as one page of HTML")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every number of it")
    parser.add_argument("--overwrite", action="store_true", help="replace these files")
    parser.add_argument("--gallery", type=int, default=12, help="images shown in the report [12]")
    parser.add_argument(
        "--min-score", type=float, default=0.0, help="detections below do not count [0]"
    )
    parser.add_argument(
        "--no-oracle", action="store_true", help="leave out AP with perfect outputs: faster"
    )
    parser.add_argument(
        "--settings", action="store_true", help="AP50 with other settings of decoding and soft-NMS"
    )
    maps = parser.add_mutually_exclusive_group()
    maps.add_argument("--save-maps", type=Path, metavar="FOLDER", help="keep the network's maps")
    maps.add_argument(
        "--maps", type=Path, metavar="FOLDER", help="use them: do not run the network"
    )


def settings(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """The keyword arguments of :func:`.diagnosis.analyze` for the dataset ``name``."""
    return {
        "oracle": not args.no_oracle,
        "settings": args.settings,
        "min_score": args.min_score,
        "save_to": args.save_maps and args.save_maps / name,
        "load_from": args.maps and args.maps / name,
        "heat": bool(args.html),
    }


def report(analyses: Sequence[Analysis], args: argparse.Namespace) -> None:
    """Print the tables and write the files that were asked for."""
    for each in analyses:
        _print_causes(each)
        if each.oracle:
            _print_oracle(each)
        for key, values in each.settings.items():
            print(f"{each.name + ', AP50 by ' + key:40}")
            print("  " + "  ".join(f"{value:g}: {100 * ap:.1f}" for value, ap in values.items()))
    if args.json:
        content = {
            each.name: each.summary.as_dict()
            | {"oracle": {", ".join(row) or "nothing": r for row, r in each.oracle.items()}}
            | {"AP50_by_setting": _percent(each.settings), "pairing": each.pairing.as_dict()}
            for each in analyses
        }
        args.json.write_text(json.dumps(content, indent=1) + "\n")
    if args.html:
        args.html.write_text(page(analyses, "Analysis of a CornerNet", args.gallery), "utf-8")


def _percent(table: Mapping[str, Mapping[float, float]]) -> dict[str, dict[str, float]]:
    return {key: {f"{v:g}": 100 * ap for v, ap in row.items()} for key, row in table.items()}


def _print_causes(analysis: Analysis) -> None:
    summary = analysis.summary
    gains, totals = summary.mended(), summary.totals
    print(
        f"{analysis.name + ', AP50 ' + format(100 * summary.ap, '.1f'):40}   count  AP50 if mended"
    )
    for kind, total in (("missed", totals["missed"]), ("false", totals["false"])):
        print(f"{kind:40}{total:8}")
        for cause, count in getattr(summary, kind).items():
            print(f"  {cause:38}{count:8}{100 * gains[cause]:+16.1f}")


def _print_oracle(analysis: Analysis) -> None:
    print(f"{analysis.name + ', perfect:':40}" + "".join(f"{metric:>8}" for metric in METRICS))
    for replaced, results in analysis.oracle.items():
        values = "".join(f"{results[metric]:8.1f}" for metric in METRICS)
        print(f"{', '.join(replaced) or 'nothing':40}{values}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_data(parser)
    add_report(parser)


def run(args: argparse.Namespace) -> int:
    for path in (args.html, args.json):
        if path:
            check_output(path, args.overwrite)
    cfg = model_config(args)
    model = build_predictor(cfg).model
    names = cfg.DATASETS.TEST
    report([analyze(cfg, model, name, **settings(args, name)) for name in names], args)
    return 0
