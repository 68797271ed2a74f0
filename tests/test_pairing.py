"""What puts corners together: rules, losses and head of each kind, and kinds of one's own."""

import copy
import math

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from cornernet_d2 import add_cornernet_config, model_zoo
from cornernet_d2.checkpoint import infer_architecture
from cornernet_d2.modeling.decode import decode_corners
from cornernet_d2.modeling.outputs import OutputBranch
from cornernet_d2.modeling.pairing import (
    PAIRING_REGISTRY,
    CentralRegion,
    CentripetalPairing,
    EmbeddingPairing,
    LogSize,
    Match,
    Pairing,
    build_pairing,
)

KEY = "MODEL.CORNERNET.PAIRING"
SETTINGS = "MODEL.CORNERNET.CENTRIPETAL"
GUIDED = [KEY, "centripetal", f"{SETTINGS}.GUIDED", True]


def tiny_model(*opts):
    cfg = model_zoo.get_config("CornerNet-HG104.yaml")
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "MODEL.HOURGLASS.DEPTH", 1, "MODEL.HOURGLASS.WIDTHS", [8, 8]]
        + ["MODEL.HOURGLASS.BLOCKS", [1, 1], "MODEL.HOURGLASS.STEM_WIDTH", 8]
        + ["MODEL.HOURGLASS.OUT_CHANNELS", 8, "MODEL.CORNERNET.NUM_CLASSES", 3]
        + ["MODEL.CORNERNET.HEAD_WIDTH", 8, "MODEL.CORNERNET.POOL_WIDTH", 8, *opts]
    )
    torch.manual_seed(0)
    return build_model(cfg)


def example(*boxes):
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4))
    instances.gt_classes = torch.zeros(len(boxes), dtype=torch.int64)
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8)
    return {"image": image, "instances": instances, "height": 64, "width": 64}


def crowd_maps(size=16):
    """Two equal boxes, 4 x 6 cells, side by side: "shift" knows their size, scores differ."""
    maps = {}
    for corner, cells in {"tl": [(2, 3), (8, 3)], "br": [(6, 9), (12, 9)]}.items():
        heatmap = torch.full((1, 1, size, size), -12.0)
        shift = torch.full((1, 2, size, size), torch.nan)
        for (x, y), score in zip(cells, (2.0, 1.0)):
            heatmap[0, 0, y, x] = score
            shift[0, :, y, x] = torch.tensor([math.log(2.0), math.log(3.0)])
        maps[corner] = {"heatmap": heatmap, "shift": shift}
    return maps


def found(pairs):
    kept = pairs.scores[0] >= 0
    return [tuple(box) for box in pairs.boxes[0][kept].tolist()], pairs.scores[0][kept]


@pytest.mark.parametrize("rule", [LogSize(), CentralRegion()], ids=["log size", "region"])
def test_equal_neighbours_are_told_apart(rule):
    """Where an embedding has to encode the place: the far corners make a box of 10 x 6 cells."""
    boxes, scores = found(decode_corners(crowd_maps(), pairing=CentripetalPairing(rule=rule)))
    assert boxes == [(2, 3, 6, 9), (8, 3, 12, 9)]
    torch.testing.assert_close(scores, torch.tensor([2.0, 1.0]).sigmoid())


@pytest.mark.parametrize("corner, axis", [("tl", 0), ("tl", 1), ("br", 0), ("br", 1)])
@pytest.mark.parametrize("sign", [1, -1])
def test_log_size_weighs_the_worst_of_four_numbers(corner, axis, sign):
    pairing = CentripetalPairing(rule=LogSize(0.5))
    maps = crowd_maps()
    maps[corner]["shift"][:, axis] += sign * 0.3
    maps["br" if corner == "tl" else "tl"]["shift"][:, axis] += 0.1  # less: does not count
    boxes, scores = found(decode_corners(maps, pairing=pairing))
    assert len(boxes) == 2
    expected = torch.tensor([2.0, 1.0]).sigmoid() * math.exp(-2 * (0.3 / 0.5) ** 2)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-6)
    maps[corner]["shift"][:, axis] += sign * 0.21
    assert not found(decode_corners(maps, pairing=pairing))[0]


def test_log_size_has_no_scale():
    """Maps of twice the size, boxes of twice the size: the same pairs and scores."""
    small, large = crowd_maps(), crowd_maps(32)
    for corner, side in large.items():
        heat = small[corner]["heatmap"]
        side["heatmap"] = torch.full((1, 1, 32, 32), -12.0)
        side["heatmap"][..., ::2, ::2] = heat
        side["shift"] = (small[corner]["shift"] + math.log(2)).repeat_interleave(2, 2)
        side["shift"] = side["shift"].repeat_interleave(2, 3)
    pairing = CentripetalPairing()
    (boxes, scores), (twice, same) = (
        found(decode_corners(maps, pairing=pairing)) for maps in (small, large)
    )
    assert twice == [tuple(2 * x for x in box) for box in boxes] and torch.equal(scores, same)


