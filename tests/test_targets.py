"""Training targets against a slow transcription of the rules."""

import dataclasses
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cornernet_d2 import heatmaps
from cornernet_d2.canvas import Canvas
from cornernet_d2.modeling.decode import decode_corners
from cornernet_d2.targets import (
    CornerTargetGenerator,
    draw_heatmaps,
    gaussian_radius,
)


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    inter = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    area = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    return inter / (area - inter)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.floats(1, 200), st.floats(1, 200), st.floats(0.05, 0.95))
def test_exact_radius_is_the_largest_that_keeps_the_overlap(height, width, overlap):
    r = gaussian_radius(height, width, overlap)
    box = (0, 0, width, height)
    moved = ((r, r, width + r, height + r), (r, r, width - r, height - r),
             (-r, -r, width + r, height + r))  # fmt: skip
    assert min(iou(box, other) for other in moved) == pytest.approx(overlap, abs=1e-6)


def test_first_release_formula():
    # Square boxes at 0.7; anchors of what the first release computed.
    assert [int(gaussian_radius(s, s, 0.7, "eccv18")) for s in (10, 20, 40, 80)] == [2, 5, 10, 21]
    assert [int(gaussian_radius(s, s, 0.7, "exact")) for s in (10, 20, 40, 80)] == [0, 1, 3, 6]
    h, w, m = 13.0, 29.0, 0.6
    b = (h + w, 2 * (h + w), -2 * m * (h + w))
    ac = (h * w * (1 - m) / (1 + m), 4 * (1 - m) * h * w, 4 * m * (m - 1) * h * w)
    expected = min((b + math.sqrt(b * b - 4 * ac)) / 2 for b, ac in zip(b, ac))
    assert gaussian_radius(h, w, m, "eccv18") == pytest.approx(expected)


def test_radius_keeps_the_kind_of_its_arguments():
    expected = gaussian_radius(10, 20, 0.7)
    assert type(expected) is float
    assert type(gaussian_radius(np.float32(10), np.int64(20), np.float64(0.7))) is float
    array = gaussian_radius(np.array([10, 10]), 20, np.array([[0.7], [0.3]]))
    assert isinstance(array, np.ndarray) and array.shape == (2, 2)
    tensor = gaussian_radius(
        torch.tensor([10]), np.array([20.0]), torch.tensor(0.7, dtype=torch.float64)
    )
    assert isinstance(tensor, torch.Tensor)
    assert array[0, 0] == tensor.item() == expected


@pytest.mark.parametrize("arguments", [(1, 1, 0.0), (1, 1, 1.5), (1, 1, math.nan), (1, 1, 0.5, "")])
def test_radius_refuses(arguments):
    with pytest.raises(ValueError, match="min_overlap|formula"):
        gaussian_radius(*arguments)


def slow_targets(boxes, classes, size, num_classes, overlap):
    """The rules, one object and one cell at a time."""
    h, w = math.ceil(size[0] / 4), math.ceil(size[1] / 4)
    ratio_y, ratio_x = h / size[0], w / size[1]
    heat = np.zeros((2, num_classes, h, w))
    cells, offsets = [], []
    for box, category in zip(boxes, classes):
        x0, x1 = (min(max(v, 0), size[1]) for v in box[::2])
        y0, y1 = (min(max(v, 0), size[0]) for v in box[1::2])
        if x1 <= x0 or y1 <= y0:
            continue
        height, width = math.ceil((y1 - y0) * ratio_y), math.ceil((x1 - x0) * ratio_x)
        radius = max(0, int(gaussian_radius(height, width, overlap)))
        sigma = (2 * radius + 1) / 6
        corners = [(x0 * ratio_x, y0 * ratio_y), (x1 * ratio_x, y1 * ratio_y)]
        places = [(min(int(x), w - 1), min(int(y), h - 1)) for x, y in corners]
        cells.append([y * w + x for x, y in places])
        offsets.append([[x - cx, y - cy] for (x, y), (cx, cy) in zip(corners, places)])
        for corner, (cx, cy) in enumerate(places):
            for y in range(max(0, cy - radius), min(h, cy + radius + 1)):
                for x in range(max(0, cx - radius), min(w, cx + radius + 1)):
                    d2 = (x - cx) ** 2 + (y - cy) ** 2
                    value = math.exp(-d2 / (2 * sigma**2))
                    heat[corner, category, y, x] = max(heat[corner, category, y, x], value)
    return np.array(cells).reshape(-1, 2), np.array(offsets).reshape(-1, 2, 2), heat


