"""The notebook of docs/examples runs from top to bottom, and is kept without outputs."""

import json
import logging
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from tiny_run import TINY_NETWORK

NOTEBOOK = Path(__file__).parent.parent / "docs" / "examples" / "cornernet.ipynb"


def cells() -> list[str]:
    content = json.loads(NOTEBOOK.read_text())
    assert content["nbformat"] == 4
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    return ["".join(cell["source"]) for cell in code]


def test_every_cell_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    # Detectron2 sets a log up once for each OUTPUT_DIR: no other test has this one.
    monkeypatch.setenv("CORNERNET_ITERATIONS", "2")
    network = (str(value).replace(" ", "") for value in TINY_NETWORK[:-2])
    monkeypatch.setenv("CORNERNET_OPTS", " ".join(network))
    names: dict = {"__name__": "__main__"}
    before = set(DatasetCatalog.list())
    try:
        for number, source in enumerate(cells()):
            exec(compile(source, f"cell {number}", "exec"), names)
    finally:
        for name in set(DatasetCatalog.list()) - before:
            DatasetCatalog.remove(name)
            MetadataCatalog.pop(name, None)
        for name in ("detectron2", "fvcore", "cornernet_d2"):
            logging.getLogger(name).handlers.clear()
    assert names["predictor"].class_names == ["disc", "square"]
    assert names["found"].image_size == (96, 128) and names["drawn"].shape[2] == 3
    printed = capsys.readouterr().out
    assert "80 images, 2 classes" in printed and "Evaluation results for bbox" in printed
