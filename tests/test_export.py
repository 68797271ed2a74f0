"""Exported files detect what the model does, at any size, and need nothing of this package."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from tiny_run import tiny_network
from torch import nn

from cornernet_d2.export import Artifact, compare, export, report_lines, run
from cornernet_d2.export.detector import Detector, without_views
from cornernet_d2.export.parity import blurred_noise, match
from cornernet_d2.export.quantize import quantize
from cornernet_d2.tools.command import main

ROOT = Path(__file__).parent.parent
MAX_SIDE = 96
NAMES = ["left", "right", "wrong"]
MAPS = ("heatmap", "embedding", "offset")
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
    assert about["precision"] == "float32" and about["short_side"] == about["long_side"] == "0"
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


def test_openvino_runs_the_file(onnx_file, tmp_path):
    """Its loops see nothing outside them, so that all a loop reads has to be its state."""
    openvino = pytest.importorskip("openvino")
    exported, path = onnx_file
    model = openvino.convert_model(path)
    openvino.save_model(model, tmp_path / "tiny.xml", compress_to_fp16=False)
    report = compare(exported, run(tmp_path / "tiny.xml"), max_side=MAX_SIDE)
    assert report["passed"] and report["cases"][0]["detections"], "\n".join(report_lines(report))


def test_openvino_is_a_format(tmp_path, monkeypatch):
    openvino = pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    path = tmp_path / "tiny.xml"
    exported = model("MODEL.CORNERNET.TEST.MERGE.ENABLED", True)
    export(exported, path, "openvino", max_side=MAX_SIDE, class_names=NAMES, resize=(48, 64))
    found = openvino.Core().read_model(path)
    about = {name: found.get_rt_info(["cornernet_d2", name]).value for name in ("classes", "raw")}
    assert json.loads(about["classes"]) == NAMES and about["raw"] == "false"
    assert found.get_rt_info(["cornernet_d2", "short_side"]).value == "48"
    report = compare(exported, run(path), max_side=MAX_SIDE)
    assert report["passed"], "\n".join(report_lines(report))


def test_int8_is_of_the_convolutions_but_the_last(onnx_file, tmp_path):
    import onnx

    exported, float_path = onnx_file
    path = tmp_path / "tiny.onnx"
    shutil.copy(float_path, path)
    images = [image[None] for image in blurred_noise(exported)]
    kept = [f"model.head.0.{corner}.{name}.1.weight" for corner in ("tl", "br") for name in MAPS]
    quantize(path, "images", images, kept)
    graph = onnx.load(path).graph
    made = {output: node for node in graph.node for output in node.output}
    shapes = {x.name: list(x.dims) for x in graph.initializer}
    floats = []
    for node in graph.node:
        if node.op_type == "Conv":
            weight = made.get(node.input[1])
            if weight is None:
                floats.append(node.input[1])
                continue
            assert weight.op_type == "DequantizeLinear"
            assert shapes[weight.input[1]] == shapes[weight.input[0]][:1]  # a scale a channel
    assert sorted(floats) == sorted(kept)
    about = {x.key: x.value for x in onnx.load(path).metadata_props}
    assert json.loads(about["classes"]) == NAMES
    wanted, found = run(float_path)(images[0])[1], run(path)(images[0])[1]
    assert (wanted - found)[0, 0].abs() < 0.02 and wanted[0, 0] > 0.1


@pytest.mark.skipif(
    "CORNERNET_D2_ONNXRUNTIME" not in os.environ or shutil.which("g++") is None,
    reason="needs g++ and a folder with include/ and lib/ of onnxruntime in the environment",
)
def test_the_example_in_cpp(onnx_file, tmp_path):
    exported, path = onnx_file
    runtime = os.environ["CORNERNET_D2_ONNXRUNTIME"]
    program = tmp_path / "detect"
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-o", program]
    command += [ROOT / "docs" / "examples" / "onnx_runtime.cpp", f"-I{runtime}/include"]
    command += [f"-L{runtime}/lib", f"-Wl,-rpath,{runtime}/lib", "-lonnxruntime"]
    subprocess.run(command, check=True)
    image = blurred_noise(exported)[0].byte()
    picture = Image.fromarray(np.ascontiguousarray(image.flip(0).permute(1, 2, 0).numpy()))
    picture.save(tmp_path / "a.ppm")
    command = [program, path, tmp_path / "a.ppm", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    objects = json.loads(done.stdout)["objects"]
    boxes = torch.tensor([x["box"] for x in objects])
    scores = torch.tensor([x["score"] for x in objects])
    classes = torch.tensor([NAMES.index(x["class"]) for x in objects])
    wanted = without_views(exported).inference([{"image": image}], do_postprocess=False)[0]
    unmatched, box, score = match(wanted, boxes, scores, classes)
    assert len(objects) and unmatched == 0 and box < 1e-3 and score < 1e-4
    bad = subprocess.run([program, path, path], capture_output=True, text=True)
    assert bad.returncode == 1 and "no binary PPM" in bad.stderr


@pytest.mark.skipif(
    os.environ.get("CORNERNET_D2_TEST_AOTI", "0") != "1", reason="takes a C++ compiler minutes"
)
def test_aoti_detects_what_the_model_does(tmp_path):
    exported = model()
    path = tmp_path / "tiny.aoti.pt2"
    metadata = export(exported, path, "aoti", max_side=MAX_SIDE, class_names=NAMES)
    report = compare(exported, run(path), min_side=int(metadata["min_side"]), max_side=MAX_SIDE)
    assert report["passed"], "\n".join(report_lines(report))
    about = torch._inductor.aoti_load_package(str(path)).get_metadata()
    assert json.loads(about["classes"]) == NAMES


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


def test_torchscript_detects_what_the_model_does(tmp_path):
    exported = model("MODEL.CORNERNET.TEST.MERGE.ENABLED", True)
    images = [blurred_noise(exported)[0], 255 * torch.rand(3, 20, 45)]
    path = tmp_path / "tiny.torchscript.pt"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        metadata = export(exported, path, "torchscript", max_side=MAX_SIDE, class_names=NAMES)
        report = compare(exported, run(path), images, max_side=MAX_SIDE)
    assert not [x for x in said if "jit" in str(x.message) or "trace" in str(x.message)]
    assert report["passed"] and len(report["cases"]) == 4, "\n".join(report_lines(report))
    assert report["cases"][0]["detections"] and metadata["min_side"] == "1"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.jit.load(str(path), _extra_files=(extra := {"metadata.json": ""}))
    about = json.loads(extra["metadata.json"])
    assert json.loads(about["classes"]) == NAMES and about["outputs"][0] == "boxes"
    # Neither operators of this package nor Python.
    graph = str(loaded.inlined_graph)
    assert "aten::_convolution" in graph
    assert "cornernet_d2::" not in graph and "^" not in graph


@torch.no_grad()
def test_torchscript_holds_no_size_for_a_constant(tmp_path):
    keys = ("MODEL.CORNERNET.PADDING", "center_black", "MODEL.CORNERNET.TEST.TOP_K", 100)
    exported = model(*keys)
    path = tmp_path / "tiny.torchscript.pt"
    export(exported, path, "torchscript", max_side=MAX_SIDE, raw=True)
    runner, detector = run(path), Detector(exported, raw=True)
    for size in ((1, 3, 1, 1), (3, 3, 33, 96), (1, 3, 96, 8)):
        images = torch.rand(size) * 255
        wanted, found = detector(images), runner(images)
        assert [x.shape for x in wanted] == [x.shape for x in found]
        torch.testing.assert_close(found[1], wanted[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings, overrides, message",
    [
        ({"format": "tflite"}, (), "format must be one of .*onnx.*got 'tflite'"),
        ({"format": "pt2", "path": "x.pt2", "calibration": [0]}, (), "for onnx and openvino, not"),
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
        export(model(*overrides), tmp_path / settings.pop("path", "x.onnx"), **settings)
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
