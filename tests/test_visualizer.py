"""CornerNetVisualizer: corners, pairs and heat maps where they belong, labels apart."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from cornernet_d2.diagnosis import CornerNetVisualizer
from cornernet_d2.visualize import draw_boxes

GREY = np.full((240, 320, 3), 128, np.uint8)
SCALE = 320 / 240  # of a picture of that size


def _instances(boxes, **fields):
    instances = Instances(GREY.shape[:2], pred_boxes=Boxes(torch.tensor(boxes)))
    instances.pred_classes = torch.zeros(len(boxes), dtype=torch.long)
    for name, value in fields.items():
        instances.set(name, value)
    return instances


def _changed(drawn):
    """(h, w) bool, at the scale of the picture as given."""
    height, width = GREY.shape[:2]
    rows = (np.arange(height) * drawn.shape[0] / height).astype(int)
    columns = (np.arange(width) * drawn.shape[1] / width).astype(int)
    return (drawn[rows][:, columns].astype(int) - 128).__abs__().max(-1) > 30


def test_small_pictures_are_enlarged_and_labels_stay_legible():
    visualizer = CornerNetVisualizer(np.zeros((32, 64, 3), np.uint8))
    visualizer.draw_label("thing", np.array((5, 12, 30, 25)), (1.0, 1.0, 1.0))
    drawn = visualizer.get_output().get_image()
    assert drawn.shape == (320, 640, 3)
    rows = np.flatnonzero((drawn > 128).any((1, 2)))
    assert rows[-1] - rows[0] >= 8  # output pixels from the top of h to the bottom of g
    (x0, y0, x1, y1), ink = visualizer.label_places[0] * 10, (drawn > 128).any(-1).nonzero()
    assert y0 - 1 <= ink[0].min() and ink[0].max() <= y1 + 1
    assert x0 - 1 <= ink[1].min() and ink[1].max() <= x1 + 1


def test_labels_of_one_place_do_not_lie_on_one_another():
    visualizer = CornerNetVisualizer(GREY)
    boxes = np.array([[100.0, 80, 200, 160]] * 4)
    visualizer.draw_boxes(boxes, ["person 98%", "person 54%", "dog 12%", "cat 3%"])
    places = visualizer.label_places
    for i, a in enumerate(places):
        assert (a >= 0).all() and a[2] <= 320 and a[3] <= 240
        for b in places[:i]:
            assert (np.minimum(a[2:], b[2:]) <= np.maximum(a[:2], b[:2])).any()


def test_labels_at_the_edge_stay_inside():
    visualizer = CornerNetVisualizer(GREY)
    visualizer.draw_boxes(np.array([[300.0, 0, 320, 10], [310, 230, 320, 240]]), ["wide label"] * 2)
    places = visualizer.label_places
    assert (places >= 0).all() and (places[:, 2] <= 320).all() and (places[:, 3] <= 240).all()


def test_corners_are_drawn_at_the_two_ends_and_pairs_between():
    box = [[100.0, 60, 300, 200]]
    corners = CornerNetVisualizer(GREY)
    changed = _changed(corners.draw_corners(_instances(box)).get_image())
    assert changed[60, 100] and changed[199, 299]
    assert not changed[60, 300] and not changed[110:150, 180:220].any()
    assert len(corners.label_places) == 0
    changed = _changed(CornerNetVisualizer(GREY).draw_pairs(_instances(box)).get_image())
    assert changed[110:150, 180:220].any() and not changed[60, 300:].any()


def test_instances_that_carry_scores_and_distances_say_them():
    carried = _instances(
        [[100.0, 60, 300, 200], [20, 100, 120, 220]],
        corner_scores=torch.rand(2, 2),
        pair_distances=torch.tensor([0.0, 0.5]),
    )
    visualizer = CornerNetVisualizer(GREY)
    visualizer.draw_corners(carried)
    assert len(visualizer.label_places) == 4
    visualizer = CornerNetVisualizer(GREY)
    drawn = visualizer.draw_pairs(carried, threshold=0.5).get_image().astype(int)
    assert len(visualizer.label_places) == 2
    green, red = drawn[..., 1] - drawn[..., 0] > 60, drawn[..., 0] - drawn[..., 1] > 60
    half = int(130 * drawn.shape[1] / 320)
    assert green[:, half:].any() and not red[:, half + 60 :].any() and red[:, :half].any()


def test_a_heat_map_lies_under_what_is_drawn_after_it():
    heat = torch.zeros(2, 60, 80)
    heat[1, 20, 30] = 1
    visualizer = CornerNetVisualizer(GREY)
    visualizer.draw_heatmap(heat)
    visualizer.draw_boxes(np.array([[10.0, 200, 60, 230]]), colours=[(0.0, 1.0, 0.0)])
    drawn = visualizer.get_output().get_image().astype(int)
    y, x = (int(v * drawn.shape[0] / 240) for v in (82, 122))
    assert drawn[y, x, 0] > drawn[y, x, 2] + 60  # hot is red
    edge = drawn[int(200 * drawn.shape[0] / 240), int(35 * drawn.shape[1] / 320)]
    assert edge[1] > edge[0] + 60


def test_nothing_to_draw_changes_nothing():
    none = _instances(np.zeros((0, 4), np.float32).tolist() or torch.zeros(0, 4).tolist())
    none.pred_boxes = Boxes(torch.zeros(0, 4))
    visualizer = CornerNetVisualizer(GREY)
    visualizer.draw_corners(none)
    visualizer.draw_pairs(none)
    visualizer.draw_boxes(np.zeros((0, 4)))
    assert not _changed(visualizer.get_output().get_image()).any()


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1)])
def test_a_strip_does_not_explode(size: tuple[int, int]) -> None:
    """To 320 pixels of height, 1 x 3000 pixels would be enlarged to 960,000 of width."""
    picture = np.zeros((*size, 3), np.uint8)
    drawn = draw_boxes(picture, np.array([[0, 0, size[1], size[0]]]), [0], [0.5], ["thing"])
    assert max(drawn.shape) <= 4096
    assert max(CornerNetVisualizer(picture).get_output().get_image().shape) <= 4096
