"""The GPU check without a GPU: its plan, and every step's code on the CPU with small sizes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / ".ci"))

import gpu_check  # noqa: E402
from gpu_checks import STEPS, Settings, Step, report, sanitizer, timing  # noqa: E402

TINY = Settings("cpu", tiny=True)


def test_plan(capsys: pytest.CaptureFixture) -> None:
    assert gpu_check.main(["--plan"]) == 0
    printed = capsys.readouterr().out
    assert all(f"| {step.name} | {step.seconds} s |" in printed for step in STEPS)
    assert sum(step.seconds for step in STEPS) <= 15 * 60


def run_here(name: str, folder: Path) -> tuple[int, list[dict[str, Any]]]:
    path = folder / "rows"
    code = gpu_check.run_step(name, TINY, path)
    return code, [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", [step.name for step in STEPS])
def test_every_step_runs_on_the_cpu(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / '.ci'}")
    code, rows = run_here(name, tmp_path)
    assert code == 0 and rows
    assert all(row.get("ok", True) for row in rows)
    table = report.table(rows)
    assert (
        len([line for line in table.splitlines() if line.startswith("|")]) > 2 or "skipped" in table
    )


def test_command_line(tmp_path: Path) -> None:
    """In processes of their own, with the results in a file, and a status that tells."""
    path = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, ".ci/gpu_check.py", "--device", "cpu", "--tiny"]
        + ["--only", "machine", "bandwidth", "--json", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "No step failed." in done.stdout and "| of copy |" in done.stdout
    results = json.loads(path.read_text())
    assert [step["name"] for step in results["steps"]] == ["machine", "bandwidth"]
    rates = [row for row in results["steps"][1]["rows"] if row.get("kernel") == "sum br backward"]
    assert len(rates) == 6 and all(row["GB/s"] > 0 for row in rates)


def test_no_gpu_is_a_failure_that_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    path = tmp_path / "results.json"
    code = gpu_check.main(["--only", "machine", "distributed", "--json", str(path)])
    steps = json.loads(path.read_text())["steps"]
    assert code == 1 and steps[0]["status"] == "FAILED"
    assert len(steps) == 2 and "FAILED: machine" in capsys.readouterr().out


def test_a_step_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "CPU_PATIENCE", 0.001)
    result = gpu_check.supervise(Step("learning", 1, "too short"), TINY)
    assert result["status"].startswith("FAILED: not done within")


@pytest.mark.parametrize("compiled", [False, True])
def test_without_kernels_the_check_fails(
    compiled: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Even where building ends well: what counts is what the operators report."""
    from gpu_checks import kernels

    built = []
    monkeypatch.setattr(kernels, "_compiled", lambda: {"cpu": compiled, "cuda": False})
    monkeypatch.setattr(kernels.subprocess, "run", lambda *a, **k: built.append(a))
    code, _ = run_here("kernels", tmp_path)
    assert (code, len(built)) == ((0, 0) if compiled else (1, 1))


def test_a_row_that_is_not_ok_fails_its_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from gpu_checks import equality, machine

    far = equality.verdict({"compared": "loss"}, float("nan"), 0.1)
    monkeypatch.setattr(machine, "run", lambda _: iter([far, {"ok": True}]))
    code, rows = run_here("machine", tmp_path)
    assert code == 1 and [row["ok"] for row in rows] == [False, True]


def test_a_missing_sanitizer_is_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitizer, "find", lambda: None)
    rows = list(sanitizer.run(TINY))
    assert "MISSING" in rows[-1]["skipped"]
    result = {"name": "sanitizer", "seconds": 1, "status": f"NOT RUN: {rows[-1]['skipped']}"}
    assert "NOT RUN, so nothing is known about: sanitizer" in report.summary([result])


def test_sanitizer_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Our kernels alone, no errors of calls that torch survives, no cached memory."""
    calls: list[tuple[list[str], dict[str, str]]] = []

    def record(command: list[str], env: dict[str, str], **_: Any) -> Any:
        calls.append((command, env))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(sanitizer, "find", lambda: "compute-sanitizer")
    monkeypatch.setattr(sanitizer.subprocess, "run", record)
    rows = list(sanitizer.run(Settings("cuda", tiny=False)))
    assert [row["tool"] for row in rows] == ["memcheck", "racecheck", "synccheck"]
    for command, environment in calls:
        assert environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"
        text = " ".join(command)
        assert "--kernel-name kns=cornernet_d2 --report-api-errors no --error-exitcode 1" in text


def test_tables_break_where_columns_change() -> None:
    rows = [{"note": "First."}, {"a": 1.23456, "ok": True}, {"a": 2.0, "ok": False}, {"b": "x"}]
    assert report.table(rows).splitlines() == [
        "First.", "", "", "| a | ok |", "| --- | --- |", "| 1.235 | yes |", "| 2 | NO |", "",
        "| b |", "| --- |", "| x |",
    ]  # fmt: skip


def test_the_fastest_way_is_timed_faster() -> None:
    slow, fast = ([lambda n=n: sum(range(n))] for n in (200_000, 100))
    assert timing.kernel_seconds(slow, "cpu") > timing.kernel_seconds(fast, "cpu") > 0
