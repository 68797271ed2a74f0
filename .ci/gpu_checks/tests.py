"""The tests that take the device where there is one."""

import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from . import ROOT, Rows, Settings

FILES = (
    "test_cuda.py",
    "test_corner_pool.py",
    "test_corner_pool_registration.py",
    "test_soft_nms_operator.py",
)
TINY = ("test_cuda.py",)


def run(settings: Settings) -> Rows:
    """On a GPU, a file of which nothing ran counts as one that failed."""
    if find_spec("pytest") is None:
        yield {"skipped": "pytest is MISSING"}
        return
    for name in TINY if settings.tiny else FILES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "results.xml"
            command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
            command += [f"--junit-xml={path}", f"tests/{name}"]
            status = subprocess.run(command, cwd=ROOT, check=False).returncode
            suite = ElementTree.parse(path).getroot().find("testsuite")
        count = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
        ran = settings.device == "cpu" or count["tests"] - count["skipped"] > 0
        yield {"file": name, **count, "ok": status == 0 and ran}
