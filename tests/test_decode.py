"""decode_corners against a slow implementation, and through exporters."""

import itertools

import numpy as np
import pytest
import torch

from cornernet_d2.modeling.decode import REJECTED, decode_corners


def random_maps(n=2, c=3, h=9, w=12, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {
        side: {
            "heatmap": torch.randn(n, c, h, w, generator=generator).to(dtype),
            "embedding": torch.randn(n, 1, h, w, generator=generator).mul(0.6).to(dtype),
            "offset": torch.rand(n, 2, h, w, generator=generator).to(dtype),
        }
        for side in ("tl", "br")
    }


def slow_corners(side, image, top_k, kernel):
    """(score, class, embedding, x, y) of the best corners, cell by cell."""
    heat = side["heatmap"][image].double().sigmoid().numpy()
    reach, corners = kernel // 2, []
    for c, y, x in np.ndindex(*heat.shape):
        window = heat[c, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
        score = heat[c, y, x] if heat[c, y, x] == window.max() else 0.0
        dx, dy = side["offset"][image, :, y, x].tolist() if "offset" in side else (0.0, 0.0)
        corners.append((score, c, side["embedding"][image, 0, y, x].item(), x + dx, y + dy))
    return sorted(corners, key=lambda corner: -corner[0])[:top_k]


def slow_decode(
    maps, image, top_k, kernel, threshold, limit, place=lambda x, y: (x, y), empty=False
):
    """Pairs as the paper says; ``place`` moves corners before boxes are judged."""
    sides = [slow_corners(maps[side], image, top_k, kernel) for side in ("tl", "br")]
    found = []
    for tl, br in itertools.product(*sides):
        (x0, y0), (x1, y1) = place(*tl[3:]), place(*br[3:])
        wrong = (x1 < x0 or y1 < y0) if empty else (x1 <= x0 or y1 <= y0)
        if tl[1] == br[1] and abs(tl[2] - br[2]) <= threshold and not wrong:
            found.append(((tl[0] + br[0]) / 2, tl[1], tl[0], br[0], x0, y0, x1, y1))
    found = sorted(found, key=lambda row: -row[0])[:limit]
    return torch.tensor(found, dtype=torch.float32).reshape(-1, 8)


def valid_rows(pairs, image):
    boxes, scores, corner_scores, classes = (values[image] for values in pairs)
    rows = torch.cat([scores[:, None], classes[:, None], corner_scores, boxes], 1)
    return rows[scores > REJECTED]


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_equals_a_slow_implementation_image_by_image(kernel):
    maps = random_maps(n=3)
    pairs = decode_corners(maps, 15, kernel, 0.9, 60)
    assert pairs.boxes.shape == (3, 60, 4) and pairs.corner_scores.shape == (3, 60, 2)
    for image in range(3):
        want = slow_decode(maps, image, 15, kernel, 0.9, 60)
        assert len(want) > 4
        torch.testing.assert_close(valid_rows(pairs, image), want, rtol=0, atol=1e-5)


def test_corners_outside_take_no_place_and_suppress_nothing():
    maps = random_maps(n=2, seed=5)
    inside = torch.zeros(2, 9, 12, dtype=torch.bool)
    inside[0, 2:7, 1:9] = inside[1, :4] = True
    for side in maps.values():
        side["heatmap"][~inside[:, None].expand_as(side["heatmap"])] += 9.0  # all of the best
    assert decode_corners(maps, 10, 3, 5.0).scores.max() > 0.99
    pairs = decode_corners(maps, 10, 3, 5.0, 40, inside=inside)
    for image, (rows, columns) in enumerate(((slice(2, 7), slice(1, 9)), (slice(4), slice(12)))):
        cropped = {
            side: {name: values[image : image + 1, :, rows, columns] for name, values in m.items()}
            for side, m in maps.items()
        }
        want = slow_decode(cropped, 0, 10, 3, 5.0, 40)
        want[:, 4:] += torch.tensor([columns.start or 0, rows.start or 0] * 2)
        assert len(want) > 4
        torch.testing.assert_close(valid_rows(pairs, image), want, rtol=0, atol=1e-5)
    few = decode_corners(maps, 60, 1, 5.0, inside=inside)  # more places than cells inside
    assert few.boxes[few.scores > REJECTED].isfinite().all() and (few.scores >= REJECTED).all()


def test_mmdetection_moves_corners_out_of_the_padding_before_judging():
    maps, origin = random_maps(n=2, seed=3), torch.tensor([[3.5, 2.0], [0.0, 5.25]])
    pairs = decode_corners(maps, 20, 3, 0.5, 400, origin=origin)
    plain = decode_corners(maps, 20, 3, 0.5, 400)
    for image in range(2):
        left, top = origin[image].tolist()
        # Its order: image pixels (here 4 a cell), minus the border, at least 0, then the rules.
        want = slow_decode(
            maps,
            image,
            20,
            3,
            0.5,
            400,
            place=lambda x, y, left=left, top=top: (
                max(x * 4 - left * 4, 0),
                max(y * 4 - top * 4, 0),
            ),
        )
        got = valid_rows(pairs, image)
        got[:, 4:] = (got[:, 4:] - origin[image].repeat(2)) * 4
        torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
        assert len(got) < len(valid_rows(plain, image))


def test_boxes_without_area_go_unless_told_otherwise():
    maps = random_maps(n=1, c=1, h=1, w=1)
    maps["br"]["embedding"] = maps["tl"]["embedding"]
    maps["br"]["offset"] = maps["tl"]["offset"]
    assert decode_corners(maps).scores.item() == REJECTED
    assert decode_corners(maps, keep_empty=True).scores.item() > 0


def test_maps_smaller_than_top_k_give_all_pairs_there_are():
    boxes, scores, corner_scores, classes = decode_corners(random_maps(c=2, h=2, w=3))
    assert boxes.shape == (2, 144, 4) and scores.shape == classes.shape == (2, 144)
    assert corner_scores.shape == (2, 144, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_maps_are_decoded_in_float32(dtype):
    maps = random_maps(dtype=dtype)
    wide = {side: {k: v.float() for k, v in m.items()} for side, m in maps.items()}
    for got, want in zip(decode_corners(maps), decode_corners(wide)):
        assert got.dtype == want.dtype and torch.equal(got, want)


def test_class_and_cell_are_exact_above_two_to_the_24():
    classes, side = 1100, 124
    assert classes * side * side > 2**24
    heat = torch.full((1, classes, side, side), -9.0)
    heat[0, classes - 1, 120, 119] = heat[0, classes - 2, 3, 1] = 3.0
    other = torch.zeros(1, 1, side, side)
    maps = {"tl": {"heatmap": heat, "embedding": other}}
    maps["br"] = maps["tl"]
    boxes, scores, _, found = decode_corners(maps, top_k=2, nms_kernel=1, keep_empty=True)
    assert (scores > REJECTED).sum() == 2
    assert sorted(found[0, :2].tolist()) == [classes - 2, classes - 1]
    best = {int(c): box.tolist() for c, box in zip(found[0, :2], boxes[0, :2])}
    assert best[classes - 1] == [119, 120, 119, 120] and best[classes - 2] == [1, 3, 1, 3]


def test_not_a_number_never_becomes_a_box():
    maps = random_maps(n=1, h=8, w=8)
    maps["tl"]["heatmap"][0, 0, 4, 4] = torch.nan
    maps["tl"]["embedding"][0, 0, :4] = torch.nan
    maps["br"]["offset"][0, :, 6:] = torch.nan
    boxes, scores, corner_scores, _ = decode_corners(maps)
    found = scores > REJECTED
    assert found.any() and boxes[found].isfinite().all() and corner_scores[found].isfinite().all()


def test_even_kernel_is_refused():
    with pytest.raises(ValueError, match="odd"):
        decode_corners(random_maps(), nms_kernel=4)


class Decoder(torch.nn.Module):
    def forward(self, *maps):
        names = ("heatmap", "embedding", "offset")
        return decode_corners({"tl": dict(zip(names, maps)), "br": dict(zip(names, maps[3:]))})


def flat(maps):
    return tuple(value for side in ("tl", "br") for value in maps[side].values())


SMALL, LARGE = flat(random_maps(2, 4, 16, 24)), flat(random_maps(3, 4, 40, 32, seed=1))
INPUTS = ["th", "te", "to", "bh", "be", "bo"]


def assert_same_detections(got, want):
    found = want[1] > REJECTED
    assert found.any() and torch.equal(torch.as_tensor(got[1]) > REJECTED, found)
    for a, b in zip(got, want):
        torch.testing.assert_close(torch.as_tensor(a)[found], b[found], rtol=0, atol=1e-5)


def dynamic_shapes():
    batch, height, width = (torch.export.Dim(n, min=m, max=512) for n, m in zip("nhw", (1, 8, 8)))
    return ({0: batch, 2: height, 3: width},) * 6


@pytest.mark.filterwarnings("ignore")
def test_exports_with_dynamic_shapes():
    program = torch.export.export(Decoder(), SMALL, dynamic_shapes=(dynamic_shapes(),))
    assert_same_detections(program.module()(*LARGE), Decoder()(*LARGE))


@pytest.mark.filterwarnings("ignore")
def test_traces_for_other_shapes():
    traced = torch.jit.trace(Decoder(), SMALL, check_trace=False)
    assert_same_detections(traced(*LARGE), Decoder()(*LARGE))


@pytest.mark.filterwarnings("ignore")
def test_onnx_takes_other_shapes(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = str(tmp_path / "decode.onnx")
    options = {"dynamo": True, "dynamic_shapes": (dynamic_shapes(),), "verbose": False}
    torch.onnx.export(Decoder(), SMALL, path, input_names=INPUTS, **options)
    session = runtime.InferenceSession(path)
    got = session.run(None, {name: value.numpy() for name, value in zip(INPUTS, LARGE)})
    assert_same_detections(got, Decoder()(*LARGE))
