"""The error analysis: perfect maps decode to the truth, imperfect ones to what the model finds."""

import base64
import json
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
import torch
from coco_counts import evaluate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances
from tiny_run import TINY_NETWORK

from cornernet_d2 import load_config
from cornernet_d2.diagnosis import FALSE, MISSED, analyze
from cornernet_d2.diagnosis.heat import heat_in_image
from cornernet_d2.diagnosis.oracle import ROWS, perfect_maps
from cornernet_d2.diagnosis.showing import KINDS, explained, show
from cornernet_d2.diagnosis.stages import found_in, trace
from cornernet_d2.engine import CornerNetTrainer
from cornernet_d2.modeling.target_batch import TargetBatch
from cornernet_d2.predictor.results import class_thresholds, select
from cornernet_d2.tools import command

NAME = "errors"
BOXES = [[8, 12, 30, 28], [30, 20, 25, 40], [50, 4, 12, 12]]  # x, y, width, height, pixels


@pytest.fixture
def cfg(tmp_path):
    """An untrained network, its weights in a file, and two images enlarged by 4/3 to test on."""
    rng = np.random.RandomState(0)
    images, annotations = [], []
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"{i}.png"), rng.randint(0, 255, (72, 96, 3), np.uint8))
        images.append({"id": i, "file_name": f"{i}.png", "height": 72, "width": 96})
        for k, box in enumerate(BOXES[i:]):
            row = {"id": len(annotations) + 1, "image_id": i, "category_id": k % 2 + 1}
            row.update(bbox=box, area=box[2] * box[3], iscrowd=0)
            annotations.append(row)
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    register_coco_instances(NAME, {}, str(tmp_path / "truth.json"), str(tmp_path))
    cfg = load_config(
        "CornerNet-Shapes",
        [*TINY_NETWORK, "MODEL.CORNERNET.NUM_CLASSES", 2, "INPUT.MIN_SIZE_TEST", 96]
        + ["INPUT.MAX_SIZE_TEST", 128, "DATASETS.TEST", (NAME,), "DATALOADER.NUM_WORKERS", 0]
        + ["OUTPUT_DIR", str(tmp_path / "output")],
    )
    torch.manual_seed(0)
    model = CornerNetTrainer.build_model(cfg).eval()
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    torch.save({"model": model.state_dict()}, cfg.MODEL.WEIGHTS)
    yield cfg
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_the_command_prints_tables_and_writes_reports(cfg, tmp_path, capsys):
    config, html, numbers = (tmp_path / name for name in ("config.yaml", "a.html", "a.json"))
    config.write_text(cfg.dump())
    argv = ["analyze", cfg.MODEL.WEIGHTS, "--config-file", str(config), "--settings"]
    argv += ["--html", str(html), "--json", str(numbers)]
    assert command.main(argv) == 0
    printed = capsys.readouterr().out
    lines = printed.partition("perfect:")[2].splitlines()[1 : len(ROWS) + 1]
    table = {line[:40].strip(): [float(value) for value in line[40:].split()] for line in lines}
    assert list(table) == ["nothing"] + [", ".join(row) for row in ROWS[1:]]
    assert table["heatmap, offset, pairing"] == [100.0, 100.0, 100.0]
    assert table["nothing"][0] < 5 and table["heatmap"][1] > table["nothing"][1]
    assert not (tmp_path / "output" / "inference").exists()
    assert all(cause in printed for cause in (*MISSED, *FALSE))

    content = json.loads(numbers.read_text())[NAME]
    assert content["totals"]["objects"] == 5
    assert sum(content["missed"].values()) == content["totals"]["missed"]
    assert content["oracle"]["heatmap, offset, pairing"]["AP"] == 100.0
    assert list(content["AP50_by_setting"]["TOP_K"]) == ["25", "50", "100", "200"]
    assert content["pairing"]["limit"] == 0.5 and content["pairing"]["within_median"] >= 0
    assert sum(number for *_, number in content["calibration"]) == (
        content["totals"]["false"] + content["totals"]["found"]
    )
    names = ["a", "b"]
    best = {name: content["classes"][name]["best_threshold"] for name in names}
    assert class_thresholds(numbers, names, 0.4) == list(best.values())
    assert class_thresholds(numbers, [*names, "c"], 0.4) == [*best.values(), 0.4]
    with pytest.raises(ValueError, match="no class is called b; there are a"):
        class_thresholds(numbers, ["a"], 0.4)
    with pytest.raises(ValueError, match="is no report of"):
        class_thresholds(html, names, 0.4)
    _check_page(html.read_text())
    assert command.main(argv) == 1
    assert "a.html exists" in capsys.readouterr().err


