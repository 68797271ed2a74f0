"""The report of an inference benchmark as one picture."""

from pathlib import Path
from typing import Any

from .stages import STAGES


def draw(report: dict[str, Any], path: Path) -> None:
    """Bars of milliseconds an image, and of the stages of eager models.

    Args:
        report: see inference.py; "rows", "stages" and "machine".
        path: the file, of any ending that Matplotlib knows.
    """
    from matplotlib.figure import Figure

    rows, stages = report["rows"][::-1], report["stages"][::-1]
    figure = Figure(figsize=(9, 1.6 + 0.28 * (len(rows) + len(stages))), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(len(rows) + 1, len(stages) + 1))
    labels = [
        f"{x['model']}, {x['variant']}, {x['batch']} x {x['height']} x {x['width']}" for x in rows
    ]
    values = [x["ms"] / x["batch"] for x in rows]
    upper.barh(range(len(rows)), values, color="tab:blue")
    upper.set_yticks(range(len(rows)), labels, fontsize=8)
    for i, (row, value) in enumerate(zip(rows, values)):
        upper.text(value, i, f" {value:.1f} ms, {row['speed']:.2f}x", va="center", fontsize=8)
    upper.set_xlim(0, 1.25 * max(values))
    upper.set_xlabel(f"ms an image ({report['machine']['clock']} time)")
    starts = [0.0] * len(stages)
    for stage in STAGES:
        shares = [100 * x[stage] / x["total"] for x in stages]
        lower.barh(range(len(stages)), shares, left=starts, label=stage)
        starts = [start + share for start, share in zip(starts, shares)]
    titles = [f"{x['model']}, {x['variant']}" for x in stages]
    lower.set_yticks(range(len(stages)), titles, fontsize=8)
    lower.set_xlabel("share of the time, %")
    lower.legend(ncols=len(STAGES), fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 1.3))
    about = report["machine"]
    figure.suptitle(f"{about['device']}, {about['threads']} threads", fontsize=9)
    figure.savefig(path, dpi=110)
