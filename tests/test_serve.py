"""`cornernet serve`: what it refuses, and over HTTP what it answers, counts and survives."""

import functools
import importlib.util
import io
import re
import signal
import socket
import struct
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from PIL import Image
from serving import Server
from tiny_run import tiny_network

import cornernet_d2
from cornernet_d2.checkpoint import CornerNetCheckpointer
from cornernet_d2.predictor.results import coco_rows
from cornernet_d2.serve import Limits, Service, app
from cornernet_d2.serve.uploads import Refused, read_upload
from cornernet_d2.tools import command

SIZES = ((40, 56), (1, 1), (20, 200), (90, 50), (64, 64))


def encoded(height: int, width: int, seed: int = 0, ending: str = ".png") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(ending, pixels)[1].tobytes()


def bomb(side: int = 12_000) -> bytes:
    """A PNG of so many pixels a side in some 20 kB."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side // 8 + 1) * side, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@functools.cache
def hostile() -> dict[str, tuple[bytes, int]]:
    """Name -> body, status."""
    jpeg, png = encoded(300, 300, ending=".jpg"), encoded(64, 64)
    gif = io.BytesIO()
    Image.new("P", (8, 8)).save(gif, "GIF")
    wide = bytearray(gif.getvalue())
    wide[6:10] = struct.pack("<HH", 60_000, 60_000)
    return {
        "empty": (b"", 400),
        "text": (b"a picture of a cat", 415),
        "html": (b"<html><img src=x></html>", 415),
        "truncated JPEG": (jpeg[: len(jpeg) // 2], 400),
        "truncated PNG": (png[: len(png) // 2], 400),
        "head alone": (png[:20], 400),
        "bomb": (bomb(), 413),
        "wide GIF": (bytes(wide), 413),
        "PDF": (b"%PDF-1.4\n%%EOF", 415),
        "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415),
        "noise": (np.random.default_rng(0).bytes(5000), 415),
    }


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    keys = ("MODEL.CORNERNET.NUM_CLASSES", 4, "INPUT.MIN_SIZE_TEST", 48)
    cfg = tiny_network("CornerNet-Shapes", *keys, "TEST.DETECTIONS_PER_IMAGE", 9)
    CornerNetCheckpointer(build_model(cfg), str(folder), cfg=cfg).save("model")
    return str(folder / "model.pth")


@pytest.fixture(scope="module")
def predictor(model_file: str) -> cornernet_d2.Predictor:
    opts = ["MODEL.CORNERNET.TEST.FAST", True]
    return cornernet_d2.load(model_file, "cpu", opts=opts)


def assert_rows(given: list[dict], wanted: list[dict]) -> None:
    """Equal but for the rounding of batches of other sizes."""
    assert len(given) == len(wanted)
    for one, other in zip(given, wanted):
        assert one["category_id"] == other["category_id"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        assert one["bbox"] == pytest.approx(other["bbox"], abs=0.05)


@pytest.mark.parametrize("name", hostile())
def test_what_is_no_image_within_limits_is_refused(name: str) -> None:
    body, status = hostile()[name]
    with pytest.raises(Refused) as error:
        read_upload(body, 1_000_000)
    assert error.value.status == status and "\n" not in str(error.value)


def test_uploads_are_read_as_files_are(tmp_path: Path) -> None:
    for ending in (".png", ".jpg", ".bmp", ".webp", ".tiff"):
        path, data = tmp_path / f"a{ending}", encoded(30, 40, ending=ending)
        path.write_bytes(data)
        expected = cornernet_d2.predictor.images.read_picture(path)
        assert np.array_equal(read_upload(data, 1200), expected)
        with pytest.raises(Refused, match="40x30 pixels"):
            read_upload(data, 1199)


def test_a_service_answers_as_the_predictor(predictor: cornernet_d2.Predictor) -> None:
    service = Service(predictor, Limits(queue=1, max_bytes=50_000))
    for number, size in enumerate(SIZES):
        picture, found = service.detect(encoded(*size, seed=number))
        assert picture.shape[:2] == size
        assert len(found) > 0 or size in ((1, 1), (20, 200))  # tiny models see nothing there
        assert_rows(coco_rows(found, None), coco_rows(predictor(picture), None))
    answer = service.answer(service.read(encoded(40, 56)), found, 0.0, 2)
    assert (answer["width"], answer["height"], len(answer["detections"])) == (56, 40, 2)
    assert service.answer(service.read(encoded(40, 56)), found, 1.0, None)["detections"] == []
    assert service.is_quick(encoded(40, 56)) and not service.is_quick(encoded(400, 400))
    with pytest.raises(Refused, match="no image"):
        service.is_quick(b"text")
    with service.batcher.place(), pytest.raises(Refused) as error:
        service.detect(encoded(40, 56))
    assert error.value.status == 503
    with pytest.raises(Refused, match="more than the 0.0476837 MiB"):
        service.detect(encoded(300, 300))
    assert service.batcher.places == 0
    service.close()


def test_rows_are_rounded_as_numbers_are() -> None:
    boxes = 500 * torch.rand(50, 4, generator=torch.Generator().manual_seed(0))
    found = Instances((500, 500), pred_boxes=Boxes(boxes), scores=boxes[:, 0] / 500)
    found.pred_classes = torch.arange(50)
    for row, box, score in zip(coco_rows(found, None), boxes.tolist(), found.scores.tolist()):
        x0, y0, x1, y1 = (round(value, 3) for value in box)
        assert row["bbox"] == [x0, y0, round(x1 - x0, 3), round(y1 - y0, 3)]
        assert row["score"] == round(score, 6)


def test_limits_are_checked() -> None:
    with pytest.raises(ValueError, match="timeout must be above 0"):
        Limits(timeout=0)


def test_without_fastapi_one_line_says_what_to_install(
    model_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert command.main(["serve", model_file, "--port", "0", "--no-page"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"cornernet serve: {app.HINT}"


@pytest.fixture(scope="module")
def server(model_file: str) -> Iterator[Server]:
    for name in ("fastapi", "orjson", "uvicorn"):
        pytest.importorskip(name)
    limits = ("--queue", "8", "--timeout", "2", "--max-mib", "2", "--max-megapixels", "2")
    server = Server(model_file, *limits, "--no-page")
    yield server
    server.stop()


def test_answers_are_not_mixed_up(server: Server, predictor: cornernet_d2.Predictor) -> None:
    bodies = [encoded(*size, seed=number) for number, size in enumerate(SIZES * 4)]
    wanted = [coco_rows(predictor(read_upload(body, 10**6)), None) for body in bodies]
    assert sum(map(len, wanted)) > 100
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(server.predict, bodies * 3))
    for (status, content), rows, size in zip(answers, wanted * 3, SIZES * 12):
        assert status == 200 and (content["height"], content["width"]) == size
        assert_rows(content["detections"], rows)
    assert len(server.predict(bodies[0], "?score=0&top=2")[1]["detections"]) == 2
    assert server.predict(bodies[0], "?score=1")[1]["detections"] == []
    assert server.get("/predict?score=7", "POST", bodies[0])[0] == 422
    assert server.get("/predict")[0] == 405


def test_hostile_bodies_cost_no_memory(server: Server) -> None:
    bodies = {**hostile(), "100 MB": (bytes(100_000_000), 413)}

    def send_all() -> None:
        for name, (body, status) in bodies.items():
            found, content = server.predict(body)
            assert found == status and content["error"], (name, found, content)

    send_all()
    before = server.memory()
    for _ in range(3):
        send_all()
    assert server.memory() < before + 10 * 2**20
    # without a length in its head
    assert server.predict(iter([bytes(1_000_000)] * 30))[0] == 413
    assert server.predict(encoded(40, 56))[0] == 200


def test_slow_and_vanished_clients_lose_their_place(server: Server) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nbegun"
    slow = [socket.create_connection(server.address) for _ in range(8)]
    for connection in slow:
        connection.sendall(head)
    while b"in_flight 8\n" not in server.get("/metrics")[1]:
        pass
    status, content = server.predict(encoded(40, 56))
    assert (status, content["error"]) == (503, "8 requests are waiting")
    for connection in slow[:4]:
        connection.close()
    for connection in slow[4:]:
        assert connection.recv(99).startswith(b"HTTP/1.1 408 ")
        connection.close()
    while b"in_flight 0\n" not in server.get("/metrics")[1]:
        pass
    assert server.predict(encoded(40, 56))[0] == 200
    text = server.get("/metrics")[1].decode()
    counts = dict(re.findall(r'requests_total{status="(\d+)"} (\d+)', text))
    assert (counts["408"], counts["499"], counts["503"]) == ("4", "4", "1")
    assert re.search(r"cornernet_batch_images_count [1-9]", text)


def test_a_signal_ends_it_after_the_answers(server: Server) -> None:
    head = b"POST /predict?score=0 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    body, begun = encoded(40, 56), socket.create_connection(server.address)
    begun.sendall(head % len(body) + body[:100])
    while b"in_flight 1\n" not in server.get("/metrics")[1]:
        pass
    server.process.send_signal(signal.SIGTERM)
    threading.Timer(0.3, begun.sendall, [body[100:]]).start()
    answer = b""
    while part := begun.recv(10_000):
        answer += part
    begun.close()
    assert answer.startswith(b"HTTP/1.1 200 OK") and b'"detections":[{' in answer
    assert server.process.wait(30) == 0
    assert server.get("/health")[0] == 0


def test_a_port_in_use_is_one_line(model_file: str, capsys: pytest.CaptureFixture) -> None:
    if importlib.util.find_spec("fastapi") is None:
        pytest.skip("the message would be of FastAPI")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert command.main(["serve", model_file, "--port", port]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "Address already in use" in line
