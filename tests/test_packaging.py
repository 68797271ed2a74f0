"""What pip makes of the project: wheel and editable install, with torch and without."""

import os
import re
import runpy
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils import cpp_extension

import cornernet_d2

ROOT = Path(__file__).parent.parent
CHECK = """
import cornernet_d2
from cornernet_d2 import layers, model_zoo
import torch
print(cornernet_d2.__file__)
print(model_zoo.get_config_file("CornerNet-HG104"))
model_zoo.get_config("CornerNet-Shapes")
assert layers.corner_pool(torch.eye(3)[None, None], "top").shape == (1, 1, 3, 3)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git tracks: building must not leave anything in the checkout."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("source")
    for name in filter(None, done.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())
    return folder


def _run(*command: object, cwd: Path, **environment: str) -> str:
    environment = os.environ | {"CORNERNET_D2_SKIP_BUILD": "1"} | environment
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    flags = ("-q", "bdist_wheel", "--dist-dir", folder, "--bdist-dir", folder / "build")
    _run(sys.executable, "setup.py", *flags, cwd=source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_wheel_has_every_module_and_config_and_nothing_else(source: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(metadata).decode()
    modules = {str(p.relative_to(source)) for p in (source / "cornernet_d2").rglob("*.py")}
    configs = {
        f"cornernet_d2/{path.relative_to(source)}"
        for path in (source / "configs").rglob("*")
        if path.suffix in (".yaml", ".py")
    }
    assert modules | configs <= names
    assert {name for name in names if not name.startswith("cornernet_d2/")} == set()
    assert f"\nVersion: {cornernet_d2.__version__}\n" in text


def test_wheel_works_away_from_the_repository(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    paths = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])
    module, config = _run(sys.executable, "-c", CHECK, cwd=tmp_path, PYTHONPATH=paths).split()
    assert Path(module).is_relative_to(tmp_path / "site")
    assert Path(config) == tmp_path / "site" / "cornernet_d2" / "configs" / "CornerNet-HG104.yaml"


def test_editable_install_finds_the_configs_of_the_repository(source: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    _run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = environment / "lib" / version / "site-packages"
    (site / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
    flags = ("-q", "--no-deps", "--no-build-isolation", "--no-index", "--editable", source)
    _run(python, "-m", "pip", "install", *flags, cwd=tmp_path)
    module, config = _run(python, "-W", "ignore", "-c", CHECK, cwd=tmp_path, PYTHONPATH="").split()
    assert Path(module) == source / "cornernet_d2" / "__init__.py"
    assert Path(config) == source / "configs" / "CornerNet-HG104.yaml"


def test_without_torch_the_build_gives_a_pure_python_wheel(source: Path, tmp_path: Path) -> None:
    """With build isolation, pip hides the installed torch from setup.py."""
    hide = "import sys, runpy; sys.modules['torch'] = None; sys.argv[0] = 'setup.py'; "
    hide += "runpy.run_path('setup.py', run_name='__main__')"
    flags = ("-q", "bdist_wheel", "--dist-dir", tmp_path, "--bdist-dir", tmp_path / "build")
    _run(sys.executable, "-c", hide, *flags, cwd=source, CORNERNET_D2_SKIP_BUILD="0")
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("py3-none-any.whl")


@pytest.fixture
def setup_py(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The functions of setup.py."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["setup.py", "-q", "--version"])
    monkeypatch.setenv("CORNERNET_D2_SKIP_BUILD", "1")
    functions = runpy.run_path("setup.py")
    for name in ("CORNERNET_D2_SKIP_BUILD", "FORCE_CUDA", "FORCE_BUILD"):
        monkeypatch.delenv(name, raising=False)
    return functions


class Builds:
    """Stands for torch's build_ext: no CUDA extension can be built."""

    error: BaseException = RuntimeError("toolkit %s beside torch %s", "12.4", "13.0")

    def __init__(self) -> None:
        names = "cornernet_d2._C", "cornernet_d2._C_cuda"
        self.extensions, self.compiler = [SimpleNamespace(name=name) for name in names], "chosen"

    def run(self) -> None:
        assert self.compiler == "chosen"
        self.compiler = object()  # as build_ext does: it cannot run twice with that
        if self.extensions[0].name.endswith("_cuda"):
            raise self.error


@pytest.mark.parametrize("error", [Builds.error, SystemExit("toolkit 12.4 beside torch 13.0")])
def test_what_fails_for_cuda_does_not_cost_the_cpu(
    setup_py: dict[str, Any],
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(cpp_extension, "BuildExtension", Builds)
    monkeypatch.setattr(Builds, "error", error)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    command = setup_py["build_command"]()()
    command.run()
    assert [extension.name for extension in command.extensions] == ["cornernet_d2._C"]
    (line,) = capsys.readouterr().err.splitlines()
    assert "_C_cuda was not built" in line and line.endswith("toolkit 12.4 beside torch 13.0")
    for name in ("FORCE_CUDA", "FORCE_BUILD"):
        with monkeypatch.context() as forced, pytest.raises(type(error)):
            forced.setenv(name, "1")
            setup_py["build_command"]()().run()


@pytest.mark.parametrize(
    "known, wanted",
    [
        ("75 80 86 87 89 90 100 120", "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"),
        ("50 70 75 80 86 89 90", "7.5;8.0;8.6;8.9;9.0+PTX"),  # CUDA 12.4
    ],
)
def test_without_a_gpu_the_toolkit_says_which_architectures_are_built(
    setup_py: dict[str, Any],
    known: str,
    wanted: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    names = "\n".join(f"compute_{number}" for number in known.split())
    nvcc.write_text(f"#!/bin/sh\n[ $1 = --list-gpu-arch ] && echo '{names}'\n")
    nvcc.chmod(0o755)
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "")
    setup_py["choose_cuda_architectures"]()
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == wanted
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0")  # what the user asks for stays
    setup_py["choose_cuda_architectures"]()
    assert os.environ["TORCH_CUDA_ARCH_LIST"] == "8.0"


def test_no_toolkit_and_no_gpu_are_told_apart(
    setup_py: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for home, reason in ((None, "CUDA_HOME"), ("somewhere", "no GPU")):
        monkeypatch.setattr(cpp_extension, "CUDA_HOME", home)
        assert [e.name for e in setup_py["extensions"]()] == ["cornernet_d2._C"]
        assert reason in capsys.readouterr().err
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    monkeypatch.setenv("FORCE_CUDA", "1")
    with pytest.raises(SystemExit, match="FORCE_CUDA is set, but CUDA_HOME"):
        setup_py["extensions"]()


def test_without_detectron2_one_line_says_how_to_get_it() -> None:
    code = "import sys; sys.modules['detectron2'] = None; import cornernet_d2"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode and "pip install --no-build-isolation git+https" in last
    assert done.stderr.count("Traceback") == 1


def test_the_command_without_detectron2_prints_one_line(tmp_path: Path) -> None:
    command = tmp_path / "cornernet"  # as pip writes it
    command.write_text(
        "import sys; sys.modules['detectron2'] = None\n"
        "from cornernet_d2.tools.command import main; sys.exit(main())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, command, "--help"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1 and not done.stdout
    assert re.fullmatch("cornernet: cornernet_d2 is a plugin for Detectron2, .*\n", done.stderr)


def test_train_net_begins_without_warnings() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONWARNINGS", None)
    done = subprocess.run(
        [sys.executable, ROOT / "train_net.py", "--help"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0 and "--config-file" in done.stdout and not done.stderr
