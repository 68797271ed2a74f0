"""Answer HTTP requests with a trained model's detections, and show a page for people.

    cornernet serve model.pth --port 8000
    curl --data-binary @photo.jpg http://127.0.0.1:8000/predict

POST /predict takes the bytes of an image file and answers with JSON; /health and /metrics are for
monitoring. The page is at /, where gradio is installed. SIGTERM and Ctrl+C finish what was begun.
"""

import argparse
import importlib
import socket
from importlib.util import find_spec
from types import ModuleType

from ..predictor.images import find_images
from ..serve import Limits, Service, create_app, serve
from .options import add_config, load_predictor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, limits = parser.add_argument, Limits()
    add("model", metavar="MODEL", help="file of a trained model, its folder, or a name on the hub")
    add_config(parser)
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all [%(default)s]")
    add("--port", type=int, default=8000, help="0: a free one [%(default)s]")
    add("--device", default="auto", help="cpu, cuda, ... [a GPU if there is one]")
    add("--samples", metavar="FOLDER", help="images that the page offers")
    add("--no-page", action="store_true", help="HTTP for machines alone")
    add("--score", type=float, default=0.05, help="lowest score in answers [%(default)s]")
    add("--batch-size", type=int, default=limits.batch_size, help="images at a time [%(default)s]")
    add(
        "--queue",
        type=int,
        default=limits.queue,
        help="requests at a time; more are answered 503 [%(default)s]",
    )
    add("--timeout", type=float, default=limits.timeout, help="seconds a request [%(default)s]")
    add("--max-mib", type=float, default=limits.max_bytes / 2**20, help="a file [%(default)g]")
    add(
        "--max-megapixels",
        type=float,
        default=limits.max_pixels / 1e6,
        help="an image [%(default)g]",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    limits = Limits(
        batch_size=args.batch_size,
        queue=args.queue,
        timeout=args.timeout,
        max_bytes=round(args.max_mib * 2**20),
        max_pixels=round(args.max_megapixels * 1e6),
    )
    if not 0 <= args.score <= 1:
        raise ValueError(f"--score {args.score} is not in [0, 1]")
    page = None if args.no_page else _page()
    samples = find_images([args.samples]) if args.samples else []
    with socket.create_server((args.host, args.port)) as listener:
        service = Service(load_predictor(args, "MODEL.CORNERNET.TEST.FAST", True), limits)
        app = create_app(service, args.score)
        if page:
            page.mount_page(app, service, samples)
        host, port = listener.getsockname()[:2]
        print(f"http://{host}:{port}", flush=True)
        serve(app, listener, args.timeout)
    return 0


def _page() -> ModuleType | None:
    if find_spec("gradio") is None:
        print("no page: pip install gradio", flush=True)
        return None
    return importlib.import_module("..serve.page", __package__)
