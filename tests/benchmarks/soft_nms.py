"""Soft-NMS: all classes and images at once against one loop per image and class.

The baselines are the usual way to write it: for every image and class, as long as boxes are left,
take the best and lower the scores of the rest with one vector operation each; in numpy as the
authors' test code would without Cython, and in torch. The candidates lie in clusters of near
copies, as decoded corners do. torchvision's ``batched_nms``, which lowers no scores, is shown for
orientation.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from cornernet_d2.compat.official import official_soft_nms
from cornernet_d2.modeling.soft_nms import batched_soft_nms

SIGMA, MIN_SCORE, EXPONENT = 0.5, 0.001, 10.0  # the authors' settings
BOXES_PER_CLUSTER = 10
BEST = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--candidates", type=int, default=1000, help="boxes per image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--device", default="cpu", help="of the batched versions")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each, interleaved")
    parser.add_argument("--threads", type=int, default=1)


def run(args: argparse.Namespace) -> int:
    """Print times and ratios; 1 if a result differs from the loop's or is not faster."""
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    header = f"{args.candidates} candidates, {args.classes} classes, {args.threads} thread(s)"
    print(f"{header}, {device}: medians of {args.repeats} interleaved runs")
    ok = True
    for images in args.batch_sizes:
        boxes, corner_scores, groups = _candidates(images, args.candidates, args.classes)
        scores = corner_scores.mean(1)
        given = [value.to(device) for value in (boxes, scores, corner_scores, groups)]
        sides = _sides(given, boxes, scores, corner_scores, groups, args.classes)
        agree = _agree(sides)
        times = _interleaved(list(sides.values()), args.repeats, device)
        print(f"batch {images}: results {'agree' if agree else 'DIFFER'}")
        for name, seconds in zip(sides, times):
            loops = "".join(f"{loop / seconds:9.2f}x" for loop in times[:2])
            print(f"  {name:<38}{1e3 * seconds:9.2f} ms  against numpy, torch loop:{loops}")
        ok &= agree and max(times[2:4]) < min(times[:2])
    return 0 if ok else 1


def _candidates(images: int, count: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (M, 4), corner scores (M, 2) and ``image * classes + class`` (M,)."""
    generator = torch.Generator().manual_seed(0)
    total = images * count
    clusters = max(1, total // BOXES_PER_CLUSTER)
    of = torch.randint(clusters, (total,), generator=generator)
    centre = torch.rand(clusters, 2, generator=generator)[of] * 512
    size = 16 + torch.rand(clusters, 2, generator=generator)[of] * 200
    jitter = torch.randn(total, 4, generator=generator) * 0.1 * size.repeat(1, 2)
    boxes = torch.cat([centre - size / 2, centre + size / 2], 1) + jitter
    boxes = torch.cat([boxes[:, :2], torch.maximum(boxes[:, :2] + 1, boxes[:, 2:])], 1)
    corner_scores = torch.rand(total, 2, generator=generator).clamp(min=0.01)
    labels = torch.randint(classes, (clusters,), generator=generator)[of]
    image = torch.arange(images).repeat_interleave(count)
    return boxes, corner_scores, image * classes + labels


def _sides(
    given: list[Tensor],
    boxes: Tensor,
    scores: Tensor,
    corner_scores: Tensor,
    groups: Tensor,
    classes: int,
) -> dict[str, Callable]:
    """The two loops, then the batched versions that have to beat them, then the others."""
    arrays = [value.numpy() for value in (boxes, scores, groups)]
    some, all_scores, corners, labels = given
    return {
        "loop over classes, numpy": lambda: _numpy_loop(*arrays),
        "loop over classes, torch": lambda: _torch_loop(boxes, scores, groups),
        "batched_soft_nms": lambda: batched_soft_nms(some, all_scores, labels),
        "batched_soft_nms, merging": lambda: batched_soft_nms(
            some, all_scores, labels, corner_scores=corners, exponent=EXPONENT
        ),
        f"batched_soft_nms, best {BEST} an image": lambda: batched_soft_nms(
            some, all_scores, labels, images=labels // classes, max_detections=BEST
        ),
        "official_soft_nms (stale rows)": lambda: official_soft_nms(
            boxes, scores, corner_scores, groups
        ),
        "torchvision batched_nms": lambda: (batched_nms(some, all_scores, labels, 0.5), None),
    }


def _numpy_loop(boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray) -> tuple:
    """Index of the boxes that stay and their scores, best first."""
    keep, kept_scores = [], []
    for group in np.unique(groups):
        left = np.flatnonzero(groups == group)
        score = scores[left].copy()
        while len(left):
            best = score.argmax()
            box = boxes[left[best]]
            keep.append(left[best])
            kept_scores.append(score[best])
            left, score = np.delete(left, best), np.delete(score, best)
            others = boxes[left]
            start = np.maximum(box[:2], others[:, :2])
            end = np.minimum(box[2:], others[:, 2:])
            inner = np.prod(np.clip(end - start, 0, None), axis=1)
            areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
            iou = inner / (np.prod(box[2:] - box[:2]) + areas - inner)
            score = score * np.exp(-iou * iou / SIGMA)
            left, score = left[score >= MIN_SCORE], score[score >= MIN_SCORE]
    order = np.argsort(-np.array(kept_scores), kind="stable")
    return torch.tensor(np.array(keep)[order]), torch.tensor(np.array(kept_scores)[order])


def _torch_loop(boxes: Tensor, scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """As :func:`_numpy_loop`."""
    keep, kept_scores = [], []
    for group in groups.unique():
        left = (groups == group).nonzero().squeeze(1)
        score = scores[left]
        while len(left):
            best = int(score.argmax())
            box = boxes[left[best]]
            keep.append(left[best])
            kept_scores.append(score[best])
            rest = torch.arange(len(left)) != best
            left, score = left[rest], score[rest]
            others = boxes[left]
            start = torch.maximum(box[:2], others[:, :2])
            end = torch.minimum(box[2:], others[:, 2:])
            inner = (end - start).clamp(min=0).prod(1)
            areas = (others[:, 2:] - others[:, :2]).prod(1)
            iou = inner / ((box[2:] - box[:2]).prod() + areas - inner)
            score = score * torch.exp(-iou * iou / SIGMA)
            left, score = left[score >= MIN_SCORE], score[score >= MIN_SCORE]
    order = torch.stack(kept_scores).argsort(descending=True, stable=True)
    return torch.stack(keep)[order], torch.stack(kept_scores)[order]


def _agree(sides: dict[str, Callable]) -> bool:
    """Whether the loops and the batched versions keep equal boxes with equal scores."""
    results = [side() for side in list(sides.values())[:4]]
    new_scores = []
    for keep, scores, *_ in results:
        by_box = torch.zeros(max(int(r[0].max()) for r in results) + 1)
        by_box[keep.cpu()] = scores.cpu().float()
        new_scores.append(by_box)
    return all(torch.allclose(new_scores[0], other, atol=1e-5) for other in new_scores[1:])


def _interleaved(sides: list[Callable], repeats: int, device: torch.device) -> list[float]:
    """Median seconds of each side; every round times each of them once."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(repeats + 1):
        for side, seconds in zip(sides, times):
            start = time.perf_counter()
            side()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds[1:]) for seconds in times]
