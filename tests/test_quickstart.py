"""The quickstart runs the user's commands in order and reports what they left."""

import json
import subprocess
from pathlib import Path

import pytest
import quickstart
import torch

from cornernet_d2 import model_zoo


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """An empty repository whose commands are recorded instead of run."""
    configs = Path(__file__).parent.parent / "configs"
    (tmp_path / "configs").symlink_to(configs)
    monkeypatch.chdir(tmp_path)
    recorded: list[list[str]] = []

    def record(command: list[str]) -> subprocess.CompletedProcess:
        recorded.append(command[1:])
        failed = recorded[-1][0] == "train_net.py" and (tmp_path / "fail").exists()
        return subprocess.CompletedProcess(command, returncode=int(failed))

    monkeypatch.setattr(subprocess, "run", record)
    return recorded


def test_the_steps_and_the_report(
    commands: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "output" / "shapes-centripetal"
    output.mkdir(parents=True)
    records = [{"iteration": 1, "bbox/AP": 12.5}, {"bbox/AP": 87.25, "bbox/AP-ring": 80.5}, {}]
    (output / "metrics.json").write_text("\n".join(map(json.dumps, records)))
    quickstart.main([])
    assert [command[:2] for command in commands] == [
        [".ci/make_shapes.py"],
        ["train_net.py", "--config-file"],
        ["-m", "cornernet_d2"],
    ]
    assert "--resume" in commands[1]
    printed = capsys.readouterr().out
    assert "87.25" in printed and "80.5" in printed and "12.5" not in printed
    for name in ("model_final.pth", "contact_sheet.png", "metrics.json", "inference/shapes_val"):
        assert f"output/shapes-centripetal/{name}" in printed


def test_it_stops_at_the_step_that_fails(commands: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    with pytest.raises(SystemExit, match="exit status 1"):
        quickstart.main([])
    assert len(commands) == 2


def test_it_says_where_it_must_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="root of the repository"):
        quickstart.main([])


def test_a_run_without_evaluation_is_reported(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"total_loss": 1.0}\n')
    with pytest.raises(ValueError, match="holds no evaluation"):
        quickstart.last_evaluation(tmp_path / "metrics.json")


def test_it_says_what_it_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = model_zoo.get_config("CornerNet-Shapes.yaml")
    for fast, name in ((True, "bfloat16"), (False, "float32")):
        for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
            monkeypatch.setattr(torch.cpu, probe, lambda fast=fast: fast, raising=False)
        assert f"precision {name} (the CPU has" in quickstart.describe(cfg)
    assert f"{cfg.SOLVER.MAX_ITER} iterations" in quickstart.describe(cfg)


@pytest.mark.parametrize("argument, status", [("--help", 0), ("--unknown", 2)])
def test_it_starts_nothing_when_asked(
    commands: list[list[str]], argument: str, status: int
) -> None:
    with pytest.raises(SystemExit) as stopped:
        quickstart.main([argument])
    assert stopped.value.code == status and not commands
