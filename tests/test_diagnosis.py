"""Every miss and every false detection has one cause, and their numbers are pycocotools' own."""

import numpy as np
import pytest
from coco_counts import evaluate

from cornernet_d2.diagnosis import FALSE, MISSED, Summary, diagnose
from cornernet_d2.diagnosis.causes import near
from cornernet_d2.diagnosis.matching import Found, Truth, curve, match, overlaps
from cornernet_d2.diagnosis.stages import PairTable, Side, Stages

BOX, OTHER = (10.0, 10, 50, 50), (60.0, 10, 100, 50)


def _truth(*boxes, classes=None, crowd=()):
    is_crowd = np.array([i in crowd for i in range(len(boxes))], dtype=bool)
    classes = np.zeros(len(boxes), np.int64) if classes is None else np.array(classes)
    return Truth(np.array(boxes, np.float64).reshape(-1, 4), classes, is_crowd, is_crowd)


def _found(*rows):
    """Rows are box, score, class."""
    boxes, scores, classes = zip(*rows) if rows else ((), (), ())
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return Found(boxes, np.array(scores, np.float64), np.array(classes, np.int64))


def _stages(tl=(), br=(), accepted=None, confirmed=None, kept=None, survivors=None, detections=()):
    """Corners are (x, y, class, score); every pair of one class that makes a box is in the table.

    accepted: (tl, br) numbers; None: all. confirmed, kept: the same. survivors: None: the
    detections.
    """
    sides = [
        Side(
            np.array([c[:2] for c in side], np.float64).reshape(-1, 2),
            np.array([c[2] for c in side], np.int64),
            np.array([c[3] for c in side], np.float64),
        )
        for side in (tl, br)
    ]
    index = [
        (i, j)
        for i, a in enumerate(tl)
        for j, b in enumerate(br)
        if a[2] == b[2] and b[0] > a[0] and b[1] > a[1]
    ]

    def among(pairs):
        return np.array([pairs is None or pair in pairs for pair in index], dtype=bool)

    pairs = PairTable(
        np.array([(*tl[i][:2], *br[j][:2]) for i, j in index], np.float64).reshape(-1, 4),
        np.array([tl[i][2] for i, _ in index], np.int64),
        np.array(index, np.int64).reshape(-1, 2),
        np.array([(tl[i][3] + br[j][3]) / 2 for i, j in index], np.float64),
        among(accepted),
        among(confirmed),
        among(accepted) & among(confirmed) & among(kept),
    )
    detections = _found(*detections)
    return Stages(
        *sides, pairs, detections if survivors is None else _found(*survivors), detections
    )


TL, BR = (10, 10, 0, 0.8), (50, 50, 0, 0.8)  # the corners of BOX
TL2, BR2 = (60, 10, 0, 0.8), (100, 50, 0, 0.8)  # the corners of OTHER
FAR = (0, 60, 0, 0.9)
LOW = ((10.0, 10, 50, 50), 0.05, 0)
BETTER = ((10.0, 10, 50, 95), 0.9, 0)
CASES = {
    "no corner": {"tl": [FAR], "br": [(90, 90, 0, 0.9)]},
    "no top-left corner": {"tl": [FAR], "br": [BR]},
    "no bottom-right corner": {"tl": [TL], "br": [(90, 90, 0, 0.9)]},
    "wrong class": {"tl": [TL], "br": [(50, 50, 1, 0.8)]},
    "badly localised": {"tl": [(20, 20, 0, 0.8)], "br": [(40, 40, 0, 0.8)]},
    "rejected by the pairing": {"tl": [TL], "br": [BR], "accepted": []},
    "paired with another object": {"tl": [TL, TL2], "br": [BR, BR2], "accepted": [(0, 1)]},
    "no centre": {"tl": [TL], "br": [BR], "confirmed": []},
    "suppressed by soft-NMS": {"tl": [TL], "br": [BR], "detections": [BETTER]},
    "below the score": {"tl": [(10, 10, 0, 0.05)], "br": [(50, 50, 0, 0.05)]},
    "beyond the limit": {
        "tl": [TL],
        "br": [BR],
        "survivors": [BETTER, (BOX, 0.8, 0)],
        "detections": [BETTER],
    },
}


@pytest.mark.parametrize("cause", CASES)
def test_an_object_is_missed_for_one_cause(cause):
    case = dict(CASES[cause])
    truth = _truth(BOX, OTHER)
    image = diagnose(truth, _stages(**case), lowest=0.1)
    assert image.missed[0] == cause
    assert set(CASES) == set(MISSED)


