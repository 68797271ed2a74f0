"""Find Detectron2, or install it as pure Python.

    DETECTRON2_SOURCE=auto|installed|github|pypi python .ci/setup_detectron2.py

Runs by path on the standard library, before anything but torch and pip is there.

    installed  the Detectron2 that imports, whatever it is; nothing is installed
    github     the official repository at a pinned commit
    pypi       the copy of release v0.6 on the Python package index, pinned by checksum
    auto       installed, else github, else pypi

CornerNet calls none of Detectron2's compiled operators, so what is installed is its Python code
alone: no compiler, seconds instead of minutes. It is packed as a wheel, which pip then lists,
checks and uninstalls like any other; in the copy of v0.6 names that Pillow and numpy have dropped
are replaced. A Detectron2 that this script did not install is never changed.
"""

import argparse
import base64
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import zipfile
from importlib import metadata, util
from pathlib import Path, PurePosixPath
from typing import NamedTuple

SOURCES = ("auto", "installed", "github", "pypi")
COMMIT = "02b5c4e295e990042a714712c21dc79b731e8833"  # main of June 2026
ARCHIVE_URL = f"https://github.com/facebookresearch/detectron2/archive/{COMMIT}.tar.gz"
CONNECT_SECONDS, DOWNLOAD_SECONDS = 10, 120  # a machine without that network learns so at once
PYPI_SHA256 = "5d2e9e51e523ec72f6a31cca04b0a515492e9514b773a3d134cedc0677170b29"
# pip 25.3 began to refuse this upload for a URL among its optional dependencies
DOWNLOADER = "pip==25.2"

# setuptools: detectron2.model_zoo imports pkg_resources, which later ones lack
_REQUIRES = tuple(
    """cloudpickle fvcore>=0.1.5,<0.1.6 hydra-core>=1.1 iopath>=0.1.7 matplotlib omegaconf>=2.1,<2.4
    packaging Pillow>=7.1 pycocotools>=2.0.2 setuptools<81 tabulate tensorboard termcolor>=1.1
    tqdm>4.29.0 yacs>=0.1.8""".split()
)

# v0.6 imports its compiled module unconditionally; two names of it are asked for at start-up.
_STUB_C = '''"""Stands for the compiled operators, which this installation does not have."""


def get_compiler_version() -> str:
    return "not compiled"


def get_cuda_version() -> str:
    return "not compiled"


def __getattr__(name: str):
    if name.startswith("__"):
        raise AttributeError(name)
    raise RuntimeError(
        f"detectron2._C.{name} is a compiled operator; this Detectron2 is pure Python. "
        "Build Detectron2 from its repository to use it."
    )
'''
# Later versions fall back like this by themselves; v0.6 would stop in COCOEvaluator.
_STUB_FAST_EVAL = '''"""Stands for the compiled COCO evaluation; pycocotools gives equal numbers."""

from pycocotools.cocoeval import COCOeval as COCOeval_opt  # noqa: F401
'''


# Names that v0.6 uses and later libraries dropped, as patterns, and what they were other names of.
_MENDS = (
    (r"\bImage\.LINEAR\b", "Image.BILINEAR"),  # Pillow 10
    (r"\bnp\.(bool|float|int|str)\b", r"\1"),  # numpy 1.24
    (r"\bnp\.array\((\w+), copy=False\)", r"np.asarray(\1)"),  # numpy 2: refuses to copy
)


class Source(NamedTuple):
    """How the archive of one source becomes a wheel."""

    version: str
    requires: tuple[str, ...]
    stubs: dict[str, str]
    mends: tuple[tuple[str, str], ...]


_STUBS = {"detectron2/_C.py": _STUB_C, "detectron2/evaluation/fast_eval_api.py": _STUB_FAST_EVAL}
GITHUB = Source(f"0.6+pure.{COMMIT[:7]}", _REQUIRES, {}, ())
PYPI = Source("0.6+pure.2", ("pydot", *_REQUIRES), _STUBS, _MENDS)

