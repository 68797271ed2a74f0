"""How Detectron2 is found or installed: decisions and packing, without network or installation."""

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import setup_detectron2 as module
from setup_detectron2 import GITHUB, PYPI, SetupError, provide

SCRIPT = Path(module.__file__)
FILES = {
    "LICENSE": "the licence",
    "setup.py": "raise SystemExit('never run')",
    "detectron2/__init__.py": "__version__ = '0.6'",
    "detectron2/layers/csrc/vision.cpp": "int main() {}",
    "detectron2/evaluation/fast_eval_api.py": "from detectron2 import _C",
    "configs/COCO-Detection/retinanet.yaml": "MODEL: {}",
    "projects/PointRend/point_rend/__init__.py": "",
    "projects/TensorMask/tensormask/__init__.py": "",
    "tests/test_x.py": "",
}


def _archive(path: Path, files: dict[str, str], commit: str | None = None) -> Path:
    headers = {"comment": commit} if commit else {}
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"detectron2-x/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


class Machine:
    """Stands for an environment: what is installed, and which sources can be reached."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, version: str | None, imports: bool) -> None:
        self.version, self.imports = version, imports
        self.reachable, self.installed = {"github", "pypi"}, []
        monkeypatch.setattr(module, "probe", self.probe)
        monkeypatch.setattr(module, "installed_version", lambda: self.version)
        monkeypatch.setattr(module, "_install", self.install)

    def probe(self) -> str | None:
        return "0.6 at somewhere" if self.imports else None

    def install(self, name: str) -> None:
        if name not in self.reachable:
            raise SetupError(f"{name} cannot be had")
        self.installed.append(name)
        self.version, self.imports = {"github": GITHUB, "pypi": PYPI}[name].version, True


@pytest.mark.parametrize(
    "wanted, version, imports, reachable, expected",
    [
        ("auto", "0.6+cu118", True, "github pypi", []),  # a user's own is used
        ("auto", None, True, "github pypi", []),  # one on PYTHONPATH too
        ("auto", None, False, "github pypi", ["github"]),
        ("auto", None, False, "pypi", ["pypi"]),
        ("installed", "0.6+cu118", True, "", []),
        ("github", None, False, "github pypi", ["github"]),
        ("pypi", None, False, "github pypi", ["pypi"]),
        ("pypi", PYPI.version, True, "pypi", []),  # a second run
        ("github", GITHUB.version, True, "github", []),
        ("github", PYPI.version, True, "github", ["github"]),  # what we installed we may replace
        ("auto", GITHUB.version, True, "", []),
    ],
)
def test_source(
    wanted: str,
    version: str | None,
    imports: bool,
    reachable: str,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(monkeypatch, version, imports)
    machine.reachable = set(reachable.split())
    line = provide(wanted)
    assert machine.installed == expected
    assert line == f"{expected[0] if expected else _where(wanted)}: 0.6 at somewhere"


def _where(wanted: str) -> str:
    return "installed" if wanted in ("auto", "installed") else wanted


@pytest.mark.parametrize(
    "wanted, version, imports, message",
    [
        ("installed", None, False, "there is none"),
        ("github", None, False, "github cannot be had"),  # explicit: no other source is tried
        ("auto", None, False, "pypi cannot be had"),
        ("pypi", "0.6", True, "left alone"),
        ("github", None, True, "left alone"),
    ],
)
def test_what_cannot_or_must_not_be_done_is_refused(
    wanted: str,
    version: str | None,
    imports: bool,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(monkeypatch, version, imports)
    machine.reachable = set()
    with pytest.raises(SetupError, match=message):
        provide(wanted)
    assert machine.installed == []


def test_falling_back_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    Machine(monkeypatch, None, False).reachable = {"pypi"}
    provide("auto")
    (line,) = capsys.readouterr().out.splitlines()
    assert "github cannot be had" in line and "v0.6" in line


def test_a_detectron2_that_does_not_import_is_reported_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("import no_such_module")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(module, "_install", lambda name: pytest.fail("must not install"))
    with pytest.raises(SetupError, match="does not import: .*no_such_module"):
        provide("auto")


def test_the_one_that_imports_here_is_found() -> None:
    assert "detectron2" in module.probe()


def test_a_wrong_checksum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = _archive(tmp_path / "pb1-detectron2-0.6.tar.gz", FILES)
    with pytest.raises(SetupError, match="sha256.*refused"):
        module.verify(archive)
    monkeypatch.setattr(module, "PYPI_SHA256", hashlib.sha256(archive.read_bytes()).hexdigest())
    assert module.verify(archive) == archive


@pytest.mark.parametrize("commit", [module.COMMIT, "0" * 40, None])
def test_the_repository_must_be_at_the_pinned_commit(
    commit: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _archive(tmp_path / "source.tar.gz", FILES, commit)
    monkeypatch.setattr(module, "ARCHIVE_URL", source.as_uri())
    (tmp_path / "to").mkdir()
    if commit == module.COMMIT:
        fetched = module.fetch_github(tmp_path / "to")
        assert fetched.read_bytes() == source.read_bytes()
    else:
        with pytest.raises(SetupError, match="instead of"):
            module.fetch_github(tmp_path / "to")


@pytest.mark.parametrize("content", [None, b"<html>blocked</html>", b"\x1f\x8b\x08 cut short"])
def test_an_unreachable_or_broken_repository_is_a_clear_error(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source.tar.gz"
    if content is not None:
        source.write_bytes(content)
    monkeypatch.setattr(module, "ARCHIVE_URL", source.as_uri())
    with pytest.raises(SetupError, match="cannot be had"):
        module.fetch_github(tmp_path)


def test_the_wheel_holds_python_configs_and_stand_ins_alone(tmp_path: Path) -> None:
    hostile = FILES | {"detectron2/../../evil.py": "bad"}
    wheel = module.build_wheel(_archive(tmp_path / "a.tar.gz", hostile), PYPI, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        contents = {name: archive.read(name).decode() for name in archive.namelist()}
    info = f"detectron2-{PYPI.version}.dist-info"
    assert set(contents) == {
        "detectron2/__init__.py",
        "detectron2/_C.py",
        "detectron2/evaluation/fast_eval_api.py",
        "detectron2/model_zoo/configs/COCO-Detection/retinanet.yaml",
        "detectron2/projects/point_rend/__init__.py",
        *(f"{info}/{name}" for name in ("LICENSE", "METADATA", "RECORD", "WHEEL")),
    }
    assert "Requires-Dist: Pillow>=7.1\n" in contents[f"{info}/METADATA"]
    assert "pycocotools" in contents["detectron2/evaluation/fast_eval_api.py"]
    assert contents[f"{info}/LICENSE"] == "the licence"


def test_no_stand_ins_where_detectron2_needs_none(tmp_path: Path) -> None:
    wheel = module.build_wheel(_archive(tmp_path / "a.tar.gz", FILES), GITHUB, tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        assert "detectron2/_C.py" not in archive.namelist()
        kept = archive.read("detectron2/evaluation/fast_eval_api.py").decode()
    assert kept == FILES["detectron2/evaluation/fast_eval_api.py"]


def test_what_pillow_and_numpy_dropped_is_replaced_in_v06(tmp_path: Path) -> None:
    old = """
