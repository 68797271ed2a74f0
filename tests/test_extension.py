"""How the compiled modules are loaded, and what is said where they cannot be."""

import logging
from pathlib import Path

import pytest
import torch

from cornernet_d2.layers import extension, is_compiled

LIBRARY = "libcudart.so.13: cannot open shared object file"


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """One module that loads, one that cannot, one that is not there."""
    (tmp_path / "kernels_good.py").write_text("")
    (tmp_path / "kernels_broken.py").write_text(f"raise ImportError({LIBRARY!r})")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv(extension.FALLBACK_VARIABLE, raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    return {name: f"kernels_{name}" for name in ("good", "broken", "missing")}


def _load(monkeypatch: pytest.MonkeyPatch, cpu: str, cuda: str) -> dict[str, str]:
    monkeypatch.setattr(extension, "MODULES", {"cpu": cpu, "cuda": cuda})
    monkeypatch.setattr(extension, "_MISSING", extension._load_all())
    return extension.report()


def test_kernels_for_cuda_that_do_not_load_leave_those_for_the_cpu(
    modules: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    report = _load(monkeypatch, modules["good"], modules["broken"])
    assert is_compiled() == {"cpu": True, "cuda": False}
    assert report["cpu kernels"].endswith("kernels_good.py") and LIBRARY in report["cuda kernels"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and LIBRARY in record.getMessage()
    monkeypatch.setattr(torch.version, "cuda", None)  # a torch for CPUs needs none
    caplog.clear()
    _load(monkeypatch, modules["good"], modules["broken"])
    assert not caplog.records


def test_running_without_kernels_is_said_once_unless_asked_for(
    modules: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    report = _load(monkeypatch, modules["missing"], modules["missing"])
    assert is_compiled() == {"cpu": False, "cuda": False}
    assert report["cpu kernels"].startswith("not built")
    (record,) = caplog.records
    assert "standard PyTorch operators" in record.getMessage()
    caplog.clear()
    monkeypatch.setenv(extension.FALLBACK_VARIABLE, "1")
    report = _load(monkeypatch, modules["good"], modules["good"])
    assert set(report.values()) == {f"{extension.FALLBACK_VARIABLE} is set"}
    assert not caplog.records