# folders of the source tree -> where Detectron2's own setup.py puts them
_FOLDERS = {
    "detectron2": "detectron2",
    "configs": "detectron2/model_zoo/configs",
    "projects/PointRend/point_rend": "detectron2/projects/point_rend",
    "projects/DeepLab/deeplab": "detectron2/projects/deeplab",
    "projects/Panoptic-DeepLab/panoptic_deeplab": "detectron2/projects/panoptic_deeplab",
}
_PROBE = """
import importlib.util, sys
if importlib.util.find_spec("detectron2") is None:
    sys.exit(3)
import detectron2.data, detectron2.engine, detectron2.evaluation, detectron2.model_zoo
print(detectron2.__version__, "at", detectron2.__path__[0])
"""


class SetupError(RuntimeError):
    """Detectron2 could not be provided; the message says why and what to do."""


def probe() -> str | None:
    """Returns version and place of the Detectron2 that imports, None where there is none.

    Raises:
        SetupError: there is one, but it does not import.
    """
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True)
    if done.returncode == 3:
        return None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["killed"])[-1]
        raise SetupError(
            f"a Detectron2 is there but does not import: {reason}\n"
            "Repair it (v0.6 needs Pillow<10, setuptools<81 and its compiled module), "
            "or set up in a fresh virtual environment."
        )
    return done.stdout.strip().splitlines()[-1]


def installed_version() -> str | None:
    """Returns the version of the distribution called detectron2, if there is one."""
    try:
        return metadata.version("detectron2")
    except metadata.PackageNotFoundError:
        return None


def _pip(*arguments: str, path: Path | None = None) -> None:
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    command = [sys.executable, "-m", "pip", *arguments]
    if subprocess.run(command, env=environment).returncode:
        raise SetupError(f"failed: {' '.join(command)}")


def fetch_github(folder: Path) -> Path:
    """Downloads the official repository at COMMIT into a folder."""
    archive, deadline = folder / "detectron2.tar.gz", time.monotonic() + DOWNLOAD_SECONDS
    try:
        with urllib.request.urlopen(ARCHIVE_URL, timeout=CONNECT_SECONDS) as reply:
            with open(archive, "wb") as file:
                while chunk := reply.read(1 << 18):
                    file.write(chunk)
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"took longer than {DOWNLOAD_SECONDS} s")
        with tarfile.open(archive) as tar:
            found = tar.pax_headers.get("comment")  # git writes the commit there
    except (OSError, tarfile.TarError, EOFError) as error:
        raise SetupError(f"the official repository cannot be had: {error}") from error
    if found != COMMIT:
        raise SetupError(f"the official repository gave commit {found} instead of {COMMIT}")
    return archive


def fetch_pypi(folder: Path) -> Path:
    """Downloads the copy of v0.6 into a folder; its checksum is verified."""
    if util.find_spec("torch") is None:
        raise SetupError("install torch first: the package's own setup.py imports it")
    requirements = folder / "requirements.txt"
    requirements.write_text(f"pb1-detectron2==0.6 --hash=sha256:{PYPI_SHA256}\n")
    _pip("install", "-q", "--no-deps", "--target", str(folder / "pip"), DOWNLOADER)
    _pip("install", "-q", "setuptools<81", "wheel")  # what reads the package's own metadata
    flags = ("--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--require-hashes")
    options = ("-q", "--disable-pip-version-check", *flags, "-d", str(folder))
    _pip("download", *options, "-r", str(requirements), path=folder / "pip")
    return verify(next(folder.glob("pb1*.tar.gz")))


