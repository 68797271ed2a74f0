"""Centre triplets: targets, head, the check of pairs by centres, and the rules of the release."""

import copy
import dataclasses
import math

import pytest
import torch
from detectron2.structures import Boxes
from test_pairing import SETTINGS, crowd_maps, example, found, tiny_model
from torch import nn

from cornernet_d2 import model_zoo, prepare_for_inference
from cornernet_d2.canvas import Canvas
from cornernet_d2.checkpoint import infer_architecture
from cornernet_d2.compat.centernet import CenterNetInference, with_centers
from cornernet_d2.diagnosis.oracle import CENTER_ROWS, Oracle
from cornernet_d2.diagnosis.stages import trace
from cornernet_d2.modeling.center import CenterCheck
from cornernet_d2.modeling.decode import REJECTED, Pairs, decode_corners
from cornernet_d2.modeling.inference import Candidates, CornerInference
from cornernet_d2.modeling.monitoring import draw_example, pair_distances
from cornernet_d2.modeling.pairing import CentripetalPairing, Corners
from cornernet_d2.targets import CornerTargetGenerator, draw_heatmaps

ENABLED = ["MODEL.CORNERNET.CENTER.ENABLED", True]
CASCADE = ["MODEL.CORNERNET.CASCADE_POOLING", True]
CENTRIPETAL = ["MODEL.CORNERNET.PAIRING", "centripetal"]


def triplet_maps(*centers):
    """The two boxes of crowd_maps (2, 3, 6, 9), (8, 3, 12, 9) and centres x, y, logit alone."""
    maps = crowd_maps()
    heatmap, offset = torch.full((1, 1, 16, 16), -12.0), torch.full((1, 2, 16, 16), torch.nan)
    for x, y, logit in centers:
        heatmap[0, 0, y, x], offset[0, :, y, x] = logit, 0.0
    maps["center"] = {"heatmap": heatmap, "offset": offset}
    return maps


def check_slowly(check, box, label, centers, area_of_cell):
    x0, y0, x1, y1 = box
    n = check.parts[(x1 - x0) * (y1 - y0) * area_of_cell > check.large_area]
    k = (n - 1) // 2
    best = None
    for x, y, other, score in centers:
        inside = ((k + 1) * x0 + k * x1) / n < x < (k * x0 + (k + 1) * x1) / n
        inside &= ((k + 1) * y0 + k * y1) / n < y < (k * y0 + (k + 1) * y1) / n
        if inside and other == label and (best is None or score > best):
            best = score
    return best


def test_the_check_is_the_paper_s():
    torch.manual_seed(0)
    check = CenterCheck(large_area=2000.0)
    corner = torch.rand(2, 200, 2) * 20
    boxes = torch.cat((corner, corner + 1 + torch.rand(2, 200, 2) * 20), dim=-1)
    scores, classes = torch.rand(2, 200), torch.randint(3, (2, 200))
    scores[:, ::7] = REJECTED
    xy, of_class, of_score = torch.rand(2, 90, 2) * 40, torch.randint(3, (2, 90)), torch.rand(2, 90)
    centers = Corners(of_score, of_class, xy, xy, {})
    got = check(boxes, scores, classes, centers, (4.0, 2.0))
    kept = 0
    for n in range(2):
        rows = list(zip(*xy[n].T.tolist(), of_class[n].tolist(), of_score[n].tolist()))
        for i in range(200):
            best = check_slowly(check, boxes[n, i].tolist(), classes[n, i].item(), rows, 8.0)
            rejected = best is None or scores[n, i] == REJECTED
            want = REJECTED if rejected else (2 * scores[n, i].item() + best) / 3
            assert got[n, i].item() == pytest.approx(want, abs=1e-6)
            kept += not rejected
    assert 20 < kept < 300


