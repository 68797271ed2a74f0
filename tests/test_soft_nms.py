"""Soft-NMS against slow loops and torchvision; tests/parity has what the authors' code returned."""

import argparse
import math

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms

from cornernet_d2.compat.official import official_soft_nms
from cornernet_d2.modeling.soft_nms import METHODS, batched_soft_nms
from tests.benchmarks import soft_nms as benchmark

OFFICIAL_METHODS = ("hard", "linear", "gaussian")  # by their number in the authors' code


def clusters(count, classes, seed, spread=6.0):
    """Boxes in groups of near copies, with scores, corner scores and classes."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(max(1, count // 6), 2, generator=generator) * 200
    of = torch.randint(len(centres), (count,), generator=generator)
    start = centres[of] + torch.randn(count, 2, generator=generator) * spread
    size = 20 + 40 * torch.rand(count, 2, generator=generator)
    corner_scores = 0.02 + 0.9 * torch.rand(count, 2, generator=generator)
    labels = torch.randint(classes, (count,), generator=generator)
    return torch.cat([start, start + size], 1), corner_scores.mean(1), corner_scores, labels


def slow_iou(a, b, pixel=0.0):
    width = min(a[2], b[2]) - max(a[0], b[0]) + pixel
    height = min(a[3], b[3]) - max(a[1], b[1]) + pixel
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + pixel) * (box[3] - box[1] + pixel) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def slow_weight(iou, method, sigma, threshold):
    if method == "gaussian":
        return math.exp(-iou * iou / sigma)
    return 1.0 if iou <= threshold else (1 - iou if method == "linear" else 0.0)


def slow_soft_nms(boxes, scores, corners, classes, method, sigma, threshold, floor, exponent):
    """Box by box, class by class, in float64: (index, score, merged box), best first."""
    boxes, scores, corners = boxes.double().tolist(), scores.double().tolist(), corners.tolist()
    found = []
    for c in classes.unique().tolist():
        left = [i for i, label in enumerate(classes.tolist()) if label == c]
        left = [i for i in left if scores[i] >= floor]
        while left:
            best = max(left, key=lambda i: scores[i])
            left.remove(best)
            shares = {best: 1.0}
            for i in left:
                weight = slow_weight(slow_iou(boxes[best], boxes[i]), method, sigma, threshold)
                scores[i] *= weight
                shares[i] = (1 - weight) ** exponent
            left = [i for i in left if scores[i] >= floor and scores[i] > 0]
            merged = []
            for k in range(4):
                parts = {i: share * corners[i][k // 2] for i, share in shares.items()}
                merged.append(sum(boxes[i][k] * p for i, p in parts.items()) / sum(parts.values()))
            found.append((best, scores[best], merged))
    return sorted(found, key=lambda row: -row[1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("floor", [0.001, 0.2])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_sequential_definition(method, floor, seed):
    boxes, scores, corners, classes = clusters(90, 7, seed)
    settings = {"method": method, "sigma": 0.4, "iou_threshold": 0.3, "min_score": floor}
    want = slow_soft_nms(boxes, scores, corners, classes, method, 0.4, 0.3, floor, 5.0)
    keep, new_scores = batched_soft_nms(boxes, scores, classes, **settings)
    assert keep.tolist() == [row[0] for row in want]
    assert len(want) < 90 or floor < 0.1 and method != "hard"
    torch.testing.assert_close(new_scores, torch.tensor([row[1] for row in want]))
    keep, merged_scores, merged = batched_soft_nms(
        boxes, scores, classes, **settings, corner_scores=corners, exponent=5.0
    )
    assert keep.tolist() == [row[0] for row in want] and torch.equal(merged_scores, new_scores)
    torch.testing.assert_close(merged, torch.tensor([row[2] for row in want]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("limit", [None, 20, 2])
def test_a_batch_equals_its_images_one_by_one(limit):
    singles = [clusters(count, 5, seed) for seed, count in enumerate((60, 1, 35))]
    boxes, scores, _, classes = (torch.cat(values) for values in zip(*singles))
    images = torch.cat([torch.full((len(single[0]),), n) for n, single in enumerate(singles)])
    # Boxes of the images between one another, in the order of each.
    places = torch.rand(len(images), generator=torch.Generator().manual_seed(0))
    for n in range(len(singles)):
        places[images == n] = places[images == n].sort().values
    mixed = places.argsort()
    boxes, scores, classes, images = (v[mixed] for v in (boxes, scores, classes, images))
    keep, new_scores = batched_soft_nms(boxes, scores, classes, images=images, max_detections=limit)
    assert images[keep].tolist() == images[keep].sort().values.tolist()
    for n, (boxes, single_scores, _, classes) in enumerate(singles):
        want_keep, want_scores = batched_soft_nms(
            boxes, single_scores, classes, max_detections=limit
        )
        assert limit is None or len(want_keep) == min(limit, len(boxes))
        mine = images[keep] == n
        assert torch.equal(keep[mine], (images == n).nonzero().squeeze(1)[want_keep])
        assert torch.equal(new_scores[mine], want_scores)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("classes", [1, 7])
@pytest.mark.parametrize("ties", [False, True])
def test_the_best_are_those_of_all(method, classes, ties):
    boxes, scores, corners, labels = clusters(200, classes, 4)
    if ties:
        scores = (scores * 20).round() / 20
    merging = {"corner_scores": corners, "exponent": 8.0}
    everything = batched_soft_nms(boxes, scores, labels, method, **merging)
    for limit in (0, 1, 30, 100, 500):
        best = batched_soft_nms(boxes, scores, labels, method, **merging, max_detections=limit)
        for got, want in zip(best, everything):
            assert torch.equal(got, want[:limit])


def test_hard_equals_torchvision():
    boxes, scores, _, classes = clusters(300, 4, 5)
    keep, new_scores = batched_soft_nms(
        boxes, scores, classes, method="hard", iou_threshold=0.4, min_score=0.0
    )
    assert torch.equal(keep, batched_nms(boxes, scores, classes, 0.4))
    assert torch.equal(new_scores, scores[keep])


def test_decayed_boxes_stay_and_weak_ones_go():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [0, 0, 10, 10]])
    scores, classes = torch.tensor([0.9, 0.8, 0.0005, 0.7]), torch.tensor([1, 1, 1, 2])
    keep, new_scores = batched_soft_nms(boxes, scores, classes)
    assert keep.tolist() == [0, 3, 1]  # another class is not touched, the weak far box is dropped
    expected = torch.tensor([0.9, 0.7, 0.8 * math.exp(-(0.9**2) / 0.5)])
    torch.testing.assert_close(new_scores, expected)


def test_edge_cases():
    empty = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long)
    keep, scores = batched_soft_nms(*empty)
    assert keep.shape == scores.shape == (0,) and keep.dtype == torch.long
    point = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5], [0, 0, 9, 9]])
    scores = torch.tensor([0.5, math.nan, 0.4], dtype=torch.float16)
    keep, new_scores = batched_soft_nms(point, scores, torch.zeros(3, dtype=torch.long))
    assert keep.tolist() == [0, 2] and new_scores.dtype == torch.float32
    same = torch.tensor([[0.0, 0, 4, 4]]).repeat(20, 1)
    keep, _ = batched_soft_nms(
        same, torch.full((20,), 0.5), torch.zeros(20, dtype=torch.long), "hard", min_score=0.0
    )
    assert keep.tolist() == [0]


def test_corners_of_score_0_merge_to_numbers():
    boxes, scores, corners, classes = clusters(40, 2, 1)
    corners[::2, 1] = 0.0
    _, _, merged = batched_soft_nms(boxes, scores, classes, corner_scores=corners, exponent=10.0)
    rows = official_soft_nms(boxes, scores, corners, classes, merge_exponent=10.0)
    for result in (merged, rows.boxes):
        assert result.isfinite().all() and (result[:, 2:] > result[:, :2]).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "median"},
        {"sigma": 0.0},
        {"sigma": math.nan},
        {"exponent": 0.0},
    ],
)
def test_impossible_settings_are_refused(settings):
    boxes, scores, corners, classes = clusters(4, 1, 0)
    with pytest.raises(ValueError, match="|".join(settings).replace("_", " ")):
        batched_soft_nms(
            boxes, scores, classes, **{"corner_scores": corners, "exponent": 8.0, **settings}
        )
    for half in ({"corner_scores": corners}, {"exponent": 8.0}):
        with pytest.raises(ValueError, match="both"):
            batched_soft_nms(boxes, scores, classes, **half)


def official(boxes, classes, method, iou_threshold, sigma, min_score, exponent=None):
    """Rows of seven columns through official_soft_nms, as the authors' arrays hold them."""
    rows = official_soft_nms(
        boxes[:, :4],
        boxes[:, 4],
        boxes[:, 5:],
        classes,
        OFFICIAL_METHODS[int(method)],
        sigma,
        iou_threshold,
        min_score,
        exponent,
    )
    return torch.cat([rows.boxes, rows.scores[:, None]], 1), rows.classes, rows.stays


