"""What pip makes of the project: wheel and editable install, with torch and without."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

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