def test_pairs_need_a_centre_and_the_best_one_counts():
    check, pairing = CenterCheck(), CentripetalPairing()
    maps = triplet_maps(
        (4, 6, -1.0), (11, 6, 3.0)
    )  # the second is 1 cell right of the middle's end
    boxes, scores = found(decode_corners(maps, pairing=pairing, center=check))
    assert boxes == [(2, 3, 6, 9)]
    want = (2 * torch.tensor(2.0).sigmoid() + torch.tensor(-1.0).sigmoid()) / 3
    torch.testing.assert_close(scores, want[None])
    maps = triplet_maps((4, 6, -1.0), (10, 6, 3.0))
    boxes, scores = found(decode_corners(maps, pairing=pairing, center=check))
    assert boxes == [(8, 3, 12, 9), (2, 3, 6, 9)] and scores[0] > scores[1]  # another order
    # Two centres in the middle of one box, on either side of its middle: the better one counts.
    check = CenterCheck(parts=(1, 1))
    maps = triplet_maps((3, 6, -1.0), (5, 6, 2.0))
    _, scores = found(decode_corners(maps, pairing=pairing, center=check))
    torch.testing.assert_close(scores, torch.tensor([2.0]).sigmoid())
    nowhere = triplet_maps()
    assert not found(decode_corners(nowhere, pairing=pairing, center=check))[0]
    assert len(found(decode_corners(nowhere, pairing=pairing))[0]) == 2


def test_decoding_exports():
    class Decode(nn.Module):
        def forward(self, tl_heat, tl_shift, br_heat, br_shift, heatmap, offset):
            maps = {
                "tl": {"heatmap": tl_heat, "shift": tl_shift},
                "br": {"heatmap": br_heat, "shift": br_shift},
                "center": {"heatmap": heatmap, "offset": offset},
            }
            settings = {"pairing": CentripetalPairing(), "center": CenterCheck()}
            return tuple(decode_corners(maps, top_k=8, **settings))

    maps = triplet_maps((4, 6, -1.0), (10, 6, 3.0))
    inputs = tuple(value for side in maps.values() for value in side.values())
    exported = torch.export.export(Decode(), copy.deepcopy(inputs)).module()
    kept = Decode()(*inputs)[1] >= 0
    assert kept.sum() == 2
    for got, wanted in zip(exported(*inputs), Decode()(*inputs)):
        assert torch.equal(got[kept], wanted[kept])


def test_a_prepared_model_has_the_same_maps():
    model = tiny_model(*ENABLED, *CASCADE).eval()
    with torch.no_grad():
        pixels, _ = model.preprocess_image([example()])
        prepared = prepare_for_inference(model, "float32").last_maps(pixels)
        for point, maps in model.last_maps(pixels).items():
            for name, value in maps.items():
                torch.testing.assert_close(prepared[point][name], value, rtol=1e-4, atol=1e-5)


def test_targets_of_centres():
    boxes = torch.tensor(
        [[8.0, 8.0, 41.0, 30.0], [50.0, 40.0, 90.0, 70.0]]
    )  # the second is clipped
    make = CornerTargetGenerator(2, center=True, min_overlap=0.3)
    targets = make(boxes, torch.tensor([0, 1]), (64, 64))
    plain = CornerTargetGenerator(2, min_overlap=0.3)(boxes, torch.tensor([0, 1]), (64, 64))
    assert torch.equal(targets.cells[:, :2], plain.cells)
    assert torch.equal(targets.offsets[:, :2], plain.offsets)
    cells, offsets = targets.cells[:, 2], targets.offsets[:, 2]
    assert cells.tolist() == [4 * 16 + 6, 13 * 16 + 14]  # middles (24.5, 19), (57, 52)
    torch.testing.assert_close(offsets, torch.tensor([[0.125, 0.75], [0.25, 0.0]]))
    heat, corners = draw_heatmaps([targets]).dense()[0][0], draw_heatmaps([plain]).dense()[0][0]
    assert torch.equal(heat[:2], corners)
    radius = targets.radii[0].item()
    assert radius >= 1 and heat[2, 0, 4, 6] == 1
    sigma = (2 * radius + 1) / 5
    assert heat[2, 0, 4, 7].item() == pytest.approx(math.exp(-1 / (2 * sigma**2)), abs=1e-6)
    larger = targets.padded((64, 128))
    assert larger.cells[:, 2].tolist() == [4 * 32 + 6, 13 * 32 + 14]
    assert torch.equal(larger.offsets[:, 2], offsets)