coordinates = st.floats(-40, 140, width=32)
some_boxes = st.lists(st.tuples(*[coordinates] * 4), max_size=8)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(some_boxes, st.integers(5, 99), st.integers(5, 99), st.sampled_from([0.3, 0.7]), st.data())
def test_equals_slow_transcription(boxes, height, width, overlap, data):
    classes = [data.draw(st.integers(0, 2)) for _ in boxes]
    targets = CornerTargetGenerator(3, min_overlap=overlap)(
        torch.tensor(boxes).reshape(-1, 4), torch.tensor(classes), (height, width)
    )
    cells, offsets, heat = slow_targets(boxes, classes, (height, width), 3, overlap)
    np.testing.assert_array_equal(targets.cells, cells)
    np.testing.assert_allclose(targets.offsets, offsets, atol=1e-6)
    np.testing.assert_allclose(targets.dense_heatmaps(), heat, atol=1e-6)
    assert targets.map_size == heat.shape[2:]


def random_targets(count, size=(96, 128), seed=0, ignored=0, **options):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count + ignored, 2, generator=generator) * 80
    boxes = torch.cat([corner, corner + 1 + torch.rand(corner.shape, generator=generator) * 40], 1)
    classes = torch.randint(3, (count + ignored,), generator=generator)
    make = CornerTargetGenerator(3, min_overlap=0.3, **options)
    return make(boxes[:count], classes[:count], size, boxes[count:], classes[count:])


def test_batch_equals_single_images():
    batch = [random_targets(n, seed=n, ignored=k) for n, k in ((0, 0), (1, 2), (2, 0), (500, 3))]
    drawn = draw_heatmaps(batch)
    heat, ignore = drawn.dense()
    for i, targets in enumerate(batch):
        assert torch.equal(heat[i], targets.dense_heatmaps())
        mask = targets.ignore_mask()
        assert torch.equal(ignore[i], torch.zeros_like(heat[i]).bool() if mask is None else mask)
    assert batch[0].ignore_mask() is None and draw_heatmaps(batch[:1]).ignore is None
    assert [len(t) for t in batch] == [0, 1, 2, 500]
    assert heat[0].sum() == 0


def test_only_planes_that_hold_something_are_drawn():
    boxes = torch.tensor([[8.0, 8, 40, 40], [20, 20, 60, 60], [4, 4, 30, 30]])
    make = CornerTargetGenerator(1203)
    first = make(boxes, torch.tensor([900, 7, 900]), (64, 64), boxes[:1], torch.tensor([3]))
    drawn = draw_heatmaps([first, make(boxes[:1], torch.tensor([0]), (64, 64))])
    assert drawn.values.shape == drawn.ignore.shape == (4, 2, 16, 16)
    assert drawn.planes.numbers == (3, 7, 900, 1203) == tuple(drawn.planes.index.tolist())
    assert drawn.values[0].sum() == 0 and drawn.ignore[0].all(0).sum() == drawn.ignore.sum() / 2


def test_a_large_object_does_not_enlarge_the_windows_of_small_ones(monkeypatch):
    """By the number of window cells that are computed."""
    small = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * 400
    boxes = torch.cat([small, small + 12], 1)
    make, classes = CornerTargetGenerator(1, min_overlap=0.3), torch.zeros(201, dtype=torch.int64)

    def computed(boxes):
        cells = []
        monkeypatch.setattr(
            torch.Tensor, "scatter_reduce_", lambda heat, dim, index, *_: cells.append(len(index))
        )
        draw_heatmaps([make(boxes, classes[: len(boxes)], (512, 512))])
        monkeypatch.undo()
        return sum(cells)

    large = torch.tensor([[0.0, 0, 500, 500]])
    assert computed(torch.cat([boxes, large])) == computed(boxes) + computed(large)


def test_drawing_in_pieces_changes_nothing(monkeypatch):
    targets = random_targets(40, ignored=2)
    heat, ignore, _ = draw_heatmaps([targets])
    monkeypatch.setattr(heatmaps, "_MAX_WINDOW_CELLS", 500)
    again = draw_heatmaps([targets])
    assert torch.equal(heat, again[0]) and torch.equal(ignore, again[1])