def test_central_region_follows_its_numbers():
    """A box of 4 x 6 cells; the top-left corner's centre is 0.6 cells right of the middle."""
    maps = crowd_maps()
    maps["tl"]["shift"][:, 0] = math.log(2.6)

    def accepts(cell_size=(4.0, 4.0), **settings):
        pairing = CentripetalPairing(rule=CentralRegion(**settings))
        return found(decode_corners(maps, pairing=pairing, cell_size=cell_size))

    assert len(accepts(mu_small=0.31)[0]) == 2 and not accepts(mu_small=0.29)[0]
    # 24 cells of 4 x 4 pixels are 384 pixels^2, of 8 x 8 they are 1536
    assert not accepts(mu_small=0.31, mu_large=0.29, large_area=383)[0]
    assert accepts(mu_small=0.31, mu_large=0.29, large_area=385)[0]
    assert not accepts((8.0, 8.0), mu_small=0.31, mu_large=0.29, large_area=385)[0]
    # The centres span 0.6 x 1 cells, the region 2 x 3.
    maps["br"]["shift"][:, 1] = math.log(2.0)
    assert accepts(mu_small=0.5, max_span=0.11)[0] and not accepts(mu_small=0.5, max_span=0.09)[0]
    scores = accepts(mu_small=0.5)[1], accepts(mu_small=0.5, weighted=False)[1]
    torch.testing.assert_close(scores[0], scores[1] * math.exp(-0.1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("opts", [[KEY, "centripetal"], GUIDED], ids=["plain", "guided"])
def test_trains_and_detects(opts):
    model = tiny_model(*opts)
    names = ["loss_heatmap", "loss_centripetal", "loss_guiding", "loss_offset"]
    if opts != GUIDED:
        names.remove("loss_guiding")
    batch = [example([8, 8, 40, 30], [20, 16, 50, 60]), example()]
    with EventStorage() as storage:
        losses = model(batch)
        assert "shift/error" in storage.latest() and "embedding/within" not in storage.latest()
    assert list(losses) == names
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    empty = model([example()])
    assert empty["loss_centripetal"] == 0
    (result,) = model.eval()([{k: v for k, v in batch[0].items() if k != "instances"}])
    assert result["instances"].pred_boxes.tensor.isfinite().all()
    assert infer_architecture(model.state_dict())[KEY] == "centripetal"
    assert infer_architecture(model.state_dict())[f"{SETTINGS}.GUIDED"] == (opts == GUIDED)


def test_the_losses_by_hand():
    """Smooth L1 to the log of half the size, over the objects; shifts start at LOG_SIZE."""
    model = tiny_model(KEY, "centripetal", f"{SETTINGS}.LOG_SIZE", 1.25, f"{SETTINGS}.WEIGHT", 3.0)
    for head in model.head:
        for branch in (head.tl, head.br):
            assert (branch.shift[1].bias == 1.25).all()
            nn.init.zeros_(branch.shift[1].weight)
    loss = model([example([8, 8, 39, 30], [17, 16, 50, 61])])["loss_centripetal"]
    sizes = torch.tensor([[31.0, 22.0], [33.0, 45.0]]) / 4
    expected = nn.functional.smooth_l1_loss(
        torch.full((2, 2), 1.25), (sizes / 2).log(), reduction="sum"
    )
    torch.testing.assert_close(loss, 3 * 2 * expected / 2)


def test_the_guiding_shift_ends_at_the_centre():
    model = tiny_model(*GUIDED)
    values = {"shift": [torch.zeros(1, 2)] * 2, "guiding_shift": []}
    # Corners at cells (2.25, 2) and (9.75, 7.5), the centre at (6, 4.75).
    for inwards in ([4.0, 2.75], [3.0, 2.25]):
        values["guiding_shift"].append(torch.tensor([inwards]))
    x = example([9, 8, 39, 30])
    canvas = model.canvas([(64, 64)])
    batch = model.criterion.prepare(model.corner_targets([x], canvas), torch.device("cpu"))
    norms = model.criterion.normalizers(batch.counts, torch.float32)
    losses = model.pairing.losses(values, batch, norms, model.criterion)
    assert losses["guiding"] == 0 and losses["centripetal"] > 0


def test_the_authors_division_by_no_objects_is_not_followed():
    preset = ["MODEL.CORNERNET.LOSS.CONVENTION", "centripetalnet"]
    losses = tiny_model(*GUIDED, *preset)([example(), example()])
    assert losses["loss_centripetal"] == losses["loss_guiding"] == losses["loss_offset"] == 0
    sum(losses.values()).backward()


def test_the_shift_does_not_train_its_guide():
    model = tiny_model(*GUIDED)
    model([example([8, 8, 40, 30])])["loss_centripetal"].backward()
    branch = model.head[-1].tl
    assert branch.guiding_shift[1].weight.grad is None
    assert branch.shift.places.weight.grad.any()


def test_replacing_the_embedding_costs_one_channel_a_corner():
    plain, shifts = tiny_model(), tiny_model(KEY, "centripetal")
    counts = [sum(p.numel() for p in model.parameters()) for model in (plain, shifts)]
    assert counts[1] - counts[0] == len(plain.head) * 2 * (8 + 1)


def test_embeddings_are_the_default():
    default = build_pairing(model_zoo.get_config("CornerNet-HG104"))
    assert isinstance(default, EmbeddingPairing) and vars(default) == vars(EmbeddingPairing())


def test_every_setting_reaches_the_pairing():
    cfg = get_cfg()
    add_cornernet_config(cfg)
    cfg.MODEL.CORNERNET.LOSS.PULL_WEIGHT, cfg.MODEL.CORNERNET.LOSS.PUSH_WEIGHT = 0.2, 0.3
    cfg.MODEL.CORNERNET.LOSS.PUSH_MARGIN = 2.0
    cfg.MODEL.CORNERNET.TEST.EMBEDDING_THRESHOLD = 0.4
    pairing = build_pairing(cfg)
    assert vars(pairing) == {
        "dim": 1,
        "position": False,
        "dilation": 1,
        "weights": {"pull": 0.2, "push": 0.3},
        "margin": 2.0,
        "threshold": 0.4,
    }
    cfg.MODEL.CORNERNET.PAIRING = "centripetal"
    assert vars(build_pairing(cfg)) == vars(CentripetalPairing())
    settings = cfg.MODEL.CORNERNET.CENTRIPETAL
    settings.RULE, settings.GUIDED, settings.GUIDING_WEIGHT = "central_region", True, 0.1
    assert vars(build_pairing(cfg))["rule"] == CentralRegion()
    region = settings.REGION
    region.MU_SMALL, region.MU_LARGE, region.LARGE_AREA = 0.1, 0.2, 9.0
    region.MAX_SPAN, region.WEIGHTED = 0.5, False
    pairing = build_pairing(cfg)
    assert pairing.rule == CentralRegion(0.1, 0.2, 9.0, 0.5, False)
    assert pairing.weights == {"centripetal": 1.0, "guiding": 0.1}
    settings.RULE = "size"
    with pytest.raises(ValueError, match="CENTRIPETAL.RULE is 'size'; there are log_size, central"):
        build_pairing(cfg)
    cfg.MODEL.CORNERNET.PAIRING = "none"
    with pytest.raises(ValueError, match="PAIRING is 'none'; registered: .*centripetal, embedding"):
        build_pairing(cfg)


def test_a_kind_of_ones_own():
    """One class, registered: outputs, losses and rule come from it."""

    class Nearest(Pairing):
        outputs = decoded = ("width",)
        weights = {"width": 0.5}

        def branches(self, in_channels, width, kernel):
            return {"width": OutputBranch(in_channels, width, 1, kernel)}

        def losses(self, values, batch, norms, rules):
            return {"width": sum(x.abs().sum() for x in values["width"])}

        def match(self, tl, br, *, cell_size, origin=None):
            return Match((br.xy[:, None] - tl.xy[:, :, None])[..., 0] <= 5)

    PAIRING_REGISTRY._do_register("nearest", lambda cfg: Nearest())
    try:
        model = tiny_model(KEY, "nearest")
        losses = model([example([8, 8, 40, 30])])
        assert list(losses) == ["loss_heatmap", "loss_width", "loss_offset"]
        result = model.inference([example()], do_postprocess=False)[0]
        widths = result.pred_boxes.tensor[:, 2] - result.pred_boxes.tensor[:, 0]
        assert (widths <= 20).all()
        assert KEY not in infer_architecture(model.state_dict())
    finally:
        PAIRING_REGISTRY._obj_map.pop("nearest")


@pytest.mark.parametrize("rule", [LogSize(), CentralRegion()], ids=["log size", "region"])
def test_decoding_exports(rule):
    class Decode(nn.Module):
        def forward(self, tl_heat, tl_shift, br_heat, br_shift):
            maps = {
                "tl": {"heatmap": tl_heat, "shift": tl_shift},
                "br": {"heatmap": br_heat, "shift": br_shift},
            }
            return tuple(decode_corners(maps, top_k=8, pairing=CentripetalPairing(rule=rule)))

    maps = crowd_maps()
    inputs = tuple(value for side in maps.values() for value in side.values())
    exported = torch.export.export(Decode(), copy.deepcopy(inputs)).module()
    kept = Decode()(*inputs)[1] >= 0
    assert kept.sum() == 2
    for got, wanted in zip(exported(*inputs), Decode()(*inputs)):
        assert torch.equal(got[kept], wanted[kept])