@pytest.mark.parametrize("pairing", [[], CENTRIPETAL], ids=["embedding", "centripetal"])
def test_trains_and_detects(pairing):
    model = tiny_model(*pairing, *ENABLED, *CASCADE)
    batch = [example([8, 8, 40, 30], [20, 16, 50, 60]), example()]
    losses = model(batch)
    assert list(losses)[-2:] == ["loss_center_heatmap", "loss_center_offset"]
    assert losses["loss_center_offset"] > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    (result,) = model.eval()([{k: v for k, v in batch[0].items() if k != "instances"}])
    assert result["instances"].pred_boxes.tensor.isfinite().all()
    architecture = infer_architecture(model.state_dict())
    assert architecture["MODEL.CORNERNET.CENTER.ENABLED"]
    assert architecture["MODEL.CORNERNET.CASCADE_POOLING"]
    plain = infer_architecture(tiny_model().state_dict())
    assert not plain["MODEL.CORNERNET.CENTER.ENABLED"]
    assert not plain["MODEL.CORNERNET.CASCADE_POOLING"]


@pytest.mark.parametrize("convention", ["default", "official"])
def test_the_losses_by_hand(convention):
    """Of maps that are flat: the focal loss over the centres, smooth L1 over the objects."""
    model = tiny_model(*ENABLED, "MODEL.CORNERNET.LOSS.CONVENTION", convention)
    for head in model.head:
        for branch in (head.center.heatmap, head.center.offset):
            nn.init.zeros_(branch[1].weight)
            nn.init.zeros_(branch[1].bias)
    x = [example([8, 8, 39, 30], [17, 16, 50, 61])]
    losses = model(x)
    targets = model.corner_targets(x, model.canvas([(64, 64)]))
    heat = targets[0].dense_heatmaps()[2]
    half = math.log(2) / 4  # p = 1/2: (1 - p)^2 log p
    summed = half * (((1 - heat[heat < 1]) ** 4).sum() + (heat == 1).sum())
    torch.testing.assert_close(losses["loss_center_heatmap"], summed / 2, rtol=1e-4, atol=0)
    offset = nn.functional.smooth_l1_loss(
        torch.zeros(2, 2), targets[0].offsets[:, 2], reduction="sum"
    )
    torch.testing.assert_close(losses["loss_center_offset"], offset / 2, rtol=1e-4, atol=0)


def test_every_setting_arrives():
    model = tiny_model(*ENABLED, "MODEL.CORNERNET.CENTER.PARTS", [1, 3])
    assert model.corner_inference.decoding["center"] == CenterCheck((1, 3))
    assert tiny_model().corner_inference.decoding["center"] is None
    with pytest.raises(ValueError, match="CENTER.PARTS must be two odd numbers, got .2, 3."):
        tiny_model(*ENABLED, "MODEL.CORNERNET.CENTER.PARTS", [2, 3])


def test_a_view_is_checked_by_its_own_centres():
    """Every scale and mirror image, where the release takes the centres of scale 1 alone."""
    model = tiny_model(*ENABLED, *CENTRIPETAL, f"{SETTINGS}.TOLERANCE", 5.0)
    test = ["MODEL.CORNERNET.TEST.SCALES", [0.5, 2.0], "MODEL.CORNERNET.TEST.FLIP", True]
    views = tiny_model(*ENABLED, *CENTRIPETAL, *test, f"{SETTINGS}.TOLERANCE", 5.0)
    views.load_state_dict(model.state_dict())
    with torch.no_grad():
        result = views.eval().inference([example()], do_postprocess=False)[0]
    assert len(result)