def slow_official(rows, method, threshold, sigma, floor, exponent):
    """The authors' procedure row by row in an array of seven columns, as their README tells it."""
    rows, stay = rows.double().numpy().copy(), len(rows)
    for i in range(len(rows)):
        best = max(range(i, max(stay, i + 1)), key=lambda p: (rows[p, 4], -p))
        rows[[i, best], :5] = rows[[best, i], :5]
        shares = rows[i, [5, 5, 6, 6]].copy()
        sums, p = rows[i, :4] * shares, i + 1
        while p < stay:
            iou = slow_iou(rows[i], rows[p], pixel=1.0)
            if iou > 0:
                weight = slow_weight(iou, method, sigma, threshold)
                share = rows[p, [5, 5, 6, 6]] * (1 - weight) ** exponent
                sums, shares = sums + rows[p, :4] * share, shares + share
                rows[p, 4] *= weight
                if rows[p, 4] < floor:
                    stay -= 1
                    rows[p, :5] = rows[stay, :5]
                    p -= 1
            p += 1
        rows[i, :4] = sums / shares
    return rows[:, :5], stay


@pytest.mark.parametrize("method", range(3))
@pytest.mark.parametrize("seed", range(4))
def test_official_rows_equal_the_procedure_when_many_boxes_are_dropped(method, seed):
    boxes, scores, corners, classes = clusters(120, 4, seed, spread=3.0)
    boxes = torch.cat([boxes, scores[:, None], corners], 1)
    config = (0.3, 0.5, 0.15)
    rows, row_classes, stays = official(boxes, classes, method, *config, 3.0)
    assert (~stays).sum() > 20
    for c in range(4):
        name = OFFICIAL_METHODS[method]
        want, stay = slow_official(boxes[classes == c], name, *config, 3.0)
        mine = row_classes == c
        assert stays[mine].tolist() == [p < stay for p in range(len(want))]
        np.testing.assert_allclose(rows[mine].numpy(), want, rtol=0, atol=1e-3)
        np.testing.assert_allclose(rows[mine][:, 4].numpy(), want[:, 4], rtol=0, atol=1e-5)


def test_the_benchmark_compares_equal_results(capsys):
    parser = argparse.ArgumentParser()
    benchmark.add_arguments(parser)
    flags = ["--candidates", "40", "--classes", "4", "--batch-sizes", "1", "2", "--repeats", "1"]
    benchmark.run(parser.parse_args(flags))  # its status says what was faster here and now
    printed = capsys.readouterr().out
    assert printed.count("results agree") == 2 and printed.count("batched_soft_nms, merging") == 2