def read(path, mask, interpolation=Image.LINEAR):
    names = np.loadtxt(path, dtype=np.str)
    counts = np.zeros(3, dtype=np.int), np.full(3, np.nan, dtype=np.float)
    return np.array(mask, copy=False).astype(np.bool), np.float32, np.bool_, np.int64(1), "np"
"""
    new = """
def read(path, mask, interpolation=Image.BILINEAR):
    names = np.loadtxt(path, dtype=str)
    counts = np.zeros(3, dtype=int), np.full(3, np.nan, dtype=float)
    return np.asarray(mask).astype(bool), np.float32, np.bool_, np.int64(1), "np"
"""
    for source, expected in ((PYPI, new), (GITHUB, old)):
        archive = _archive(tmp_path / "a.tar.gz", FILES | {"detectron2/data/voc.py": old})
        with zipfile.ZipFile(module.build_wheel(archive, source, tmp_path)) as wheel:
            assert wheel.read("detectron2/data/voc.py").decode() == expected


def test_an_archive_without_detectron2_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="holds no Detectron2"):
        module.build_wheel(_archive(tmp_path / "a.tar.gz", {"README": ""}), PYPI, tmp_path)


def test_pip_installs_lists_and_uninstalls_the_wheel(tmp_path: Path) -> None:
    wheel = module.build_wheel(_archive(tmp_path / "a.tar.gz", FILES), PYPI, tmp_path)
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    install = ["install", "-q", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run(pip + install, check=True)
    listed = subprocess.run(
        pip + ["list", "--path", str(target)], check=True, capture_output=True, text=True
    )
    assert "detectron2" in listed.stdout and PYPI.version in listed.stdout
    record = (target / f"detectron2-{PYPI.version}.dist-info" / "RECORD").read_text()
    for line in record.splitlines():
        assert (target / line.split(",")[0]).is_file()


def test_the_stub_answers_at_start_up_and_explains_itself_in_use() -> None:
    stub: dict = {}
    exec(module._STUB_C, stub)  # noqa: S102
    assert stub["get_compiler_version"]() == stub["get_cuda_version"]() == "not compiled"
    with pytest.raises(RuntimeError, match="nms_rotated is a compiled operator"):
        stub["__getattr__"]("nms_rotated")
    with pytest.raises(AttributeError):
        stub["__getattr__"]("__wrapped__")


def test_it_runs_by_path_on_the_standard_library_alone(tmp_path: Path) -> None:
    """-S leaves out everything that is installed."""
    command = [sys.executable, "-S", "-I", str(SCRIPT)]
    environment = {"DETECTRON2_SOURCE": "conda"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert "DETECTRON2_SOURCE is 'conda', must be one of auto, installed" in done.stderr
