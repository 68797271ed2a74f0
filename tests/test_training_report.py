"""The page that a training leaves: the evaluator's numbers, without running the network."""

import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from tiny_run import make_dataset, tiny_config

from cornernet_d2.diagnosis import training_report
from cornernet_d2.diagnosis.training_report import summarise, write_report
from cornernet_d2.engine.evaluation import build_evaluator
from cornernet_d2.engine.run_folder import WRITTEN


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    """A run folder with metrics and results: every object twice, once exact and once far off."""
    make_dataset(str(tmp_path))
    cfg = tiny_config(str(tmp_path))
    folder = Path(cfg.OUTPUT_DIR)
    (folder / "inference" / "tiny").mkdir(parents=True)
    rows = []
    dicts = DatasetCatalog.get("tiny")
    MetadataCatalog.remove("tiny")  # the report may be of a process that has not loaded it
    MetadataCatalog.get("tiny").set(evaluator_type="coco", json_file=str(tmp_path / "tiny.json"))
    MetadataCatalog.get("tiny").image_root = str(tmp_path)
    for d in dicts[1:]:
        for number, obj in enumerate(d["annotations"]):
            x, y, w, h = obj["bbox"]
            for box, score in (((x, y, w, h), 0.9 - 0.1 * number), ((0, 0, 2, 2), 0.3)):
                rows.append(
                    {"image_id": d["image_id"], "category_id": 1, "bbox": box, "score": score}
                )
    results = folder / "inference" / "tiny" / training_report.RESULTS
    results.write_text(json.dumps(rows))
    lines = [
        {"iteration": i, "total_loss": 9.0 - i, "loss_width": 3.0, "lr": 0.1, "bbox/AP": 10.0 * i}
        for i in range(4)
    ]
    (folder / "metrics.json").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (folder / "model_final.pth").write_bytes(b"")
    return cfg


def test_ap_is_the_evaluators(cfg: CfgNode) -> None:
    path = Path(cfg.OUTPUT_DIR) / "inference" / "tiny" / training_report.RESULTS
    summary = summarise("tiny", path)
    evaluator = build_evaluator(cfg, "tiny", str(path.parent))
    evaluator.reset()
    rows = json.loads(path.read_text())
    evaluator._predictions = [
        {"image_id": i, "instances": [{**r, "category_id": 0} for r in rows if r["image_id"] == i]}
        for i in range(12)
    ]
    expected = evaluator.evaluate()["bbox"]["AP50"]
    assert 100 * summary.ap == pytest.approx(expected, abs=1e-9) and 20 < expected < 100
    assert summary.totals["missed"] >= 1 and summary.totals["false"] >= 1


def test_the_page_has_curves_classes_and_how_to_go_on(cfg: CfgNode) -> None:
    path = write_report(cfg)
    assert path == Path(cfg.OUTPUT_DIR) / "report.html" and WRITTEN.fullmatch(path.name)
    page = path.read_text()
    assert page.count("<img") == page.count('src="data:image/') >= 5 and "<script" not in page
    for text in (
        "model_final.pth IMAGES",
        "--thresholds",
        "thing",
        "Images of most errors",
        "30.0",
    ):
        assert text in page


def test_a_report_that_fails_or_is_not_wanted_stops_nothing(
    cfg: CfgNode, caplog: pytest.LogCaptureFixture
) -> None:
    cfg.TEST.REPORT = False
    assert write_report(cfg) is None and not caplog.records
    cfg.TEST.REPORT = True
    (Path(cfg.OUTPUT_DIR) / "metrics.json").unlink()
    with caplog.at_level("WARNING"):
        assert write_report(cfg) is None
    assert "report.html was not written" in caplog.text


def test_results_of_no_image_are_no_detections(cfg: CfgNode) -> None:
    path = Path(cfg.OUTPUT_DIR) / "none.json"
    path.write_text("[]")
    summary = summarise("tiny", path)
    assert summary.totals["missed"] == summary.totals["objects"] > 0
    assert np.isclose(summary.ap, 0)
