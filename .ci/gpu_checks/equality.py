"""Losses, gradients and detections of this device against the CPU's, from equal weights.

In float64 rounding leaves nothing to argue about. The float32 of the two may differ as much as
float32 differs from float64 in a network of this depth; 16 bits are compared by their losses.
"""

from typing import Any

import torch
from torch import Tensor, nn

from cornernet_d2.tools.benchmark.train import noise_batch

from . import Rows, Settings
from .cases import build, config

# Largest relative differences: of a loss, and of all gradients as one vector.
# On a CPU float32 is off by 7e-5 and 0.025 from float64, bfloat16 by 0.06 and 1.5.
TOLERANCES = {
    "float64": (1e-9, 1e-7),
    "float32": (1e-3, 0.1),
    "bfloat16": (0.15, float("inf")),
    "float16": (0.05, float("inf")),
}
MATCHED = 0.99  # of the CPU's detections
REFERENCES = ("float64", "float32")

Step = tuple[dict[str, float], Tensor]  # losses by name, all gradients as one vector


def run(settings: Settings) -> Rows:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    on_cpu = {dtype: losses_and_gradient(settings, "cpu", dtype) for dtype in REFERENCES}
    for dtype, tolerances in TOLERANCES.items():
        reference = on_cpu[dtype if dtype in on_cpu else "float32"]
        yield from compare_training(settings, dtype, tolerances, reference)
    for name in ("gaussian", "linear"):
        yield compare_detections(settings, {"MODEL__CORNERNET__TEST__SOFT_NMS__METHOD": name})


def compare_training(
    settings: Settings, dtype: str, tolerances: tuple[float, float], reference: Step
) -> Rows:
    expected, wanted = reference
    actual, gradient = losses_and_gradient(settings, settings.device, dtype)
    for name, value in expected.items():
        difference = abs(actual[name] - value) / max(abs(value), 1e-6)
        yield verdict({"compared": name, "dtype": dtype}, difference, tolerances[0])
    difference = ((gradient - wanted).norm() / wanted.norm()).item()
    yield verdict({"compared": "gradient", "dtype": dtype}, difference, tolerances[1])


def verdict(label: dict[str, Any], difference: float, tolerance: float) -> dict[str, Any]:
    ok = difference <= tolerance  # False for NaN
    return {**label, "difference": difference, "tolerance": str(tolerance), "ok": ok}


def losses_and_gradient(settings: Settings, device: str, dtype: str) -> Step:
    """The losses of a training step by name, and all gradients as one float64 vector."""
    cfg = config(settings, device)
    model = build(cfg).train()
    if dtype == "float64":
        model.double()
    half = getattr(torch, dtype) if dtype.endswith("16") else None
    examples = noise_batch(2, 31 if settings.tiny else 255, cfg.MODEL.CORNERNET.NUM_CLASSES)
    with torch.autocast(device, half, enabled=half is not None):
        losses = model(examples)
    sum(losses.values()).backward()
    gradient = torch.cat([p.grad.flatten().double().cpu() for p in model.parameters()])
    return {name: value.item() for name, value in losses.items()}, gradient


def compare_detections(settings: Settings, overrides: dict[str, Any]) -> dict[str, Any]:
    """A row: how many of the CPU's detections this device finds as well."""
    ours, theirs = (detections(settings, d, overrides) for d in (settings.device, "cpu"))
    found = 0
    for box, score, label in zip(*theirs):
        close = (ours[0] - box).abs().amax(dim=1) < 0.5
        found += int((close & (ours[2] == label) & ((ours[1] - score).abs() < 0.01)).any())
    share = found / max(1, len(theirs[0]))
    return {
        "detections": next(iter(overrides.values())), "CPU": len(theirs[0]), "here": len(ours[0]),
        "matched": share, "ok": share >= MATCHED and abs(len(ours[0]) - len(theirs[0])) <= 1,
    }  # fmt: skip


@torch.no_grad()
def detections(
    settings: Settings, device: str, overrides: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, scores and classes found in one image, on the CPU."""
    anything = {"MODEL__CORNERNET__TEST__EMBEDDING_THRESHOLD": 10.0}
    model = build(config(settings, device, **overrides, **anything)).eval()
    enliven(model.head)
    image = noise_batch(1, 31 if settings.tiny else 255, 80)[0]["image"]
    found = model([{"image": image}])[0]["instances"].to("cpu")
    return found.pred_boxes.tensor, found.scores, found.pred_classes


def enliven(head: nn.Module) -> None:
    """Larger weights, so that an untrained head tells cells apart and finds something."""
    for parameter in head.parameters():
        parameter.mul_(3 if parameter.dim() > 1 else 0.5)
