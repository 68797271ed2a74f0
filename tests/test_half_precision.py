"""Half precision at its limits: nothing that is computed from float16 logits becomes NaN or inf."""

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor, nn

from cornernet_d2.engine import CornerNetTrainer
from cornernet_d2.modeling.decode import decode_corners
from cornernet_d2.modeling.losses import heatmap_focal_loss, offset_loss, pull_push_loss
from cornernet_d2.modeling.soft_nms import METHODS, batched_soft_nms
from tests.strict_device.cases import config, examples, make_dataset, train

LIMIT = torch.finfo(torch.float16).max  # 65504
EXTREMES = (-LIMIT, -20.0, -1e-7, 0.0, 1e-7, 20.0, LIMIT)
CONVENTIONS = ("default", "official", "mmdet")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The strict device's runs silence the log and take one thread, for a process of their own."""
    threads = torch.get_num_threads()
    yield
    logging.disable(logging.NOTSET)
    torch.set_num_threads(threads)


def finite(*tensors: Tensor) -> bool:
    return all(bool(x.isfinite().all()) for x in tensors)


@pytest.mark.parametrize("target", [0.0, 0.5, 1 - 2**-11, 1.0])
@pytest.mark.parametrize("clamp", [0.0, 1e-4])
def test_focal_terms(target: float, clamp: float) -> None:
    logits = torch.tensor(EXTREMES, dtype=torch.float16).view(1, 1, 1, -1).requires_grad_()
    with torch.autocast("cpu", torch.float16):
        terms = [
            heatmap_focal_loss(x, torch.full_like(x, target), clamp=clamp)
            for x in logits.split(1, dim=3)
        ]
    assert {term.dtype for term in terms} == {torch.float32} and finite(*terms)
    assert all(term >= 0 for term in terms)
    (gradient,) = torch.autograd.grad(sum(terms), logits)
    assert gradient.dtype == torch.float16 and finite(gradient)


def test_embedding_and_offset_losses() -> None:
    values = torch.tensor(list(itertools.product(EXTREMES, EXTREMES)), dtype=torch.float16)
    tl, br = (values[:, i].clone().requires_grad_() for i in range(2))
    with torch.autocast("cpu", torch.float16):
        image = torch.arange(len(tl)) % 3
        pull, push = pull_push_loss(tl, br, image, 4)
        offset = offset_loss(values.requires_grad_(), torch.zeros(len(values), 2))
    assert finite(pull, push, offset) and pull.max() > 1e8
    # Scaled as the gradient scaler starts, the float16 gradient overflows: that is its business.
    gradients = torch.autograd.grad(
        (pull / pull.max()).sum() + push.sum() + offset, (tl, br, values)
    )
    assert finite(*gradients)


def test_decoding() -> None:
    rng = torch.Generator().manual_seed(0)

    def draw(channels: int) -> Tensor:
        index = torch.randint(len(EXTREMES), (2, channels, 8, 9), generator=rng)
        return torch.tensor(EXTREMES, dtype=torch.float16)[index]

    maps = {c: {"heatmap": draw(3), "embedding": draw(1), "offset": draw(2)} for c in ("tl", "br")}
    with torch.autocast("cpu", torch.float16):
        pairs = decode_corners(maps, embedding_threshold=LIMIT)
    kept = pairs.scores > 0 if hasattr(pairs, "scores") else pairs[1] > 0
    assert kept.any() and all(part.dtype != torch.float16 and finite(part) for part in pairs)


@pytest.mark.parametrize("exponent", [None, 10.0])
@pytest.mark.parametrize("method", METHODS)
def test_soft_nms(method: str, exponent: float | None) -> None:
    """Boxes as large as float16 holds, without area, inverted; scores of 0, 1 and in between."""
    sides = torch.tensor([-LIMIT, -1.0, 0.0, 6e-8, 1.0, LIMIT], dtype=torch.float16)
    boxes = torch.cartesian_prod(*[sides[::2], sides[1::2]] * 2)
    scores = torch.linspace(0, 1, len(boxes), dtype=torch.float16)
    classes = torch.arange(len(boxes)) % 2
    merging = {} if exponent is None else {"corner_scores": scores[:, None].expand(-1, 2)}
    with torch.autocast("cpu", torch.float16):
        results = batched_soft_nms(
            boxes, scores, classes, method, **merging, **({"exponent": exponent} if merging else {})
        )
    assert len(results[0]) > 2 and results[1].dtype == torch.float32
    assert finite(*results) and 0 < results[1].min() and results[1].max() <= 1


def saturate(module: nn.Module, _: object, maps: dict) -> dict:
    """A head whose every output is one of float16's largest numbers."""

    def extreme(x: Tensor) -> Tensor:
        return torch.where(x >= 0, LIMIT, -LIMIT).half() + 0 * x.half()

    return {corner: {k: extreme(v) for k, v in part.items()} for corner, part in maps.items()}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_whole_model(convention: str) -> None:
    model = build_model(config("cpu", MODEL__CORNERNET__LOSS__CONVENTION=convention))
    for head in model.head:
        head.register_forward_hook(saturate)
    with torch.autocast("cpu", torch.float16):
        losses = model.train()(examples())
        sum(losses.values()).backward()
        with torch.no_grad():
            results = model.eval()(examples())
    assert finite(*losses.values())
    assert finite(*(p.grad for p in model.parameters() if p.grad is not None))
    for result in results:
        assert finite(result["instances"].scores, result["instances"].pred_boxes.tensor)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_step_that_the_scaler_skips_changes_nothing(accumulation: int, tmp_path: Path) -> None:
    """Weights, running statistics and averages stay; the scale is halved until it fits."""
    make_dataset(tmp_path, crowds=False)
    cfg = config(
        "cpu",
        SOLVER__AMP__ENABLED=True,
        SOLVER__AMP__PRECISION="float16",
        SOLVER__GRADIENT_ACCUMULATION=accumulation,
        SOLVER__MAX_ITER=16,
        MODEL_EMA__ENABLED=True,
    )
    start: dict[str, Tensor] = {}

    def prepare(trainer: CornerNetTrainer) -> None:
        start.update({name: x.clone() for name, x in trainer.model.state_dict().items()})
        scaler = trainer._trainer.grad_scaler
        scaler.load_state_dict(scaler.state_dict() | {"scale": 2.0**26})

    skipped = train(cfg, tmp_path / "skipped", prepare=prepare, stop=2)
    assert skipped.finite == [False, False]
    assert all(torch.equal(value, start[name]) for name, value in skipped.weights.items())
    assert all(torch.equal(value, start[name]) for name, value in skipped.average.items())

    whole = train(cfg, tmp_path / "whole", prepare=prepare)
    assert not whole.finite[0] and whole.finite.count(True) > 1
    assert finite(*whole.weights.values(), *whole.average.values())
    assert any(not torch.equal(value, start[name]) for name, value in whole.weights.items())
