"""`cornernet serve` on this machine: images/s against the bare model, latencies, nothing lost.

The server is another process; clients are threads of this one, on keep-alive connections, each
sending its next image when it has an answer. The bare model runs in this process before and after,
on pictures that are decoded already: what the service adds is decoding, HTTP and the queue. Beside
images/s stand CPU seconds an image, of the bare model by the server's: on a machine that does other
things too, that ratio is the one to trust. The bare model gets as many images at a time as there
are clients; "batch" is how many the server's network had at a time, on average: fewer cost more CPU
an image, in any server. What decoding takes is printed beside the table. Every answer is compared
with what the bare model finds on that image.
"""

import argparse
import http.client
import json
import re
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.modeling import build_model

from cornernet_d2 import Predictor, load, model_zoo
from cornernet_d2.checkpoint import CornerNetCheckpointer
from cornernet_d2.predictor.images import find_images
from cornernet_d2.predictor.results import coco_rows
from cornernet_d2.serve.uploads import read_upload

from ..serving import Server

COMPARED = 3  # best detections of each image that an answer must have
FAST = ("MODEL.CORNERNET.TEST.FAST", True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", help="a trained model's file [CornerNet-Shapes with random weights]")
    add("--images", help="a folder of images [noise]")
    add("--requests", type=int, default=1000, help="for each number of clients [%(default)s]")
    add("--clients", type=int, nargs="+", default=[1, 4, 16], help="at the same time")
    add("--batch-size", type=int, default=8)
    add("--distinct", type=int, default=50, help="different images [%(default)s]")
    add("--threads", type=int, default=1, help="of the network, in both processes [%(default)s]")


def run(args: argparse.Namespace) -> int:
    """Print the table; 1 if an answer was lost or another image's."""
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or _random_model(folder)
        predictor = load(model, "cpu", opts=FAST)
        bodies = _bodies(args.images, args.distinct)
        busy = time.process_time()
        pictures = [read_upload(body, 10**8) for body in bodies]
        busy = (time.process_time() - busy) / len(bodies)
        print(f"decoding: {1e3 * busy:.2f} ms of CPU an image, not in the bare model's numbers")
        wanted = [coco_rows(predictor(picture), None) for picture in pictures]
        flags = (
            "--batch-size",
            str(args.batch_size),
            "--score",
            "0",
            "--device",
            "cpu",
            "--no-page",
        )
        server = Server(model, *flags, threads=args.threads)
        try:
            return _measure(args, predictor, server, bodies, pictures, wanted)
        finally:
            server.stop()


def _measure(
    args: argparse.Namespace,
    predictor: Predictor,
    server: Server,
    bodies: list[bytes],
    pictures: list[np.ndarray],
    wanted: list[list[dict]],
) -> int:
    wrong = 0
    print(f"{args.requests} requests each, {len(bodies)} images, {args.threads} thread(s)")
    print("clients  images/s  bare  ratio  CPU ratio  CPU ms  bare  batch  p50 ms  p99 ms  bad")
    for clients in args.clients:
        batch = min(clients, args.batch_size)
        before, batches = _bare(predictor, pictures, batch), _batches(server)
        load, busy = Load(server, bodies, args.requests), server.cpu_seconds()
        seconds = load.run(clients)
        mean = args.requests / (_batches(server) - batches)
        busy = (server.cpu_seconds() - busy) / args.requests
        after = _bare(predictor, pictures, batch)
        bare, bare_busy = (statistics.mean(pair) for pair in zip(before, after))
        bad = sum(
            not _same(load.answers.get(number), wanted[number % len(bodies)])
            for number in range(args.requests)
        )
        wrong += bad
        rate = args.requests / seconds
        p50, p99 = np.percentile(list(load.latencies.values()), (50, 99)) * 1e3
        ratios = (
            f"{rate / bare:7.2f}{bare_busy / busy:11.2f}{1e3 * busy:8.2f}{1e3 * bare_busy:6.2f}"
        )
        print(
            f"{clients:7d}{rate:10.1f}{bare:6.1f}{ratios}{mean:7.2f}{p50:8.1f}{p99:8.1f}{bad:5d}",
            flush=True,
        )
    print(f"server's memory: {server.memory() / 2**20:.0f} MiB")
    return 1 if wrong else 0


def _batches(server: Server) -> int:
    """How many the server's network has had."""
    text = server.get("/metrics")[1].decode()
    return int(re.search(r"cornernet_batch_images_count (\d+)", text)[1])


class Load:
    """Requests of numbered images by some clients.

    Attributes:
        answers, latencies: by the request's number; seconds.
    """

    def __init__(self, server: Server, bodies: list[bytes], requests: int) -> None:
        self.server, self.bodies = server, bodies
        self.numbers = iter(range(requests))
        self.lock = threading.Lock()
        self.answers: dict[int, list[dict[str, Any]]] = {}
        self.latencies: dict[int, float] = {}

    def run(self, clients: int) -> float:
        """Seconds that all requests took."""
        threads = [threading.Thread(target=self._client) for _ in range(clients)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - start

    def _client(self) -> None:
        connection = http.client.HTTPConnection(*self.server.address, timeout=60)
        while True:
            with self.lock:
                number = next(self.numbers, None)
            if number is None:
                return connection.close()
            start = time.perf_counter()
            connection.request("POST", "/predict", self.bodies[number % len(self.bodies)])
            response = connection.getresponse()
            content = response.read()
            self.latencies[number] = time.perf_counter() - start
            if response.status == 200:
                self.answers[number] = json.loads(content)["detections"]


def _same(given: list[dict] | None, wanted: list[dict]) -> bool:
    """Whether the best detections are there; half precision differs with the size of a batch."""
    if given is None:
        return False

    def has(row: dict) -> bool:
        return any(
            x["category_id"] == row["category_id"]
            and abs(x["score"] - row["score"]) < 0.05
            and np.abs(np.subtract(x["bbox"], row["bbox"])).max() < 2
            for x in given
        )

    return all(has(row) for row in wanted[:COMPARED])


def _bare(predictor: Predictor, pictures: list[np.ndarray], batch: int) -> tuple[float, float]:
    """Images/s and CPU seconds an image of the model on decoded pictures, of two seconds or two
    rounds."""
    done, start, busy = 0, time.perf_counter(), time.process_time()
    while done < 2 * len(pictures) or time.perf_counter() - start < 2:
        predictor(pictures, batch_size=batch)
        done += len(pictures)
    return done / (time.perf_counter() - start), (time.process_time() - busy) / done


def _bodies(folder: str | None, number: int) -> list[bytes]:
    if folder:
        return [path.read_bytes() for path in find_images([folder])[:number]]
    rng = np.random.default_rng(0)
    small = (rng.integers(0, 256, (8, 8, 3), np.uint8) for _ in range(number))
    pictures = (cv2.resize(x, (128, 128), interpolation=cv2.INTER_NEAREST) for x in small)
    return [cv2.imencode(".png", picture)[1].tobytes() for picture in pictures]


def _random_model(folder: str) -> str:
    torch.manual_seed(0)
    cfg = model_zoo.get_config("CornerNet-Shapes")
    cfg.MODEL.DEVICE = "cpu"
    CornerNetCheckpointer(build_model(cfg), folder, cfg=cfg).save("model")
    return str(Path(folder) / "model.pth")
