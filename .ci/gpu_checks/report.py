"""Results as Markdown."""

from collections.abc import Sequence
from typing import Any

from . import Step


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Notes as paragraphs, and a table for each run of rows with the same columns."""
    parts: list[str] = []
    columns: list[str] = []
    for row in rows:
        if "note" in row:
            parts.append(f"{row['note']}\n")
            columns = []
            continue
        if list(row) != columns:
            columns = list(row)
            parts += ([""] if parts else []) + [_line(columns), _line(["---"] * len(columns))]
        parts.append(_line([_text(value) for value in row.values()]))
    return "\n".join(parts)


def plan(steps: Sequence[Step]) -> str:
    """What would run, and for how long at most."""
    rows = [{"step": s.name, "at most": f"{s.seconds} s", "what": s.title} for s in steps]
    total = sum(step.seconds for step in steps)
    return f"{table(rows)}\n\nAt most {total // 60} min {total % 60} s in all."


def summary(results: Sequence[dict[str, Any]]) -> str:
    """A line per step; what was not run is said as loudly as what failed."""
    rows = [{"step": r["name"], "seconds": r["seconds"], "status": r["status"]} for r in results]
    bad = [r["name"] for r in results if r["status"].startswith("FAILED")]
    missed = [r["name"] for r in results if r["status"].startswith("NOT RUN")]
    lines = [table(rows), ""]
    if missed:
        lines.append(f"NOT RUN, so nothing is known about: {', '.join(missed)}")
    lines.append(f"FAILED: {', '.join(bad)}" if bad else "No step failed.")
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
