"""The three pages are whole: they fetch nothing, and a browser shows their pictures."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.structures import BoxMode
from test_diagnosis import BOX, OTHER, _stages, _truth

from cornernet_d2 import load_config
from cornernet_d2.diagnosis import Analysis, Summary, diagnose
from cornernet_d2.diagnosis.dataset import Contents, LookAlikes, Rules, dataset_page, describe
from cornernet_d2.diagnosis.html import decimal, document, paragraph, table
from cornernet_d2.diagnosis.page import page
from cornernet_d2.diagnosis.pairing_view import CrowdedImage, PairingView

VIVID = (200, 0, 255)  # BGR, of the images' ground, which nothing else on a page has
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    for path in paths:
        cv2.imwrite(path, np.full((120, 160, 3), VIVID, np.uint8))
    return paths


def _analysis(files: list[str]) -> Analysis:
    detections = [(BOX, 0.9, 0), ((60.0, 12, 100, 90), 0.8, 0), ((5.0, 60, 30, 90), 0.7, 1)]
    images = []
    for file in files:
        stages = _stages(detections=detections)
        image = diagnose(_truth(BOX, OTHER, classes=[0, 1]), stages, name=file)
        heat = np.random.default_rng(0).integers(0, 255, (2, 30, 40), np.uint8)
        images.append(image._replace(heat=heat))
    view = PairingView(0.5)
    view._within, view._between = [np.array([0.1, 0.4])], [np.array([0.9, np.nan, 2.0])]
    values = np.array([[[0.1], [1.0]], [[0.2], [1.1]]])
    view.crowded = CrowdedImage(files[0], "embedding", values, np.array([0, 1]))
    return Analysis("set <one>", Summary(images, ["a", "b"]), [], {}, {}, view)


def _dataset(files: list[str]) -> str:
    obj = {"bbox": [10, 10, 50, 40], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
    dicts = [
        {"file_name": f, "image_id": i, "height": 120, "width": 160, "annotations": [obj]}
        for i, f in enumerate(files)
    ]
    cfg = load_config("CornerNet-Shapes", ["MODEL.CORNERNET.NUM_CLASSES", 1])
    report = describe("set", dicts, Contents.of(dicts, ["a"]), cfg, Rules.of(cfg))
    twins = LookAlikes(3, [("set", 0, 1)], [])
    return dataset_page({"set": []}, [report], twins)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.opened.append(tag)
        self.sources += [value or "" for key, value in attributes if key in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag


def check_whole(text: str) -> None:
    """Well-formed, without script, and all that it shows is in it."""
    reader = _Reader()
    reader.feed(text)
    assert not reader.opened and reader.sources
    assert all(source.startswith("data:image/") for source in reader.sources)
    style = re.search(r"<style>(.*?)</style>", text, re.S).group(1)
    assert "url(" not in style and "@import" not in style
    assert not re.search(r"<(script|link|iframe|object|embed)\b", text)


def test_pages_are_whole(files: list[str]) -> None:
    analysis = page([_analysis(files)], "A model & its errors")
    for text in (analysis, _dataset(files)):
        check_whole(text)
    assert "set &lt;one&gt;" in analysis and "A model &amp; its errors" in analysis
    for part in ("What a score means", "Examples of each cause", "true corners", "no corner"):
        assert part in analysis
    # An example: the image, and both heat maps of it
    assert analysis.count("data:image/jpeg") >= 3 + 3 + 1


def test_text_is_text() -> None:
    text = document("<b>", [paragraph("a < b"), table(("x", "y"), [("<i>", 1)])])
    assert "<b>" not in text and "<i>" not in text and "a &lt; b" in text
    assert '<td class="text">' not in table(("x",), [(1,)]) and decimal(float("nan")) == "none"


def test_a_browser_shows_the_pages(files: list[str], tmp_path: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)}")
    path, shot = tmp_path / "page.html", tmp_path / "shot.png"
    path.write_text(page([_analysis(files[:1])], "Analysis") + _dataset(files), "utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=900,8000"]
    command += [f"--screenshot={shot}", path.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    picture = cv2.imread(str(shot)).astype(int)
    vivid = np.abs(picture - VIVID).max(-1) < 40
    # The worst images, examples, and the sheet of the dataset's.
    assert vivid.sum() > 50_000
    rows = vivid.any(axis=1).nonzero()[0]
    assert rows.max() - rows.min() > 1500
    assert (picture < 60).all(-1).sum() > 5000  # and text