def test_ignored_cells_are_those_of_the_region_and_class_but_never_a_corner():
    make = CornerTargetGenerator(3)
    targets = make(
        torch.tensor([[8.0, 8, 40, 40], [0, 0, 20, 20]]),
        torch.tensor([1, 0]),
        (64, 96),
        torch.tensor([[7.9, 4.0, 43.5, 60], [90, 0, 200, 9]]),
        torch.tensor([1, 2]),
    )
    expected = torch.zeros(2, 3, 16, 24, dtype=torch.bool)
    expected[:, 1, 1:16, 1:11] = True
    expected[:, 2, 0:3, 22:24] = True
    expected[0, 1, 2, 2] = expected[1, 1, 10, 10] = False
    assert torch.equal(targets.ignore_mask(), expected)
    assert (targets.dense_heatmaps()[targets.ignore_mask()] < 1).all()


def test_padded_targets_are_the_same_on_a_larger_map():
    targets = random_targets(20, size=(128, 128), ignored=2)
    larger = targets.padded((144, 160))
    heat, ignore = larger.dense_heatmaps(), larger.ignore_mask()
    small_heat, small_ignore = targets.dense_heatmaps(), targets.ignore_mask()
    h, w = targets.map_size
    # A window at the edge grows into the padding; inside the old map nothing changes.
    assert torch.equal(heat[..., :h, :w], small_heat)
    assert torch.equal(ignore[..., :h, :w], small_ignore)
    assert not ignore[..., h:, :].any() and not ignore[..., w:].any()
    assert larger.map_size == (36, 40)
    for size in ((128, 128), (145, 160)):  # a smaller one, and one of other cells
        with pytest.raises(ValueError, match="do not fit"):
            larger.padded(size)


EDGE_BOXES = torch.tensor([[0.0, 0, 128, 96], [100, 60, 128, 80], [9, 9, 127.99, 95.5]])