def test_a_box_that_soft_nms_lowered_below_the_kept_ones_was_suppressed():
    better, kept = (BETTER[0], 0.9, 0), ((200.0, 0, 220, 20), 0.5, 0)
    case = {"tl": [TL], "br": [BR], "detections": [better, kept]}
    image = diagnose(_truth(BOX), _stages(**case, survivors=[better, kept, (BOX, 0.1, 0)]))
    assert image.missed == ("suppressed by soft-NMS",)


def test_a_pair_beyond_the_pairs_kept_is_beyond_the_limit():
    image = diagnose(_truth(BOX), _stages([TL], [BR], kept=[]))
    assert image.missed == ("beyond the limit",)


def test_detections_below_the_score_do_not_count():
    stages = _stages([(10, 10, 0, 0.05)], [(50, 50, 0, 0.05)], detections=[LOW])
    assert diagnose(_truth(BOX), stages).missed == ("",)
    image = diagnose(_truth(BOX), stages, min_score=0.1)
    assert image.missed == ("below the score",) and image.false == ()


def test_what_fits_a_neighbour_better_is_the_neighbours():
    """One pair, two objects that it fits: the one it fits less was paired with the other."""
    shifted = (12.0, 10, 52, 50)
    image = diagnose(_truth(BOX, shifted), _stages([TL], [BR], detections=[(BOX, 0.8, 0)]))
    assert image.missed == ("", "paired with another object")


def test_ignored_objects_are_neither_missed_nor_false():
    image = diagnose(_truth(BOX, crowd=[0]), _stages(detections=[((20.0, 20, 30, 30), 0.5, 0)]))
    assert image.missed == ("",) and image.false == ("",) and image.matches.ignored.all()


@pytest.mark.parametrize(
    "row, cause",
    [
        (((11.0, 10, 50, 50), 0.5, 0), "duplicate"),
        (((60.0, 10, 100, 50), 0.5, 0), "class confusion"),
        (((210.0, 10, 230, 30), 0.5, 1), "on an ignored object"),
        (((10.0, 10, 100, 50), 0.5, 0), "mixed corners"),
        (((30.0, 10, 55, 50), 0.5, 0), "localisation"),
        (((10.0, 200, 50, 250), 0.5, 0), "background"),
    ],
)
def test_a_detection_is_false_for_one_cause(row, cause):
    truth = _truth(BOX, OTHER, (200.0, 0, 300, 100), classes=[0, 1, 0], crowd=[2])
    image = diagnose(truth, _stages(detections=[(BOX, 0.9, 0), row]))
    assert image.false == ("", cause) and cause in FALSE
    assert image.confused.tolist() == [-1, 1 if cause == "class confusion" else -1]


def test_near_is_the_overlap_of_the_box_with_that_corner_moved():
    rng = np.random.default_rng(0)
    box = np.array([BOX])
    for corner in (0, 1):
        points = rng.uniform(-20, 90, (500, 2))
        moved = np.repeat(box, len(points), 0)
        moved[:, 2 * corner : 2 * corner + 2] = points
        is_box = (moved[:, 2:] > moved[:, :2]).all(1)
        expected = is_box & (overlaps(moved, box)[:, 0] >= 0.5)
        np.testing.assert_array_equal(near(points, box, corner)[:, 0], expected)
        assert 20 < expected.sum() < 480


def _random_images(seed, images=12, classes=3):
    """Objects, some of them crowds, and detections around and apart from them, of tied scores."""
    rng = np.random.default_rng(seed)

    def boxes(number):
        start = rng.uniform(0, 60, (number, 2))
        return np.concatenate((start, start + rng.uniform(8, 40, (number, 2))), axis=1)

    truths, stages = [], []
    for _ in range(images):
        number, free = int(rng.integers(0, 7)), int(rng.integers(0, 6))
        truth = Truth(
            boxes(number), rng.integers(0, classes, number), *[rng.random(number) < 0.2] * 2
        )
        copies = np.repeat(np.arange(number), rng.integers(0, 4, number))
        near_boxes = truth.boxes[copies] + rng.normal(0, 4, (len(copies), 4))
        near_boxes[:, 2:] = np.maximum(near_boxes[:, 2:], near_boxes[:, :2] + 2)
        around = np.concatenate((near_boxes, boxes(free)))
        labels = np.concatenate((truth.classes[copies], rng.integers(0, classes, free)))
        scores = rng.integers(1, 20, len(around)) / 20
        order = np.argsort(-scores, kind="stable")
        found = Found(around, scores, labels.astype(np.int64)).take(order)
        corners = [Side(np.roll(around, -shift, 1)[:, :2], labels, scores) for shift in (0, 2)]
        every = np.arange(len(around))
        pairs = PairTable(
            around,
            labels,
            np.stack((every, every), 1),
            scores,
            *[rng.random(len(around)) < 0.7] * 3
        )
        truths.append(truth)
        stages.append(Stages(*corners, pairs, found, found))
    return truths, stages