def verify(archive: Path) -> Path:
    """Raises SetupError where a file is not the pinned copy of v0.6; returns it otherwise."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != PYPI_SHA256:
        raise SetupError(f"{archive.name} has sha256 {found}, expected {PYPI_SHA256}: refused")
    return archive


def _python_files(archive: Path) -> dict[str, bytes]:
    """Reads path in the wheel -> content of everything that belongs to the Python package."""
    files = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(*PurePosixPath(member.name).parts[1:])
            if not member.isfile() or ".." in path.parts:
                continue
            if path.name == "LICENSE" and len(path.parts) == 1:
                files["LICENSE"] = tar.extractfile(member).read()
            for folder, target in _FOLDERS.items():
                if path.is_relative_to(folder) and path.suffix in (".py", ".yaml"):
                    name = str(target / path.relative_to(folder))
                    files[name] = tar.extractfile(member).read()
    return files


def build_wheel(archive: Path, source: Source, folder: Path) -> Path:
    """Packs the Python code of a source archive as a wheel in a folder.

    Raises:
        SetupError: the archive holds no Detectron2.
    """
    files = _python_files(archive)
    if "detectron2/__init__.py" not in files:
        raise SetupError(f"{archive.name} holds no Detectron2")
    for pattern, replacement in source.mends:
        for name in (name for name in files if name.endswith(".py")):
            files[name] = re.sub(pattern, replacement, files[name].decode()).encode()
    files |= {name: text.encode() for name, text in source.stubs.items()}
    info = f"detectron2-{source.version}.dist-info"
    files[f"{info}/LICENSE"] = files.pop("LICENSE", b"")
    header = ["Metadata-Version: 2.1", "Name: detectron2", f"Version: {source.version}"]
    header += [f"Requires-Dist: {requirement}" for requirement in source.requires]
    files[f"{info}/METADATA"] = "\n".join([*header, ""]).encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = io.StringIO()
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record.write(f"{name},sha256={digest},{len(content)}\n")
    record.write(f"{info}/RECORD,,\n")
    files[f"{info}/RECORD"] = record.getvalue().encode()
    wheel = folder / f"detectron2-{source.version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive_file:
        for name, content in files.items():
            archive_file.writestr(name, content)
    return wheel


def _install(name: str) -> None:
    source, fetch = {"github": (GITHUB, fetch_github), "pypi": (PYPI, fetch_pypi)}[name]
    with tempfile.TemporaryDirectory(prefix="detectron2-") as temporary:
        folder = Path(temporary)
        _pip("install", "-q", str(build_wheel(fetch(folder), source, folder)))


def provide(wanted: str) -> str:
    """Makes Detectron2 importable.

    Args:
        wanted: one of SOURCES.

    Returns:
        One line: where it comes from, version, place.

    Raises:
        SetupError: it cannot be had that way; no Detectron2 that was there has been changed.
    """
    found, version = probe(), installed_version()
    if found and wanted in ("auto", "installed"):
        return f"installed: {found}"
    if wanted == "installed":
        raise SetupError("DETECTRON2_SOURCE=installed, but there is none")
    if wanted == "auto":
        wanted = "github"
        try:
            _install(wanted)
        except SetupError as error:
            print(f"{error}; using the copy of v0.6 on the Python package index", flush=True)
            wanted = "pypi"
            _install(wanted)
    elif found and "+pure" not in (version or ""):
        raise SetupError(
            f"Detectron2 {found} was not installed by this script and is left alone: "
            "use DETECTRON2_SOURCE=installed, or a fresh virtual environment"
        )
    elif version != {"github": GITHUB, "pypi": PYPI}[wanted].version:
        _install(wanted)
    return f"{wanted}: {probe()}"


def main(argv: list[str] | None = None) -> None:
    """Command line; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = os.getenv("DETECTRON2_SOURCE") or "auto"
    parser.add_argument("--source", default=default, help=f"one of {', '.join(SOURCES)}")
    wanted = parser.parse_args(argv).source
    if wanted not in SOURCES:
        parser.error(f"DETECTRON2_SOURCE is {wanted!r}, must be one of {', '.join(SOURCES)}")
    try:
        print("Detectron2", provide(wanted), flush=True)
    except SetupError as error:
        sys.exit(f"Detectron2 is not set up: {error}")


if __name__ == "__main__":
    main()