@pytest.mark.parametrize("canvas", [(96, 128), (96, 256), (128, 128), (128, 256)])
def test_boxes_may_end_where_the_canvas_does(canvas):
    """Their corner has the last cell and an offset of 1; more room gives it a cell of its own."""
    make, classes = CornerTargetGenerator(3), torch.tensor([0, 1, 2])
    targets = make(EDGE_BOXES, classes, (96, 128))
    assert targets.cells[0].tolist() == [0, 24 * 32 - 1]
    assert targets.offsets[0, 1].tolist() == [1, 1]
    assert targets.offsets[1, 1].tolist() == [1, 0]
    corners = torch.stack((targets.cells % 32, targets.cells // 32), -1) + targets.offsets
    torch.testing.assert_close(4 * corners.flatten(1), EDGE_BOXES, atol=1e-5, rtol=0)
    expected = make(EDGE_BOXES, classes, canvas)
    padded = targets.padded(canvas)
    assert torch.equal(padded.cells, expected.cells)
    assert torch.equal(padded.offsets, expected.offsets)
    hidden = make(EDGE_BOXES, classes, (96, 128), EDGE_BOXES[1:2], classes[:1]).ignore_mask()
    assert hidden[0, 0, 15:21, 25:].sum() == 6 * 7 and hidden[0, 0].sum() == 6 * 7


def test_the_authors_boxes_end_at_the_last_pixel():
    make = CornerTargetGenerator(3, clip="last_pixel")
    targets = make(EDGE_BOXES, torch.tensor([0, 1, 2]), (96, 128))
    assert targets.offsets[0, 1].tolist() == [0.75, 0.75]
    with pytest.raises(ValueError, match="clip"):
        CornerTargetGenerator(3, clip="box")


@pytest.mark.parametrize("padding", ["bottom_right", "center_black", "center_mean"])
@pytest.mark.parametrize("clip", ["canvas", "last_pixel"])
@pytest.mark.parametrize("divisibility", [4, 16, 64])
def test_targets_are_taken_only_where_they_are_what_would_be_made(padding, clip, divisibility):
    """From canvases of 4, 16 or 64 pixels and less, for a batch on one of 16."""
    sizes = [(64, 96), (63, 95), (50, 70), (96, 128)]
    make = CornerTargetGenerator(3, clip=clip)
    canvas = Canvas.fit(sizes, 16, 4, padding, training=True)
    taken = []
    for i, size in enumerate(sizes):
        boxes = torch.tensor([[0.0, 0, *size[::-1]], [8, 9, 44, 46], [44, 9, size[1], 33]])
        truth = boxes, torch.tensor([0, 1, 2]), boxes[1:2], torch.tensor([0])
        ready = make.on_canvas(Canvas.fit([size], divisibility, 4, padding), 0, *truth)
        expected = make.on_canvas(canvas, i, *truth)
        found = ready.fitted(make, canvas, i)
        taken.append(found is not None)
        if found is not None:
            for name, value in vars(expected).items():
                other = getattr(found, name)
                same = torch.equal(value, other) if torch.is_tensor(value) else value == other
                assert same, name
        for other in (CornerTargetGenerator(4), dataclasses.replace(make, min_overlap=0.3)):
            assert ready.fitted(other, canvas, i) is None
    if padding == "bottom_right" and clip == "canvas" and divisibility <= 16:
        assert all(taken)
    assert taken[-1] or divisibility == 64 or (padding != "bottom_right" and divisibility == 4)


def test_travels_by_value():
    targets = random_targets(5, ignored=1)
    copy = pickle.loads(pickle.dumps(targets))
    assert copy.map_size == targets.map_size and copy.generator == targets.generator
    for name, value in vars(targets).items():
        if isinstance(value, torch.Tensor):
            assert (
                torch.equal(value, getattr(copy, name)) and value.dtype == getattr(copy, name).dtype
            )
    assert torch.equal(copy.to("cpu").dense_heatmaps(), targets.dense_heatmaps())
    assert len(pickle.dumps(random_targets(10))) < 3000


def test_fixed_radius_and_none():
    assert random_targets(9, fixed_radius=5).radii.tolist() == [5] * 9
    assert torch.equal(random_targets(9, fixed_radius=-1).radii, random_targets(9).radii)
    assert (random_targets(9, gaussian=False).dense_heatmaps() > 0).sum() <= 18


def test_refuses_what_cannot_be_trained_on():
    make = CornerTargetGenerator(3)
    box = torch.tensor([[0.0, 0, 9, 9]])
    with pytest.raises(ValueError, match=r"\[3\] outside \[0, 3\).*NUM_CLASSES"):
        make(box, torch.tensor([3]), (64, 64))
    with pytest.raises(ValueError, match="not finite"):
        make(box * math.nan, torch.tensor([0]), (64, 64))
    with pytest.raises(ValueError, match="1 boxes but 2 classes"):
        make(box, torch.tensor([0, 1]), (64, 64))
    with pytest.raises(ValueError, match="outside"):
        make(box, torch.tensor([0]), (64, 64), box, torch.tensor([-1]))
    with pytest.raises(ValueError, match="agree"):
        draw_heatmaps([random_targets(1), random_targets(1, size=(64, 64))])
    for options in ({"num_classes": 0}, {"num_classes": 1, "stride": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            CornerTargetGenerator(**options)


def test_decoding_perfect_maps_returns_the_boxes():
    torch.manual_seed(0)
    corner = torch.tensor([[3.0, 5], [50, 9], [20, 60], [90, 70]])
    boxes = torch.cat([corner, corner + torch.tensor([[30.0, 20], [40, 50], [9, 12], [35, 25]])], 1)
    targets = CornerTargetGenerator(2)(boxes, torch.tensor([0, 1, 1, 0]), (128, 128))
    heat = targets.dense_heatmaps().clamp(1e-6, 1 - 1e-6).logit()
    maps = {}
    for side, name in enumerate(("tl", "br")):
        embedding, offset = torch.zeros(1, 1, 32 * 32), torch.zeros(1, 2, 32 * 32)
        embedding[0, 0, targets.cells[:, side]] = torch.arange(4.0)
        offset[0, :, targets.cells[:, side]] = targets.offsets[:, side].T
        maps[name] = {
            "heatmap": heat[side][None],
            "embedding": embedding.view(1, 1, 32, 32),
            "offset": offset.view(1, 2, 32, 32),
        }
    found, scores, _, classes = decode_corners(maps)
    found = found[0, scores[0] > 0.9] / targets.cells_per_pixel[0]
    assert len(found) == 4
    order = torch.cdist(boxes, found).argmin(1)
    torch.testing.assert_close(found[order], boxes, atol=1e-3, rtol=0)
    assert classes[0, order].tolist() == [0, 1, 1, 0]