def test_diagnosis_follows_the_check():
    inference = CornerInference(center=CenterCheck(), min_score=0.0)
    maps = triplet_maps((4, 6, -1.0))
    canvas = Canvas.fit([(64, 64)], 64, 4)
    stages = trace(inference, CentripetalPairing(), maps, canvas, (64, 64))
    table = stages.pairs
    boxes = {tuple(box): i for i, box in enumerate(table.boxes)}
    right, left = boxes[32, 12, 48, 36], boxes[8, 12, 24, 36]
    assert table.accepted[[left, right]].all()
    assert table.confirmed[left] and not table.confirmed[right]
    assert table.kept[left] and not table.kept[right]
    assert table.scores[left] == pytest.approx(stages.detections.scores[0])


def test_oracle_rows_of_a_model_with_centres(monkeypatch):
    model = tiny_model(*ENABLED).eval()
    seen = []

    class Evaluator:
        def reset(self):
            pass

        def process(self, inputs, outputs):
            seen.append(len(outputs[0]["instances"]))

        def evaluate(self):
            return {"bbox": {"AP": 0.0}}

    monkeypatch.setattr("cornernet_d2.diagnosis.oracle.build_evaluator", lambda *args: Evaluator())
    oracle = Oracle(None, "", model, model.corner_inference)
    x = example([8, 8, 40, 30], [20, 16, 50, 60])
    with torch.no_grad():
        pixels, canvas = model.preprocess_image([x])
        oracle.add(x, canvas, model.last_maps(pixels))
    rows = oracle.results()
    assert list(rows) == list(CENTER_ROWS) and len(seen) == len(CENTER_ROWS)
    assert dict(zip(rows, seen))["heatmap", "offset", "pairing", "center"] == 2


