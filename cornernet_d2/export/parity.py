"""Whether an exported file detects what the model does: measured, not assumed."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from torch import Tensor

from ..modeling import CornerNet
from .detector import without_views
from .formats import Runner

# Detections are the same if classes are equal and no coordinate differs by more than this.
SAME_BOX = 0.5  # pixels
BATCHES = (1, 3)
TOLERANCES = {"box": 0.05, "score": 1e-3}  # pixels; score


def compare(
    model: CornerNet,
    runner: Runner,
    images: Sequence[Tensor] = (),
    min_side: int = 1,
    max_side: int = 1792,
) -> dict[str, Any]:
    """Runs the model and the file on the same images and pairs what they find, in any order.

    Args:
        model: what was exported, on any device; its test-time augmentation is left out.
        runner: the file, not raw; see :func:`.formats.run`.
        images: (3, H, W) in 0..255, of any sizes; empty: blurred noise of five sizes. Each goes
            alone and in a batch with its mirror images.
        min_side, max_side: images with a side outside are left out, pixels.

    Returns:
        "cases": a dict for each image and batch: size, batch, detections of the model, unmatched
        detections of both, largest difference of a box coordinate (pixels) and of a score;
        "unmatched", "box", "score": the sum and the maxima; "passed".

    Raises:
        ValueError: no image is left.
    """
    plain = without_views(model).eval()
    images = [
        image
        for image in images or blurred_noise(model)
        if min_side <= min(image.shape[-2:]) and max(image.shape[-2:]) <= max_side
    ]
    if not images:
        raise ValueError(f"all images have a side outside {min_side} to {max_side} pixels")
    cases = []
    for image in images:
        for number in BATCHES:
            views = (image, image.flip(-1), image.flip(-2))
            batch = torch.stack([views[i % 3] for i in range(number)]).float()
            cases.append(_case(plain, runner, batch))
    totals = {name: max(case[name] for case in cases) for name in TOLERANCES}
    unmatched = sum(case["unmatched"] for case in cases)
    passed = unmatched == 0 and all(totals[name] <= most for name, most in TOLERANCES.items())
    return {"cases": cases, "unmatched": unmatched, **totals, "passed": passed}


def blurred_noise(model: CornerNet) -> list[Tensor]:
    """Five seeded images (3, H, W) around the sides that canvases have."""
    step, generator = model.divisibility, torch.Generator().manual_seed(0)
    sizes = ((step, step), (step + 1, 2 * step), (step // 2 + 3, 3 * step - 1), (2 * step, step))
    sizes = (*sizes, (3 * step - 2, step + 5))
    coarse = [torch.rand(1, 3, h // 8 + 2, w // 8 + 2, generator=generator) for h, w in sizes]
    return [255 * F.interpolate(x, size, mode="bilinear")[0] for x, size in zip(coarse, sizes)]


def _case(model: CornerNet, runner: Runner, batch: Tensor) -> dict[str, Any]:
    found = model.inference([{"image": image} for image in batch], do_postprocess=False)
    boxes, scores, classes, count = runner(batch.cpu())
    case = {"size": list(batch.shape[-2:]), "batch": len(batch)}
    case |= {"detections": sum(map(len, found)), "unmatched": 0, "box": 0.0, "score": 0.0}
    for i, wanted in enumerate(found):
        kept = int(count[i])
        given = (boxes[i, :kept], scores[i, :kept], classes[i, :kept])
        unmatched, box, score = match(wanted.to("cpu"), *given)
        case["unmatched"] += unmatched
        case["box"], case["score"] = max(case["box"], box), max(case["score"], score)
    return case


def match(
    wanted: Instances, boxes: Tensor, scores: Tensor, classes: Tensor
) -> tuple[int, float, float]:
    """Pairs detections of one image with those wanted, best score first, each with the nearest.

    Returns:
        how many of both have no partner, and of the pairs the largest difference of a coordinate
        (pixels) and of a score.
    """
    far = torch.inf
    distances = (wanted.pred_boxes.tensor[:, None] - boxes[None]).abs().amax(-1)
    differences = (wanted.scores[:, None] - scores[None]).abs()
    distances[wanted.pred_classes[:, None] != classes[None]] = far
    unmatched, box, score = len(boxes), 0.0, 0.0
    for row, difference in zip(distances, differences):
        # Boxes may be equal but for their scores.
        near = torch.where(row <= SAME_BOX, row + difference, far)
        if not len(near) or near.min() == far:
            unmatched += 1
            continue
        partner = near.argmin()
        box, score = max(box, row[partner].item()), max(score, difference[partner].item())
        distances[:, partner] = far
        unmatched -= 1
    return unmatched, box, score


def report_lines(report: dict[str, Any]) -> list[str]:
    """A report of :func:`compare` as the lines of a table."""
    lines = ["   height x width  batch  detections  unmatched  box (pixels)     score"]
    for case in report["cases"]:
        height, width = case["size"]
        lines.append(
            f"{height:9} x {width:<5}  {case['batch']:5}  {case['detections']:10}  "
            f"{case['unmatched']:9}  {case['box']:12.2e}  {case['score']:.2e}"
        )
    verdict = "equal" if report["passed"] else report.get("precision", "")
    verdict = verdict if verdict in ("equal", "int8") else "DIFFERENT"
    return [*lines, f"{verdict}: box {report['box']:.2e}, score {report['score']:.2e}"]
