"""What would go wrong on a GPU, found without one: the checks of tests/strict_device.

They run in a process of their own, because the pretend device is there to stay. One of them alone:
``python -m pytest tests/strict_device/check_training.py -k mmdet``.
"""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.strict_device import guard

ROOT = Path(__file__).parents[1]
CHECKS = sorted(path.stem for path in (ROOT / "tests/strict_device").glob("check_*.py"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[ElementTree.Element]]:
    """The test cases of each file of checks, run once for all of them."""
    if guard.missing():
        pytest.skip(guard.missing())
    report = tmp_path_factory.mktemp("strict_device") / "report.xml"
    files = [f"tests/strict_device/{name}.py" for name in CHECKS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
        + ["-o", "junit_family=xunit2", f"--junit-xml={report}", *files],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert report.exists(), (done.stdout + done.stderr)[-5000:]
    cases: dict[str, list[ElementTree.Element]] = {name: [] for name in CHECKS}
    for case in ElementTree.parse(report).iter("testcase"):
        module = (case.get("classname") or case.get("name") or "").split(".")[-1]
        cases[module].append(case)
    return cases


@pytest.mark.parametrize("check", CHECKS)
def test_strict_device(check: str, results: dict[str, list[ElementTree.Element]]) -> None:
    cases = results[check]
    failures = [
        f"{case.get('name')}:\n{fault.text}"
        for case in cases
        for fault in (*case.iter("failure"), *case.iter("error"))
    ]
    assert cases
    assert not failures, "\n\n".join([f"{len(failures)} of {len(cases)} failed", *failures])