def _check_page(text):
    """One well-formed page that fetches nothing, with both tables of causes and pictures."""

    class Reader(HTMLParser):
        opened, sources, pictures = [], [], []

        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "img"):
                self.opened.append(tag)
            self.sources += [v for k, v in attributes if k in ("src", "href")]

        def handle_endtag(self, tag):
            assert self.opened.pop() == tag

    reader = Reader()
    reader.feed(text)
    assert not reader.opened and "<script" not in text and "url(" not in text
    assert all(source.startswith("data:image/") for source in reader.sources)
    kinds = [source[11:15] for source in reader.sources]
    # Gains, curves, calibration and scatter; worst images, examples and a histogram.
    assert kinds.count("png;") == 5 and kinds.count("jpeg") >= 4
    for source in reader.sources:
        data = np.frombuffer(base64.b64decode(source.partition(",")[2]), np.uint8)
        assert min(cv2.imdecode(data, cv2.IMREAD_COLOR).shape[:2]) >= 100
    assert all(cause in text for cause in (*MISSED, *FALSE))


def test_saved_maps_give_the_same_analysis_without_the_network(cfg, tmp_path):
    cfg.MODEL.CORNERNET.TEST.FLIP = False
    model = CornerNetTrainer.build_model(cfg).eval()
    folder = tmp_path / "maps"
    first = analyze(cfg, model, NAME, oracle=False, settings=True, save_to=folder)
    model.last_maps = None  # cannot be called
    again = analyze(cfg, model, NAME, oracle=False, settings=True, load_from=folder)
    assert again.summary.as_dict() == first.summary.as_dict()
    assert again.settings == first.settings
    (folder / "000001.npz").unlink()
    with pytest.raises(ValueError, match="000001.npz does not exist: write .* --save-maps"):
        analyze(cfg, model, NAME, oracle=False, load_from=folder)
    (folder / "000000.npz").rename(folder / "000001.npz")
    (folder / "000000.npz").write_bytes((folder / "000001.npz").read_bytes())
    with pytest.raises(ValueError, match="000001.npz is of 0.png .* where 1.png"):
        analyze(cfg, model, NAME, oracle=False, load_from=folder)


