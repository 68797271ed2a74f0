"""The command `cornernet`: its table, its help, and errors of one line."""

import argparse
import importlib
from pathlib import Path

import pytest
import torch

import train_net
from cornernet_d2 import load_config
from cornernet_d2.engine import run
from cornernet_d2.tools import command
from cornernet_d2.tools.command import COMMANDS, guarded, one_line, split_overrides

TOOLS = Path(command.__file__).parent
SHARED = {"__init__", "command", "options"}  # the rest of the folder is subcommands


def test_a_module_a_subcommand() -> None:
    files = {p.stem for p in TOOLS.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert files - SHARED == {name.replace("-", "_") for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_it_is_and_does_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    module = importlib.import_module(f"cornernet_d2.tools.{name.replace('-', '_')}")
    monkeypatch.setattr(module, "run", lambda args: pytest.fail("it ran"))
    with pytest.raises(SystemExit) as left:
        command.main([name, "--help"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert module.__doc__.splitlines()[0] in printed and "--debug" in printed


@pytest.mark.parametrize(
    "line",
    [
        *("train --data x --wrong", "eval m.pth --wrong", "predict m.pth a.jpg --wrong 1"),
        *("check --dat x", "convert a b c", "collect-env SEED 7", "nothing", "", "train SEED"),
    ],
)
def test_unknown_arguments_are_refused(line: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as left:
        command.main(line.split())
    assert left.value.code == 2 and "usage: cornernet" in capsys.readouterr().err


def test_overrides_begin_at_the_first_key() -> None:
    words = ["a.jpg", "IMG_1.JPG", "MODEL", "TEST.jpeg/x", "--output", "drawn", "SEED", "-1"]
    words += ["MODEL.CORNERNET.TYPO", "x"]
    assert split_overrides(words) == (words[:6], words[6:])
    assert split_overrides(["--debug"]) == (["--debug"], [])


@pytest.mark.parametrize(
    "line, message",
    [
        ("train", "cornernet train: give --data FOLDER for own data, or --config-file NAME"),
        ("train --data nowhere", "cornernet train: nowhere does not exist"),
        ("train --config-file nowhere", "no config is called 'nowhere'"),
        ("train --config-file CornerNet-Small MODEL.TYPO 1", "Non-existent key: MODEL.TYPO"),
        ("train --config-file CornerNet-Small SOLVER.BASE_LR fast", "BASE_LR"),
        ("check --config-file own_base.yaml", "own_base.yaml: its _BASE_ leads back to it"),
        ("eval nowhere.pth", "cornernet eval: nowhere.pth does not exist"),
        ("analyze a.pth", "a.pth is empty"),
        ("predict a.pth --config-file CornerNet-Small", "give images and folders, or one video"),
        ("convert nowhere.pth b.pth", "nowhere.pth"),
        ("overfit", "give --data PATH"),
        ("contact-sheet", "give --config-file NAME"),
        ("check --config-file bad.yaml", "bad.yaml: "),
        ("check --config-file code.yaml", "code.yaml: could not determine a constructor"),
        ("check --config-file based.yaml", "_BASE_"),
        ("train --config-file CornerNet-Small --num-gpus -1", "--num-gpus must be at least 0"),
        ("train --config-file CornerNet-Small MODEL.DEVICE tpu", "device 'tpu' cannot be used"),
    ],
)
def test_errors_are_one_line(
    line: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.pth").touch()
    Path("bad.yaml").write_text("MODEL: [")
    Path("code.yaml").write_text("OUTPUT_DIR: !!python/object/apply:os.getcwd []\n")
    Path("own_base.yaml").write_text('_BASE_: "own_base.yaml"\n')
    Path("based.yaml").write_text('_BASE_: "CornerNet-Nowhere.yaml"\n')
    assert command.main(line.split()) == 1
    (printed,) = capsys.readouterr().err.splitlines()
    assert message in printed and "--debug" not in printed


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(ValueError, match="nowhere does not exist"):
        command.main(["train", "--data", "nowhere", "--debug"])


@pytest.mark.parametrize(
    "error, text",
    [
        (ValueError("a\n  b"), "a b"),
        (FileNotFoundError(2, "No such file or directory", "x.json"), "x.json: No such file or"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA"), "out of memory: CUDA"),
        (TypeError("of ours"), "TypeError: of ours (--debug shows the traceback)"),
    ],
)
def test_what_an_error_says(error: Exception, text: str) -> None:
    assert one_line(error).startswith(text)


def test_a_stop_from_the_keyboard_is_no_traceback(capsys: pytest.CaptureFixture) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    assert guarded(stop, "cornernet train") == 130
    assert capsys.readouterr().err == "cornernet train: stopped\n"


def test_a_config_may_be_based_on_a_shipped_one(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text('_BASE_: "CornerNet-BCCD.yaml"\nMODEL:\n  CORNERNET:\n    NUM_CLASSES: 9\n')
    cfg = load_config(str(path), ["SEED", "3"])
    assert (cfg.MODEL.CORNERNET.NUM_CLASSES, cfg.SEED) == (9, 3)
    assert cfg.MODEL.HOURGLASS.DEPTH == 4 and cfg.SOLVER.OPTIMIZER == "ADAM"  # of its base's base


def test_no_gpus_means_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--num-gpus 0` started no process, with exit status 0."""
    started = []
    monkeypatch.setattr(run, "launch", lambda *args, **keys: started.append((args, keys)))
    args = argparse.Namespace(num_gpus=0, num_machines=1, machine_rank=0, dist_url="auto")
    cfg = load_config("CornerNet-Small")
    cfg.MODEL.DEVICE = "cuda"
    run.run_training(cfg, args)
    ((arguments, keys),) = started
    assert arguments[1] == 1 and keys["device"] == "cpu" and cfg.MODEL.DEVICE == "cpu"


def test_train_net_has_errors_of_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["train_net.py", "--config-file", "nowhere.yaml"])
    assert train_net.command_line() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train_net.py: no config is called 'nowhere.yaml'")