class TestRelease:
    """What compat/centernet.py says of their test loop; its numbers are pinned by the parity."""

    def candidates(self, pairs, centers):
        """Pairs: box, score; centres: x, y, score. One class, one image."""
        boxes, scores = (torch.tensor([row[i] for row in pairs])[None] for i in (0, 1))
        classes = torch.zeros(1, len(pairs), dtype=torch.int64)
        found = Pairs(boxes, scores, scores[..., None].expand(-1, -1, 2), classes)
        rows = torch.tensor(centers).view(1, -1, 3)
        classes = torch.zeros(rows.shape[:2], dtype=torch.int64)
        found = with_centers(found, rows[..., 2], classes, rows[..., :2])
        fields = [field[0] for field in found]
        return Candidates(*fields, torch.zeros_like(fields[3]))

    def test_the_first_centre_counts_not_the_best(self):
        inference = CenterNetInference()
        pairs = [([0.0, 0.0, 30.0, 30.0], 0.5), ([0.0, 0.0, 300.0, 300.0], 0.9)]
        checked = inference.checked(self.candidates(pairs, [(15, 15, 0.2), (16, 15, 0.8)]))
        assert checked.scores.tolist() == pytest.approx([(2 * 0.5 + 0.2) / 3, REJECTED])

    def test_scales_without_their_centres(self):
        inference = CenterNetInference()
        candidates = self.candidates([([0.0, 0.0, 30.0, 30.0], 0.5)], [(15, 15, 0.2)])
        assert len(inference.of_scale(candidates, 1.0).scores) == 2
        other = inference.of_scale(candidates, 0.6)
        assert len(other.scores) == 1
        with pytest.raises(ValueError, match="put 1.0 into MODEL.CORNERNET.TEST.SCALES"):
            inference.suppress(other)

    def test_needs_a_branch_for_centres(self):
        model = tiny_model("MODEL.CORNERNET.TEST.CONVENTION", "centernet")
        with pytest.raises(ValueError, match="needs a model with MODEL.CORNERNET.CENTER.ENABLED"):
            model.eval()([example()])

    def test_boxes_that_leave_the_image_are_rejected(self):
        canvas = Canvas.fit([(63, 63)], 64, 4, "center_black")
        boxes = torch.tensor(
            [[[-1.0, 2.0, 8.0, 8.0], [-1.5, 2.0, 8.0, 8.0], [2.0, 2.0, 8.0, 17.5]]]
        )
        scores = torch.full((1, 3), 0.5)
        zeros = torch.zeros(1, 3, dtype=torch.int64)
        pairs = Pairs(boxes, scores, scores[..., None].expand(-1, -1, 2), zeros)
        pairs = with_centers(pairs, scores, zeros, torch.full((1, 3, 2), -3.0))
        placed = CenterNetInference().to_image(pairs, canvas)
        assert placed.scores[0].tolist() == pytest.approx([0.5, REJECTED, REJECTED, 0.5, 0.5, 0.5])
        assert (placed.boxes >= 0).all()

    def test_the_presets(self):
        cfg = model_zoo.get_config("CenterNet-HG104")
        settings = cfg.MODEL.CORNERNET
        assert settings.CENTER.ENABLED and settings.CASCADE_POOLING
        assert (settings.TARGETS.MIN_OVERLAP, settings.TARGETS.RADIUS_FORMULA) == (0.7, "eccv18")
        assert (cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER) == (48, 480000)
        small = model_zoo.get_config("CenterNet-HG52")
        assert (small.MODEL.HOURGLASS.STACKS, small.SOLVER.MAX_ITER) == (1, 500000)

    @pytest.mark.parametrize(
        "name, top_k", [("CenterNet-HG104", 70), ("CornerNet-Squeeze-official", 20)]
    )
    def test_no_more_corners_are_kept_than_theirs(self, name, top_k):
        """For as many detections as there, 100; for more, more are."""
        cfg = model_zoo.get_config(name)
        inference = CenterNetInference(cfg)
        assert inference.decoding["top_k"] == top_k and inference.max_detections == 100
        assert CornerInference(cfg).decoding["top_k"] == 100
        cfg.TEST.DETECTIONS_PER_IMAGE = 300
        assert CenterNetInference(cfg).decoding["top_k"] == 300

    def test_trains_and_detects(self):
        release = ["MODEL.CORNERNET.LOSS.CONVENTION", "official"]
        release += ["MODEL.CORNERNET.TEST.CONVENTION", "centernet"]
        release += ["MODEL.CORNERNET.TEST.FLIP", True]
        model = tiny_model(*ENABLED, *CASCADE, *release)
        losses = model([example([8, 8, 40, 30]), example()])
        assert all(loss.isfinite() for loss in losses.values())
        result = model.eval().inference([example(), example()], do_postprocess=False)
        assert all(isinstance(each.pred_boxes, Boxes) for each in result)


def test_pictures_show_the_centres():
    """A row more: the third heat map beside its target; distances are those of the corners."""
    model = tiny_model(*ENABLED).eval()
    x = example([8, 8, 40, 30], [20, 16, 50, 60])
    with torch.no_grad():
        pixels, canvas = model.preprocess_image([x])
        maps = model.last_maps(pixels)
        (found,) = model.inference([x], do_postprocess=False)
    (targets,) = model.corner_targets([x], canvas)
    assert pair_distances(maps, targets, model.pairing).shape == (2, 2)
    plain = dataclasses.replace(
        targets,
        cells=targets.cells[:, :2],
        offsets=targets.offsets[:, :2],
        generator=dataclasses.replace(targets.generator, center=False),
    )
    corners = {name: maps[name] for name in ("tl", "br")}
    heights = [
        draw_example(model, x, *each, found).shape[0]
        for each in ((corners, plain), (maps, targets))
    ]
    assert heights[1] > 1.3 * heights[0]
