"""Tools that build a Detectron2 model from a dumped config and a checkpoint: SAHI, supervision."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from tiny_run import tiny_network

import cornernet_d2
from cornernet_d2.checkpoint import CornerNetCheckpointer

NAMES = ["ant", "bee", "cat"]
CONFIDENCE = 0.05  # of what is compared; random weights give scores around 0.1


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.pth and config.yaml as a training leaves them; no dataset is registered any more."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    MetadataCatalog.get("stock_tools_test").thing_classes = NAMES
    keys = ("DATASETS.TRAIN", ("stock_tools_test",), "INPUT.MIN_SIZE_TEST", 48)
    cfg = tiny_network("CornerNet-Small", *keys)
    CornerNetCheckpointer(build_model(cfg), str(folder), cfg=cfg).save("model")
    (folder / "config.yaml").write_text(cfg.dump())
    MetadataCatalog.remove("stock_tools_test")
    return folder


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (70, 96, 3), np.uint8)


def test_sahi(run_folder: Path, photo: np.ndarray) -> None:
    """Whole and in slices, with the same boxes, scores and names as our own predictor."""
    sahi = pytest.importorskip("sahi")
    predict = pytest.importorskip("sahi.predict")
    own = cornernet_d2.load(run_folder / "model.pth", "cpu")
    model = sahi.AutoDetectionModel.from_pretrained(
        model_type="detectron2",
        model_path=str(run_folder / "model.pth"),
        config_path=str(run_folder / "config.yaml"),
        category_mapping={str(i): name for i, name in enumerate(own.class_names)},
        confidence_threshold=CONFIDENCE,
        device="cpu",
    )
    rgb = np.ascontiguousarray(photo[..., ::-1])
    found = predict.get_prediction(rgb, model).object_prediction_list
    expected = own(photo)
    expected = expected[expected.scores >= CONFIDENCE]
    assert len(found) == len(expected) > 0
    boxes = torch.tensor([list(x.bbox.to_xyxy()) for x in found])
    clipped = expected.pred_boxes.tensor.clamp(min=0)
    torch.testing.assert_close(boxes.float(), clipped, atol=1e-3, rtol=0)
    scores = torch.tensor([x.score.value for x in found])
    torch.testing.assert_close(scores, expected.scores)
    classes = [x.category.name for x in found]
    assert classes == [NAMES[i] for i in expected.pred_classes]
    sliced = predict.get_sliced_prediction(
        rgb, model, slice_height=48, slice_width=48, verbose=0
    ).object_prediction_list
    assert sliced and {x.category.name for x in sliced} <= set(NAMES)
    assert max(x.bbox.maxx for x in sliced) > 48  # put back to where the slice was


def test_supervision(run_folder: Path, photo: np.ndarray) -> None:
    """From our predictor's Instances, and from a DefaultPredictor's result."""
    supervision = pytest.importorskip("supervision")
    own = cornernet_d2.load(run_folder / "model.pth", "cpu")
    instances = own(photo)
    for result in ({"instances": instances}, DefaultPredictor(own.cfg)(photo)):
        detections = supervision.Detections.from_detectron2(result)
        assert len(detections) == len(instances) > 0
        np.testing.assert_allclose(detections.xyxy, instances.pred_boxes.tensor, atol=1e-4)
        np.testing.assert_allclose(detections.confidence, instances.scores, atol=1e-6)
        np.testing.assert_array_equal(detections.class_id, instances.pred_classes)
    names = np.array(own.class_names)[detections.class_id]
    labelled = supervision.BoxAnnotator().annotate(photo.copy(), detections)
    assert labelled.shape == photo.shape and set(names) <= set(NAMES)
