"""Pictures show what they are given, where it is."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from cornernet_d2.visualize import (
    MIN_SIDE,
    TrainingView,
    draw_boxes,
    draw_corners,
    draw_heatmap,
    draw_instances,
    grid,
    side_by_side,
    titled,
    training_picture,
)
from cornernet_d2.visualize.training import distance_histogram, pair_kinds

GREY = np.full((MIN_SIDE, MIN_SIDE + 80, 3), 128, np.uint8)
NAMES = ("disc", "bar")


def _predictions(boxes: list, scores: list, classes: list) -> Instances:
    return Instances(
        GREY.shape[:2],
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.tensor(scores),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
    )


def _changed(drawn: np.ndarray, before: np.ndarray = GREY) -> np.ndarray:
    return np.abs(drawn.astype(int) - before).max(2) > 20


def test_a_box_is_drawn_on_its_border_and_nothing_far_from_it() -> None:
    drawn = draw_boxes(GREY, [[100, 60, 300, 200]], [0])
    changed = _changed(np.asarray(drawn))
    assert changed.shape == GREY.shape[:2]
    for row, column in ((60, 250), (200, 250), (150, 100), (150, 300)):
        assert changed[row - 3 : row + 4, column - 3 : column + 4].any()
    inside_and_far = changed.copy()
    inside_and_far[40:230, 80:320] = False
    assert not inside_and_far.any()
    assert not changed[120:190, 120:290].any()


def test_one_class_has_one_colour_and_two_classes_have_two() -> None:
    pictures = [draw_boxes(GREY, [[100, 60, 300, 200]], [index]) for index in (0, 1, 1)]
    colours = [picture[150, 99:102].reshape(-1).tolist() for picture in pictures]
    assert colours[1] == colours[2] != colours[0]


def test_no_box_leaves_the_picture_as_it_is() -> None:
    np.testing.assert_array_equal(draw_boxes(GREY, np.zeros((0, 4)), []), GREY)
    np.testing.assert_array_equal(draw_corners(GREY, np.zeros((0, 4)), []), GREY)


@pytest.mark.parametrize("size, expected", [((64, 128), (320, 640)), ((480, 640), (480, 640))])
def test_small_pictures_are_enlarged_before_drawing(size: tuple, expected: tuple) -> None:
    picture = np.zeros((*size, 3), np.uint8)
    assert draw_boxes(picture, [[10, 10, 40, 40]], [0]).shape == (*expected, 3)


def test_instances_below_the_score_are_left_out() -> None:
    boxes = [[20.0, 20, 120, 120], [200, 150, 350, 300]]
    drawn = draw_instances(GREY, _predictions(boxes, [0.9, 0.2], [0, 1]), NAMES, min_score=0.5)
    changed = _changed(drawn)
    assert changed[:140, :140].any() and not changed[145:, 180:].any()


def test_ground_truth_and_predictions_differ_by_their_score_alone() -> None:
    box = torch.tensor([[100.0, 60, 300, 200]])
    truth = Instances(GREY.shape[:2], gt_boxes=Boxes(box), gt_classes=torch.tensor([1]))
    a = draw_instances(GREY, truth, NAMES)
    b = draw_instances(GREY, _predictions(box.tolist(), [0.9], [1]), NAMES)
    differ = _changed(a, b)
    assert differ.any() and not differ[:, 180:].any()  # the label at the left edge


def test_heatmap_is_red_where_hot_and_the_highest_class_counts() -> None:
    heat = torch.zeros(3, 20, 30)
    heat[1, 5, 8] = 1.0
    heat[2, 15, 20] = 1.0
    drawn = draw_heatmap(np.full((80, 120, 3), 128, np.uint8), heat).astype(int)
    assert drawn.shape == (80, 120, 3)
    for row, column in ((22, 34), (62, 82)):
        assert drawn[row, column, 0] > drawn[row, column, 2] + 60
    assert drawn[40, 60, 2] > drawn[40, 60, 0]  # cold is blue
    assert drawn[40, 60].min() > 60  # and the picture stays visible


def test_heatmap_of_a_larger_canvas_is_cropped_to_the_picture() -> None:
    heat = np.zeros((20, 30), np.float32)
    heat[5, 8] = 1.0
    whole = draw_heatmap(np.full((80, 120, 3), 128, np.uint8), heat)
    part = draw_heatmap(np.full((40, 50, 3), 128, np.uint8), heat, origin=(10, 20))
    np.testing.assert_array_equal(part, whole[10:50, 20:70])


def test_heatmap_covers_a_picture_of_511_pixels() -> None:
    drawn = draw_heatmap(np.zeros((513, 511, 3), np.uint8), np.ones((128, 128)), stride=511 / 128)
    assert drawn.shape == (513, 511, 3) and (drawn[..., 0] > 0).all()


def test_corners_are_drawn_at_both_ends_of_the_box_only() -> None:
    changed = _changed(draw_corners(GREY, [[100, 60, 300, 200]], [0]))
    assert changed[60, 100] and changed[200, 300]
    assert not changed[60, 300] and not changed[200, 100]
    assert changed[110:150, 180:220].any()  # the line between them


def test_pictures_are_joined_without_loss() -> None:
    a, b = np.full((10, 20, 3), 1, np.uint8), np.full((30, 5, 3), 2, np.uint8)
    row = side_by_side([a, b])
    assert row.shape == (30, 29, 3)
    assert (row[:10, :20] == 1).all() and (row[:, 24:] == 2).all() and (row[10:, :20] == 255).all()
    sheet = grid([a, a, b], columns=2)
    assert sheet.shape == (10 + 4 + 30, 44, 3)
    assert (sheet[:10, 24:44] == 1).all() and (sheet[14:, :5] == 2).all()


def test_low_heat_is_lifted_by_gamma() -> None:
    picture, heat = np.full((80, 120, 3), 128, np.uint8), np.full((20, 30), 0.04, np.float32)
    plain, lifted = (draw_heatmap(picture, heat, gamma=g).astype(int) for g in (1, 0.5))
    assert np.abs(plain - lifted).max() > 20
    expected = draw_heatmap(picture, np.full((20, 30), 0.2, np.float32))
    np.testing.assert_array_equal(lifted, expected)


def test_a_title_fits_above_its_picture() -> None:
    for title in ("short", "a title that is longer than the picture is wide " * 3):
        picture = titled(GREY, title)
        assert picture.shape == (GREY.shape[0] + 22, *GREY.shape[1:])
        np.testing.assert_array_equal(picture[22:], GREY)
        ink = (picture[:22] < 100).any(-1).nonzero()[1]
        assert len(ink) and ink.max() < GREY.shape[1] - 1


def _view(found: int, distances: np.ndarray | None) -> TrainingView:
    """Three objects, the first two of a class."""
    boxes = np.array([[10.0, 10, 50, 40], [30, 20, 90, 60], [60, 5, 80, 30]])
    classes = np.array([0, 0, 1])
    truth = Instances((64, 96), gt_boxes=Boxes(torch.tensor(boxes)))
    truth.gt_classes = torch.tensor(classes)
    some = [[5.0 * i, 4.0 * i, 30 + 5.0 * i, 30.0] for i in range(found)]
    detections = _predictions(some, [0.5] * found, [1] * found)
    heats = torch.rand(2, 2, 4, 16, 24, generator=torch.Generator().manual_seed(0))
    picture = np.zeros((64, 96, 3), np.uint8)
    return TrainingView(picture, truth, detections, *heats, boxes, classes, distances, 0.5)


def test_pairs_of_true_corners_are_matched_missed_or_mismatched() -> None:
    distances = np.array([[0.1, 0.3, 0.0], [0.2, 0.7, 0.9], [0.1, 0.2, np.nan]])
    kinds = {k: v.tolist() for k, v in pair_kinds(_view(0, distances)).items()}
    # Not (1, 0): it makes a box, but not (0, 2) and others: they are of two classes.
    assert kinds == {"matched": [[0, 0]], "missed": [[1, 1], [2, 2]],
                     "mismatched": [[1, 0], [0, 1]]}  # fmt: skip


@pytest.mark.parametrize("distances", [None, np.full((3, 3), 0.2), np.full((3, 3), np.nan)])
def test_training_picture_shows_every_panel(distances: np.ndarray | None) -> None:
    drawn = training_picture(_view(3, distances), NAMES)
    assert drawn.dtype == np.uint8
    assert drawn.shape == (3 * (320 + 22) + 2 * 4, 3 * 480 + 2 * 4, 3)
    panel = drawn[342 + 4 + 22 : 2 * 342 + 4, 2 * 484 :]  # the histogram
    assert (panel != 255).any() == (distances is not None)
    assert training_picture(_view(0, distances)).shape == drawn.shape


def test_histogram_has_its_bars_where_the_distances_are() -> None:
    within, between = np.full(4, 0.05), np.array([1.9, 1.9, np.nan])
    drawn = distance_histogram(within, between, 0.5, (480, 320)).astype(int)
    green = (drawn[..., 1] > drawn[..., 0] + 40).nonzero()[1]
    red = (drawn[..., 0] > drawn[..., 1] + 40).nonzero()[1]
    assert np.bincount(green).argmax() < 120 and np.bincount(red).argmax() > 380
