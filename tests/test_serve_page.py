"""The page of `cornernet serve`: other settings without a forward pass, archives, and a browser."""

import copy
import importlib
import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from serving import Server
from test_serve import encoded
from tiny_run import tiny_network

import cornernet_d2
from cornernet_d2.checkpoint import CornerNetCheckpointer
from cornernet_d2.modeling import InferenceWithTTA
from cornernet_d2.modeling.pairing import build_pairing
from cornernet_d2.modeling.test_time_augmentation import build_inference
from cornernet_d2.serve import Limits, Service
from cornernet_d2.serve.archive import summary, write_archive
from cornernet_d2.serve.explore import LONGEST, Explorer, Looks
from cornernet_d2.tools import command

TEST = "MODEL.CORNERNET.TEST."


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    keys = ("MODEL.CORNERNET.NUM_CLASSES", 4, "INPUT.MIN_SIZE_TEST", 64)
    cfg = tiny_network("CornerNet-Shapes", *keys, "TEST.DETECTIONS_PER_IMAGE", 20)
    CornerNetCheckpointer(build_model(cfg), str(folder), cfg=cfg).save("model")
    return str(folder / "model.pth")


def picture(height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def service(model_file: str) -> Iterator[Service]:
    service = Service(cornernet_d2.load(model_file, "cpu"), Limits(max_bytes=100_000))
    yield service
    service.close()


@pytest.mark.parametrize("convention", ["default", "official"])
@pytest.mark.parametrize("flip", [False, True])
def test_settings_act_as_in_the_config_without_another_forward_pass(
    service: Service, convention: str, flip: bool
) -> None:
    cfg = service.predictor.cfg.clone()
    test = cfg.MODEL.CORNERNET.TEST
    test.CONVENTION, test.FLIP = convention, flip
    model = copy.copy(service.predictor.model)
    model.corner_inference = build_inference(cfg)
    assert isinstance(model.corner_inference, InferenceWithTTA) == flip
    explorer = Explorer(cornernet_d2.Predictor(model, cfg), service.lock)
    look, found = explorer.look(picture()), []
    test.FLIP = False
    for top_k, threshold in ((100, 2.0), (30, 2.0), (100, 0.05)):
        test.TOP_K, test.EMBEDDING_THRESHOLD = top_k, threshold
        model.corner_inference, model.pairing = build_inference(cfg), build_pairing(cfg)
        expected = cornernet_d2.Predictor(model, cfg)(picture())
        model.last_maps, last_maps = None, model.last_maps  # whoever runs the network fails
        found.append(explorer.detect(look, top_k, threshold))
        model.last_maps = last_maps
        assert len(found[-1]) == len(expected)
        torch.testing.assert_close(found[-1].pred_boxes.tensor, expected.pred_boxes.tensor)
        torch.testing.assert_close(found[-1].scores, expected.scores)
        assert torch.equal(found[-1].pred_classes, expected.pred_classes)
        assert found[-1].corner_scores.shape == (len(expected), 2)
    assert len(found[0]) > 15 and not torch.equal(found[0].scores, found[1].scores)
    assert len(explorer.detect(look, 100, 0.0)) == 0


def test_pictures_and_heat_maps(service: Service) -> None:
    explorer = Explorer(service.predictor, service.lock)
    look = explorer.look(picture(60, 3000))
    assert look.picture.shape == (26, LONGEST, 3)
    found = explorer.detect(look, 100)
    assert found.image_size == (26, LONGEST)
    look = explorer.look(picture())
    found = explorer.detect(look, 100)
    plain, boxes, pairs = look.picture, explorer.boxes(look, found), explorer.pairs(look, found)
    assert boxes.shape == pairs.shape == (320, 426, 3) and not np.array_equal(boxes, pairs)
    assert plain.shape == (60, 80, 3)
    look.maps["tl"]["heatmap"].fill_(-20.0)[0, 2, 10, 12] = 20.0
    cold = explorer.heat(look, 1)[0]
    for index in (2, None):
        top_left, bottom_right = explorer.heat(look, index)
        assert top_left.shape == bottom_right.shape == (320, 425, 3)  # 5 x 64 x 85
        y, x = (top_left != cold).any(-1).nonzero()  # cells of 20 pixels, and their neighbours
        assert abs(y.mean() - 209.5) < 2 and abs(x.mean() - 249.5) < 2
        assert 20 < np.ptp(y) < 45 and 20 < np.ptp(x) < 45


def test_the_longest_unused_look_is_forgotten(service: Service) -> None:
    look = Explorer(service.predictor, service.lock).look(picture())
    tensors = [x for side in look.maps.values() for x in side.values()]
    assert look.nbytes == look.picture.size + sum(4 * x.numel() for x in tensors)
    looks = Looks(2 * look.nbytes)
    looks.put("a", look)
    looks.put("b", look)
    assert looks.get("a") is look
    looks.put("c", look)
    assert looks.get("b") is None and looks.get("a") is looks.get("c") is look
    looks.put("c", look)
    assert looks.nbytes == 2 * look.nbytes
    looks.drop("a")
    assert looks.get("a") is None and looks.nbytes == look.nbytes
    small = Looks(1)
    small.put("a", look)
    assert small.get("a") is look


def test_an_archive_has_pictures_and_detections(service: Service, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    names = ["a.png", "b.txt", "b/a.png", "large.png"]
    for name, data in zip(names, (encoded(40, 50), b"text", encoded(30, 64), bytes(200_000))):
        (tmp_path / name).write_bytes(data)
    target = tmp_path / "out.zip"
    number, errors = write_archive(service, [tmp_path / name for name in names], target, 0.0)
    assert number == 2 and len(errors) == 2
    assert errors[0].startswith("b.txt: no image of BMP") and "more than the" in errors[1]
    with zipfile.ZipFile(target) as archive:
        assert sorted(archive.namelist()) == ["1_a.jpg", "3_a.jpg", "detections.json"]
        rows = json.loads(archive.read("detections.json"))
        drawn = cv2.imdecode(np.frombuffer(archive.read("3_a.jpg"), np.uint8), 1)
    assert {(row["image_id"], row["file_name"]) for row in rows} == {(1, "a.png"), (3, "a.png")}
    assert drawn.shape == (320, 682, 3)
    told = summary(2, [f"{number}: wrong" for number in range(7)])
    assert told.startswith("2 images\n\n7 files were left out:\n\n0: wrong") and "2 more" in told


def test_without_gradio_the_page_is_left_out(
    model_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    module = importlib.import_module("cornernet_d2.tools.serve")
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setattr(module, "create_app", lambda *_: None)
    monkeypatch.setattr(module, "serve", lambda *_: None)
    assert command.main(["serve", model_file, "--port", "0"]) == 0
    assert "no page: pip install gradio\n" in capsys.readouterr().out


@pytest.fixture(scope="module")
def browser() -> Iterator["playwright.sync_api.Browser"]:  # noqa: F821
    playwright = pytest.importorskip("playwright.sync_api")
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium")
    with playwright.sync_playwright() as driver:
        options = {"executable_path": executable, "args": ["--no-sandbox"]}
        browser = driver.chromium.launch(**options)
        yield browser
        browser.close()


def test_a_person_uses_it(
    browser: "playwright.sync_api.Browser", model_file: str, tmp_path: Path  # noqa: F821
) -> None:
    pytest.importorskip("gradio")
    samples = tmp_path / "samples"
    samples.mkdir()
    (samples / "one.png").write_bytes(encoded(60, 80, seed=5))
    (tmp_path / "photo.png").write_bytes(encoded(60, 80))
    (tmp_path / "words.png").write_bytes(b"words")
    server = Server(model_file, "--samples", str(samples), "--max-mib", "1")
    try:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        page.goto("http://{}:{}/".format(*server.address))
        _upload_and_move_sliders(page, tmp_path)
        _archive(page, tmp_path)
        assert server.predict(encoded(60, 80))[0] == 200  # beside the page
        assert server.get("/health")[0] == 200
    finally:
        server.stop()


def _upload_and_move_sliders(page: "playwright.sync_api.Page", folder: Path) -> None:  # noqa: F821
    told = page.locator("#told")
    page.locator("#image input[type=file]").set_input_files(folder / "words.png")
    page.get_by_text("no image of BMP").wait_for()
    page.locator("#image button[aria-label=Clear], #image button[title=Clear]").first.click()
    page.locator("#image input[type=file]").set_input_files(folder / "photo.png")
    told.get_by_text("objects").wait_for()
    _set(page, "score", "0")
    told.get_by_text("100 objects", exact=True).or_(told.get_by_text("20 objects")).wait_for()
    before = page.locator("#boxes img").get_attribute("src")
    _set(page, "distance", "0")
    told.get_by_text("0 objects: nothing was found").wait_for()
    _set(page, "distance", "2")
    told.get_by_text("20 objects").wait_for()
    _set(page, "corners", "2")
    told.filter(has_text="objects").filter(has_not_text="20 objects").wait_for()
    assert page.locator("#boxes img").get_attribute("src") != before
    page.get_by_role("tab", name="Corner pairs").click()
    page.locator("#pairs img").wait_for()
    page.get_by_role("tab", name="Heat maps").click()
    for label in ("Top-left corners", "Bottom-right corners"):
        page.get_by_text(label).wait_for()


def _archive(page: "playwright.sync_api.Page", folder: Path) -> None:  # noqa: F821
    page.get_by_role("tab", name="Many files").click()
    files = [folder / "photo.png", folder / "words.png"]
    page.locator("input[type=file][multiple]").set_input_files(files)
    page.locator("td[aria-label='words.png']").wait_for()
    page.get_by_role("button", name="Detect").click()
    page.get_by_text("1 files were left out").wait_for()
    with page.expect_download() as download:
        page.locator("a[download]").last.click()
    data = Path(download.value.path()).read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert sorted(archive.namelist()) == ["1_photo.jpg", "detections.json"]


def _set(page: "playwright.sync_api.Page", slider: str, value: str) -> None:  # noqa: F821
    box = page.locator(f"#{slider} input[type=number]")
    box.fill(value)
    box.press("Tab")
