"""What each way of putting corners together costs at inference, against embeddings.

Network and decoding, up to the boxes that go into soft-NMS, of models that differ in the pairing
alone. Every round runs each of them once, in turns; a ratio is of the two runs of one round, and
the median of all rounds is shown with the quartiles. With one thread it is that thread's processor
time that counts, which other processes on the machine disturb less.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from detectron2.modeling import build_model
from torch import nn

from cornernet_d2 import model_zoo, prepare_for_inference

BASELINE = "embedding"
DEFAULT = "centripetal"  # whose cost has a limit
LIMIT = 1.03
_CORNERNET = "MODEL.CORNERNET"
_CENTRIPETAL = [f"{_CORNERNET}.PAIRING", "centripetal"]
_CENTER = [f"{_CORNERNET}.CENTER.ENABLED", True]
KINDS: dict[str, list] = {
    BASELINE: [],
    "embedding of 2 dimensions": [f"{_CORNERNET}.EMBEDDING.DIM", 2],
    "embedding of 2, position": [
        *(f"{_CORNERNET}.EMBEDDING.DIM", 2, f"{_CORNERNET}.EMBEDDING.POSITION", True)
    ],
    DEFAULT: _CENTRIPETAL,
    "centripetal, central region": [
        *_CENTRIPETAL,
        f"{_CORNERNET}.CENTRIPETAL.RULE",
        "central_region",
    ],
    "centripetal, guided": [*_CENTRIPETAL, f"{_CORNERNET}.CENTRIPETAL.GUIDED", True],
    "embedding, centres": _CENTER,
    "centripetal, centres": [*_CENTRIPETAL, *_CENTER],
    "embedding, cascade pooling": [f"{_CORNERNET}.CASCADE_POOLING", True],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config-file", default="CornerNet-Shapes")
    parser.add_argument("--size", type=int, nargs=2, default=[192, 256], help="height, width")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--prepare", action="store_true", help="as prepare_for_inference makes them"
    )
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND")


def run(args: argparse.Namespace) -> int:
    """Print times and ratios; 1 if the default centripetal pairing costs more than the limit."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    image = torch.randint(256, (3, *args.size), dtype=torch.uint8)
    kinds = list(dict.fromkeys([BASELINE, *args.kinds]))
    models = [_model(args.config_file, KINDS[kind], args.prepare) for kind in kinds]
    clock = time.thread_time if args.threads == 1 else time.perf_counter
    times = _in_turns([_side(model, image) for model in models], args.rounds, clock)
    unit = "processor time" if args.threads == 1 else "time"
    print(f"{args.config_file}, {args.size[0]} x {args.size[1]} pixels, {args.threads} thread(s)")
    print(f"{'':<30}{unit:>16}  of the embedding's (quartiles)     parameters")
    middle = {}
    for kind, model, seconds in zip(kinds, models, times):
        ratios = [mine / base for mine, base in zip(seconds, times[0])]
        low, middle[kind], high = statistics.quantiles(ratios, n=4)
        parameters = sum(p.numel() for p in model.parameters())
        print(
            f"{kind:<30}{1e3 * statistics.median(seconds):13.2f} ms  "
            f"{middle[kind]:8.3f} ({low:.3f} to {high:.3f}) {parameters:19,}"
        )
    return int(middle.get(DEFAULT, 0.0) > LIMIT)


def _model(config: str, opts: list, prepare: bool) -> nn.Module:
    cfg = model_zoo.get_config(config)
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", f"{_CORNERNET}.TEST.FLIP", False, *opts])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    return prepare_for_inference(model, "float32") if prepare else model


def _side(model: nn.Module, image: torch.Tensor) -> Callable[[], object]:
    inputs = [{"image": image}]

    @torch.no_grad()
    def detect() -> object:
        pixels, canvas = model.preprocess_image(inputs)
        pairs = model.corner_inference.decode(model.last_maps(pixels), canvas, model.pairing)
        return model.corner_inference.to_image(pairs, canvas)

    return detect


def _in_turns(
    sides: list[Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> list[list[float]]:
    """Seconds of each side in each round, after a round that warms up."""
    times: list[list[float]] = [[] for _ in sides]
    for number in range(rounds + 1):
        for side, seconds in zip(sides, times):
            start = clock()
            side()
            if number:
                seconds.append(clock() - start)
    return times
