"""Exported files detect what the model does, at any size, and need nothing of this package."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image
from tiny_run import tiny_network
from torch import nn

from cornernet_d2.canvas import PADDINGS
from cornernet_d2.export import Artifact, compare, export, report_lines, run
from cornernet_d2.export.detector import Detector, without_views
from cornernet_d2.export.parity import blurred_noise, match
from cornernet_d2.export.soft_nms import soft_nms_scan
from cornernet_d2.modeling.soft_nms import batched_soft_nms
from cornernet_d2.tools.command import main

ROOT = Path(__file__).parent.parent
MAX_SIDE = 96
NAMES = ["left", "right", "wrong"]
SMALL = ("MODEL.HOURGLASS.DEPTH", 1, "MODEL.HOURGLASS.WIDTHS", [8, 8])
SMALL += ("MODEL.HOURGLASS.BLOCKS", [1, 1], "TEST.DETECTIONS_PER_IMAGE", 3)
# No more corners than the smallest maps have peaks: what else is taken has the score 0, and which
# of many equal cells it is may differ between runtimes.
SMALL += ("MODEL.CORNERNET.TEST.TOP_K", 3, "MODEL.CORNERNET.TEST.MAX_PAIRS", 9)
SMALL += ("MODEL.CORNERNET.TEST.EMBEDDING_THRESHOLD", 5.0)


def model(*overrides):
    """A network whose maps have peaks, and running statistics that are no unit."""
    torch.manual_seed(0)
    built = build_model(tiny_network("CornerNet-HG104", *SMALL, *overrides)).eval()
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.constant_(module.bias, 1.0)  # else most features are 0, and many scores equal
    for branch in (built.head[-1].tl, built.head[-1].br):
        nn.init.normal_(branch.heatmap[-1].weight, std=2.0)
        nn.init.normal_(branch.embedding[-1].weight, std=0.3)
    return built


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    path = tmp_path_factory.mktemp("export") / "tiny.onnx"
    exported = model("MODEL.CORNERNET.TEST.FLIP", True)
    export(exported, path, max_side=MAX_SIDE, class_names=NAMES, preset="tiny")
    return exported, path


def test_onnx_detects_what_the_model_does(onnx_file):
    exported, path = onnx_file
    report = compare(exported, run(path), max_side=MAX_SIDE)
    assert report["passed"], "\n".join(report_lines(report))
    assert len(report["cases"]) == 10 and report["cases"][0]["detections"]
    assert report["box"] < 1e-3 and report["score"] < 1e-4


def test_onnx_says_what_it_takes_and_gives(onnx_file):
    import onnxruntime

    exported, path = onnx_file
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == NAMES and about["preset"] == "tiny"
    assert about["input_format"] == "BGR" and about["max_side"] == str(MAX_SIDE)
    settings = json.loads(about["settings"])
    assert settings["top_k"] == 3 and settings["max_picks"] == 3 and settings["sigma"] == 0.5
    assert [x.name for x in session.get_outputs()] == ["boxes", "scores", "classes", "count"]
    assert [x.name for x in session.get_inputs()] == ["images"]
    import onnx

    domains = {opset.domain for opset in onnx.load(path).opset_import}
    assert domains <= {"", "ai.onnx"}  # standard operators


def test_the_file_stands_in_for_the_model(onnx_file):
    exported, path = onnx_file
    image = blurred_noise(exported)[1].byte()
    x = {"image": image, "height": 2 * image.shape[1], "width": 3 * image.shape[2]}
    (found,) = Artifact(path)([x])
    (wanted,) = without_views(exported)([x])
    found, wanted = found["instances"], wanted["instances"]
    assert found.image_size == wanted.image_size
    assert match(wanted, found.pred_boxes.tensor, found.scores, found.pred_classes)[0] == 0


def test_the_example_runs_without_torch_and_this_package(onnx_file, tmp_path):
    exported, path = onnx_file
    image = blurred_noise(exported)[0].byte()
    wanted = without_views(exported).inference([{"image": image}], do_postprocess=False)[0]
    picture = Image.fromarray(np.ascontiguousarray(image.flip(0).permute(1, 2, 0).numpy()))
    picture.save(tmp_path / "a.png")
    script = str(ROOT / "docs" / "examples" / "onnx_runtime.py")
    argv = [script, str(path), str(tmp_path / "a.png"), "--score", "0"]
    code = (
        "import runpy, sys\nfor name in ('torch', 'detectron2', 'cornernet_d2', 'cv2'):\n"
        "    sys.modules[name] = None\n"
        f"sys.argv = {argv}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    objects = json.loads(done.stdout)["objects"]
    boxes = torch.tensor([x["box"] for x in objects])
    scores = torch.tensor([x["score"] for x in objects])
    classes = torch.tensor([NAMES.index(x["class"]) for x in objects])
    unmatched, box, score = match(wanted, boxes, scores, classes)
    assert len(objects) and unmatched == 0 and box < 1e-3 and score < 1e-4


def test_pt2_holds_pytorchs_own_operators_alone(tmp_path):
    exported = model("MODEL.CORNERNET.PADDING", "center_black")
    path = tmp_path / "tiny.pt2"
    metadata = export(exported, path, "pt2", max_side=MAX_SIDE)
    report = compare(exported, run(path), min_side=int(metadata["min_side"]), max_side=MAX_SIDE)
    assert report["passed"] and len(report["cases"]) == 4, "\n".join(report_lines(report))
    program = torch.export.load(str(path), extra_files=(extra := {"metadata.json": ""}))
    targets = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    assert not any("cornernet_d2" in target for target in targets)
    assert json.loads(json.loads(extra["metadata.json"])["classes"]) == ["0", "1", "2"]


@pytest.mark.parametrize("padding", PADDINGS)
@torch.no_grad()
def test_the_graph_places_images_as_the_canvas_does(padding):
    exported = model("MODEL.CORNERNET.PADDING", padding)
    detector = Detector(exported, raw=True)
    for image in (*blurred_noise(exported), torch.rand(3, 15, 31) * 255, torch.rand(3, 1, 1)):
        pixels, canvas = exported.preprocess_image([{"image": image}])
        torch.testing.assert_close(detector.place(image[None]), pixels, rtol=0, atol=0)
        wanted = exported.corner_inference.candidates(exported, [image])
        boxes, scores, _, classes = detector(image[None])
        torch.testing.assert_close(scores[0], wanted.scores, rtol=0, atol=1e-6)
        good = scores[0] >= 0
        torch.testing.assert_close(boxes[0][good], wanted.boxes[good], rtol=0, atol=1e-4)
        assert torch.equal(classes[0][good], wanted.classes[good])


@pytest.mark.parametrize("method", ["gaussian", "linear", "hard"])
@pytest.mark.parametrize("exponent", [None, 10.0])
def test_soft_nms_of_picks_equals_that_of_classes(method, exponent):
    generator = torch.Generator().manual_seed(3)
    start = torch.rand(2, 60, 2, generator=generator) * 20
    boxes = torch.cat((start, start + 8 * torch.rand(2, 60, 2, generator=generator) + 2), -1)
    scores = torch.rand(2, 60, generator=generator) - 0.2
    corners = torch.rand(2, 60, 2, generator=generator)
    classes = torch.randint(3, (2, 60), generator=generator)
    settings = {"method": method, "sigma": 0.5, "iou_threshold": 0.3, "min_score": 0.05}
    picks = soft_nms_scan(boxes, scores, corners, classes, 25, **settings, exponent=exponent)
    for i in range(2):
        merging = {"corner_scores": corners[i], "exponent": exponent} if exponent else {}
        one = (boxes[i], scores[i], classes[i])
        keep, wanted, *merged = batched_soft_nms(*one, **settings, **merging, max_detections=25)
        count = int(picks.count[i])
        assert count == len(keep) > 0
        torch.testing.assert_close(picks.scores[i, :count], wanted)
        wanted_boxes = merged[0] if merged else boxes[i][keep]
        torch.testing.assert_close(picks.boxes[i, :count], wanted_boxes)
        assert torch.equal(picks.classes[i, :count], classes[i][keep])
        assert not picks.scores[i, count:].any() and (picks.classes[i, count:] == -1).all()


def test_differences_are_found():
    wanted = Instances((20, 20))
    wanted.pred_boxes = Boxes(torch.tensor([[1.0, 1, 9, 9], [2, 2, 8, 8], [1, 1, 9, 9]]))
    wanted.scores, wanted.pred_classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0])
    boxes = wanted.pred_boxes.tensor
    given = boxes.flip(0) + 0.125, wanted.scores.flip(0), wanted.pred_classes.flip(0)
    assert match(wanted, *given) == (0, 0.125, 0.0)
    assert match(wanted, boxes, wanted.scores - 0.25, wanted.pred_classes)[0] == 0
    assert match(wanted, boxes, wanted.scores, torch.tensor([0, 2, 0]))[0] == 2
    assert match(wanted, boxes + 2, wanted.scores, wanted.pred_classes)[0] == 6
    assert match(wanted, boxes[:0], wanted.scores[:0], wanted.pred_classes[:0])[0] == 3

    def shifted(images):
        found = without_views(exported).inference(
            [{"image": x} for x in images], do_postprocess=False
        )
        most = max(map(len, found))
        pad = [most - len(x) for x in found]
        rows = [torch.nn.functional.pad(x.scores, (0, n)) for x, n in zip(found, pad)]
        boxes = [
            torch.nn.functional.pad(x.pred_boxes.tensor + 0.25, (0, 0, 0, n))
            for x, n in zip(found, pad)
        ]
        classes = [torch.nn.functional.pad(x.pred_classes, (0, n)) for x, n in zip(found, pad)]
        counts = torch.tensor([len(x) for x in found])
        return torch.stack(boxes), torch.stack(rows), torch.stack(classes), counts

    exported = model()
    report = compare(exported, shifted, max_side=MAX_SIDE)
    assert not report["passed"] and abs(report["box"] - 0.25) < 1e-3
    assert report_lines(report)[-1].startswith("DIFFERENT")


@pytest.mark.parametrize(
    "settings, overrides, message",
    [
        ({"format": "tflite"}, (), "format must be one of .*onnx.*got 'tflite'"),
        ({"format": "pt2"}, (), "x.onnx: a file of format pt2 must end in .pt2"),
        ({"class_names": ["a"]}, (), "1 class names for a model of 3 classes"),
        ({"max_side": 20000}, (), "at most 9456 pixels, got 20000"),
        ({"max_side": 9}, (), "largest side must be 18 pixels or more, got 9"),
        ({}, ("MODEL.CORNERNET.TEST.CONVENTION", "mmdet"), "MMDetInference cannot be exported"),
        ({}, ("TEST.DETECTIONS_PER_IMAGE", 0), "DETECTIONS_PER_IMAGE is 0"),
    ],
)
def test_what_cannot_be_exported_is_said(tmp_path, settings, overrides, message):
    with pytest.raises(ValueError, match=message):
        export(model(*overrides), tmp_path / "x.onnx", **settings)
    assert not list(tmp_path.iterdir())


def test_the_command_writes_file_and_report(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    cfg = tiny_network("CornerNet-HG104", *SMALL)
    config = ["--config-file", str(tmp_path / "config.yaml")]
    (tmp_path / "config.yaml").write_text(cfg.dump())
    torch.save({"model": model().state_dict()}, tmp_path / "model.pth")
    weights = str(tmp_path / "model.pth")
    assert main(["export", weights, *config, "--max-side", str(MAX_SIDE)]) == 0
    assert "equal: box" in capsys.readouterr().out
    report = json.loads((tmp_path / "model.onnx.parity.json").read_text())
    assert report["passed"] and report["score"] < 1e-4 and report["max_side"] == str(MAX_SIDE)
    assert main(["export", weights, *config]) == 1
    assert "model.onnx exists" in capsys.readouterr().err
    assert main(["export", str(tmp_path / "other.pth"), "--output", str(tmp_path / "b.onnx")]) == 1
    assert "other.pth" in capsys.readouterr().err