def _annotations(truths):
    rows = []
    for image, truth in enumerate(truths):
        for (x0, y0, x1, y1), index, crowd in zip(truth.boxes, truth.classes, truth.crowd):
            box = [x0, y0, x1 - x0, y1 - y0]
            row = {"id": len(rows) + 1, "image_id": image, "category_id": int(index) + 1}
            rows.append({**row, "bbox": box, "area": box[2] * box[3], "iscrowd": int(crowd)})
    return rows


@pytest.mark.parametrize("seed", range(6))
def test_totals_are_those_of_pycocotools(seed):
    truths, stages = _random_images(seed)
    images = [diagnose(truth, each) for truth, each in zip(truths, stages)]
    summary = Summary(images, ["a", "b", "c"])
    expected = evaluate(_annotations(truths), [each.detections for each in stages])
    assert summary.totals == {"images": len(truths), **expected.counts}
    assert summary.ap == pytest.approx(expected.ap, abs=1e-12)
    assert min(expected.counts.values()) > 0  # or it would prove little
    assert sum(summary.missed.values()) == expected.counts["missed"]
    assert sum(summary.false.values()) == expected.counts["false"]
    for image in images:
        lost = (image.matches.objects < 0) & ~image.truth.ignored
        assert [bool(cause) for cause in image.missed] == lost.tolist()
    parts = summary.by_size().values()
    assert sum(part["objects"] for part in parts) == expected.counts["objects"]
    assert sum(p["found"] for p in summary.by_crowding().values()) == expected.counts["found"]


def test_mending_a_cause_never_costs_and_all_of_one_kind_is_worth_the_most():
    truths, stages = _random_images(1)
    summary = Summary([diagnose(t, s) for t, s in zip(truths, stages)], ["a", "b", "c"])
    gains = summary.mended()
    assert set(gains) == {*MISSED, *FALSE}
    numbers = {**summary.missed, **summary.false}
    assert all(gain >= -1e-12 for gain in gains.values())
    assert all(gains[cause] == 0 for cause in gains if not numbers[cause])
    assert max(gains.values()) > 0.01
    recall = summary.totals["found"] / summary.totals["objects"]
    assert summary.ap + sum(gains[cause] for cause in FALSE) < recall + 0.2


def test_ap_mended_of_one_missed_object():
    found = diagnose(_truth(BOX, OTHER), _stages([TL], [BR], detections=[(BOX, 0.9, 0)]))
    summary = Summary([found], ["a"])
    assert summary.ap == pytest.approx(51 / 101)  # precision 1 up to a recall of 0.5
    assert summary.missed["no corner"] == 1
    assert summary.mended()["no corner"] == pytest.approx(50 / 101)


def test_best_f1_is_that_of_trying_every_threshold():
    rng = np.random.default_rng(2)
    scores, right = rng.integers(1, 15, 60) / 15, rng.random(60) < 0.5

    def f1(threshold):
        taken = scores >= threshold
        return 2 * right[taken].sum() / (taken.sum() + 40)

    threshold, value = curve(scores, right, 40).best_f1()
    assert value == pytest.approx(max(f1(s) for s in scores)) == f1(threshold)
    assert curve(scores[:0], right[:0], 5).best_f1() == (1.0, 0.0)


def test_summary_of_no_detection_and_of_no_object():
    empty = diagnose(_truth(), _stages())
    assert (
        np.isnan(Summary([empty], ["a"]).ap) and Summary([empty], ["a"]).as_dict()["AP50"] is None
    )
    alone = diagnose(_truth(BOX), _stages())
    assert Summary([alone], ["a"]).ap == 0 and match(_found(), _truth(BOX)).objects.tolist() == [-1]


def test_worst_images_come_first_and_flawless_ones_not_at_all():
    perfect = diagnose(_truth(BOX), _stages([TL], [BR], detections=[(BOX, 0.9, 0)]), name="perfect")
    one = diagnose(_truth(BOX), _stages(), name="one")
    two = diagnose(_truth(BOX, OTHER), _stages(), name="two")
    assert [x.name for x in Summary([perfect, one, two], ["a"]).worst_images(5)] == ["two", "one"]