def test_settings_are_what_an_evaluation_with_them_gives(cfg):
    cfg.MODEL.CORNERNET.TEST.FLIP = False
    model = CornerNetTrainer.build_model(cfg).eval()
    CornerNetTrainer.load_weights(cfg, model)
    with open(MetadataCatalog.get(NAME).json_file) as file:
        _draw_towards(model, json.load(file)["annotations"])
    found = analyze(cfg, model, NAME, oracle=False, settings=True)
    assert {key: list(row) for key, row in found.settings.items()} == {
        "EMBEDDING_THRESHOLD": [0.1, 0.25, 0.5, 1.0, 2.0],
        "TOP_K": [25, 50, 100, 200],
        "NMS_KERNEL": [1, 3, 5, 7],
        "SOFT_NMS.SIGMA": [0.1, 0.25, 0.5, 1.0],
    }
    for key, value in found.used.items():
        assert found.settings[key][value] == found.summary.ap
    changes = {
        "EMBEDDING_THRESHOLD": (model.pairing.__dict__, "threshold", 0.1),
        "NMS_KERNEL": (model.corner_inference.decoding, "nms_kernel", 7),
        "SOFT_NMS.SIGMA": (model.corner_inference.soft_nms, "sigma", 0.1),
    }
    for key, (place, name, value) in changes.items():
        used, place[name] = place[name], value
        expected = CornerNetTrainer.test(cfg, model)["bbox"]["AP50"]
        assert 100 * found.settings[key][value] == pytest.approx(expected, abs=1e-9), key
        place[name] = used


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["MODEL.CORNERNET.TEST.CONVENTION", "official"],
        ["MODEL.CORNERNET.TEST.CONVENTION", "mmdet"],
        ["MODEL.CORNERNET.PAIRING", "centripetal"],
        ["MODEL.CORNERNET.TEST.MERGE.ENABLED", True],
    ],
)
def test_counts_are_those_of_the_evaluation(cfg, overrides):
    """The model's own detections, as pycocotools matches them."""
    cfg.MODEL.CORNERNET.TEST.FLIP = False
    cfg.merge_from_list(overrides)
    torch.manual_seed(0)
    model = CornerNetTrainer.build_model(cfg).eval()
    with open(MetadataCatalog.get(NAME).json_file) as file:
        rows = json.load(file)["annotations"]
    _draw_towards(model, rows)
    loader = CornerNetTrainer.build_test_loader(cfg, NAME)
    results = [found_in(model([x])[0]["instances"]) for (x,) in loader]
    expected = CornerNetTrainer.test(cfg, model)["bbox"]

    analysis = analyze(cfg, model, NAME)
    summary = analysis.summary
    for image, result in zip(summary.images, results):
        for ours, theirs in zip(image.found, result):
            np.testing.assert_array_equal(ours, theirs)
    assert analysis.oracle[()]["AP"] == pytest.approx(expected["AP"], abs=1e-9)
    assert analysis.oracle[()]["AP50"] == pytest.approx(expected["AP50"], abs=1e-9)
    assert 100 * summary.ap == pytest.approx(expected["AP50"], abs=1e-9)
    evaluation = evaluate(rows, results)
    assert summary.totals == {"images": 2, **evaluation.counts}
    assert summary.totals["found"] >= 1  # of a network without training, whose maps are helped
    assert sum(summary.missed.values()) == summary.totals["missed"]
    assert sum(summary.false.values()) == summary.totals["false"]


def _draw_towards(model, rows):
    """Make the untrained network find a few objects: heat at the corners of the first image's."""
    own = model.last_maps
    cells = [np.array((x, y, x + w, y + h)) / 3 for x, y, w, h in (r["bbox"] for r in rows[:2])]

    def helped(images):
        maps = own(images)
        for i, corner in enumerate(("tl", "br")):
            for number, cell in enumerate(cells):
                x, y = (int(v) for v in cell[2 * i : 2 * i + 2])
                maps[corner]["heatmap"][0, number % 2, y, x] += 20
                if "shift" in maps[corner]:
                    size = torch.from_numpy(cell[2:] - cell[:2])
                    maps[corner]["shift"][0, :, y, x] = (size / 2).log()
        return maps

    model.last_maps = helped


def test_perfect_maps():
    cfg = load_config("CornerNet-Shapes")
    model = CornerNetTrainer.build_model(cfg)
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 33.0, 30.0], [16.0, 8.0, 50.0, 47.0]]))
    instances.gt_classes = torch.tensor([0, 2])
    targets = model.corner_targets([{"instances": instances}], model.canvas([(64, 64)]))
    predicted = {c: {"offset": torch.full((1, 2, 16, 16), 7.0)} for c in ("tl", "br")}
    maps = perfect_maps(TargetBatch.join(targets, torch.device("cpu")), predicted)["tl"]
    embedding = maps["embedding"][0, 0]
    # Corners in columns 2 and 4 of row 2: the one between belongs to the first, 2 cells reach.
    assert embedding[2, :8].nan_to_num(-1).tolist() == [0, 0, 0, 0, 1, 1, 1, -1]
    assert embedding[5].isnan().all() and embedding[4, 2] == 0
    assert maps["offset"][0, :, 2, 2].tolist() == [0, 0] and (maps["offset"][0, :, 9] == 7).all()
    peaks = (maps["heatmap"].sigmoid() > 0.99).nonzero().tolist()
    assert peaks == [[0, 0, 2, 2], [0, 2, 2, 4]]


def _helped(cfg):
    """A model that finds some objects of the first image, and that image as it takes it."""
    cfg.MODEL.CORNERNET.TEST.FLIP = False
    torch.manual_seed(0)
    model = CornerNetTrainer.build_model(cfg).eval()
    with open(MetadataCatalog.get(NAME).json_file) as file:
        _draw_towards(model, json.load(file)["annotations"])
    x = next(iter(CornerNetTrainer.build_test_loader(cfg, NAME)))[0]
    return model, x


@pytest.mark.parametrize("pairing", ["embedding", "centripetal"])
def test_detections_know_their_corners_and_how_far_apart_these_are(cfg, pairing):
    cfg.MODEL.CORNERNET.PAIRING = pairing
    model, x = _helped(cfg)
    pixels, canvas = model.preprocess_image([x])
    maps = model.last_maps(pixels)
    size = x["height"], x["width"]
    stages = trace(model.corner_inference, model.pairing, maps, canvas, size)
    found, result = explained(stages, size), model([x])[0]["instances"]
    assert torch.equal(found.pred_boxes.tensor, result.pred_boxes.tensor) and len(found)
    assert (found.pair_distances <= model.pairing.limit).all()
    best = found[0]  # nothing lowered its score
    expected = best.corner_scores.mean()
    if pairing == "embedding":
        assert best.scores.item() == pytest.approx(expected.item(), abs=1e-6)
    else:
        weight = (-2 * (best.pair_distances / model.pairing.limit) ** 2).exp()
        assert best.scores.item() == pytest.approx((expected * weight).item(), abs=1e-6)


def test_heat_of_an_image_is_that_of_its_cells(cfg):
    model, x = _helped(cfg)
    pixels, canvas = model.preprocess_image([x])
    heat = heat_in_image(model.last_maps(pixels), canvas)
    assert heat.shape == (2, 24, 32) and heat.dtype == np.uint8
    # The corners of BOXES, 4/3 of 8, 12 and 38, 40 pixels, in cells of 4.
    assert heat[0, 4, 2] == 255 and heat[1, 13, 12] == 255 and np.median(heat) < 128


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_shown_of_a_detection(cfg, kind):
    model, x = _helped(cfg)
    picture = np.full((72, 96, 3), 128, np.uint8)
    few = show(model, x, picture, kind, lambda found: select(found, 0.9)[0], ["a", "b"])
    none = show(model, x, picture, kind, lambda found: found[:0], ["a", "b"])
    panels = 2 if kind == "heatmaps" else 1
    strip = 22 if kind == "heatmaps" else 0
    assert few.shape == none.shape == (320 + strip, 426 * panels + 4 * (panels - 1), 3)
    assert (np.abs(few.astype(int) - none).max(-1) > 20).sum() > 100
    if kind == "heatmaps":  # red at the corner, blue elsewhere
        row, column = 22 + 12 * 320 // 72, 8 * 320 // 72
        assert none[row, column, 0] > none[row, column, 2] + 60


def test_needs_the_truth(cfg):
    DatasetCatalog.remove(NAME)
    DatasetCatalog.register(NAME, lambda: [{"file_name": "0.png"}])
    with pytest.raises(ValueError, match="errors has images without 'annotations'"):
        analyze(cfg, None, NAME)
