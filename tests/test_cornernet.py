"""The meta-architecture end to end: any batch, any size, any mapper, other Detectron2 parts."""

import copy
import io

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from tiny_run import tiny_network

from cornernet_d2 import model_zoo
from cornernet_d2.canvas import Canvas
from cornernet_d2.modeling import CornerNet
from cornernet_d2.modeling.criterion import CRITERION_REGISTRY, CornerCriterion
from cornernet_d2.targets import CornerTargetGenerator

LOSSES = ["loss_heatmap", "loss_pull", "loss_push", "loss_offset"]


def tiny_model(*opts) -> CornerNet:
    torch.manual_seed(0)
    return build_model(tiny_network("CornerNet-HG104", *opts))


def detecting_model(*opts) -> CornerNet:
    """All embeddings equal, so that an untrained model pairs corners."""
    model = tiny_model(*opts).eval()
    for branch in (model.head[-1].tl, model.head[-1].br):
        torch.nn.init.zeros_(branch.embedding[1].weight)
        torch.nn.init.zeros_(branch.embedding[1].bias)
    return model


def example(objects: int, size=(63, 95), seed: int = 0) -> dict:
    g = torch.Generator().manual_seed(seed)
    start = torch.rand(objects, 2, generator=g) * torch.tensor([size[1] - 20.0, size[0] - 20.0])
    instances = Instances(size)
    instances.gt_boxes = Boxes(
        torch.cat([start, start + 3 + 16 * torch.rand(objects, 2, generator=g)], dim=1)
    )
    instances.gt_classes = torch.randint(3, (objects,), generator=g)
    image = torch.randint(256, (3, *size), generator=g, dtype=torch.uint8)
    return {"image": image, "instances": instances, "height": size[0], "width": size[1]}


def test_published_size():
    model = model_zoo.get_config("CornerNet-HG104.yaml")
    model.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_model(model).parameters())
    assert parameters == 201_035_212


def test_heat_maps_start_from_the_prior():
    for head in tiny_model().head:
        for branch in (head.tl, head.br):
            assert torch.all(branch.heatmap[1].bias == -2.19)


@pytest.mark.parametrize("objects", [[0], [1], [2], [500], [0, 3], [1, 0, 2]])
def test_trains_on_any_number_of_objects(objects):
    model = tiny_model()
    losses = model([example(n, seed=i) for i, n in enumerate(objects)])
    assert list(losses) == LOSSES
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("padding", ["bottom_right", "center_black", "center_mean"])
def test_takes_any_image_size(padding):
    model = detecting_model("MODEL.CORNERNET.PADDING", padding)
    batch = [example(2, size=s) for s in [(63, 63), (40, 97), (22, 30)]]
    sum(model.train()(batch).values()).backward()
    outputs = model.eval()(batch)
    for x, output in zip(batch, outputs):
        instances = output["instances"]
        assert instances.image_size == (x["height"], x["width"])
        boxes = instances.pred_boxes.tensor
        assert len(boxes) and (boxes >= 0).all()
        assert (boxes[:, 2] <= x["width"]).all() and (boxes[:, 3] <= x["height"]).all()


@pytest.mark.parametrize("padding", ["bottom_right", "center_black"])
@pytest.mark.parametrize("size", [(16, 16), (7, 3), (1, 1)])
def test_trains_on_one_tiny_image(padding, size):
    """Its innermost map would be one cell, which batch norm refuses."""
    model = tiny_model("MODEL.CORNERNET.PADDING", padding)
    x = example(1, size=size)
    x["instances"].gt_boxes = Boxes(torch.tensor([[0.0, 0.0, size[1], size[0]]]))
    losses = model([x])
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


def test_output_has_the_asked_size():
    model = detecting_model()
    x = example(0)
    small = model([x])[0]["instances"]
    large = model([{**x, "height": 126, "width": 190}])[0]["instances"]
    torch.testing.assert_close(large.pred_boxes.tensor, 2 * small.pred_boxes.tensor)
    raw = model.inference([x], do_postprocess=False)[0]
    torch.testing.assert_close(raw.pred_boxes.tensor, small.pred_boxes.tensor)


@pytest.mark.parametrize("keys", [(), ("MODEL.CORNERNET.TEST.FLIP", True)])
@pytest.mark.parametrize("sizes", [[(64, 96)] * 3, [(48, 48), (128, 112), (63, 95)]])
def test_an_image_is_detected_as_if_it_were_alone(keys, sizes):
    """Defect: the largest canvas of the batch was everyone's, top-k took corners in the padding."""
    model = detecting_model(*keys, "TEST.DETECTIONS_PER_IMAGE", 500)
    batch = [example(0, seed=i, size=size) for i, size in enumerate(sizes)]
    for x, output in zip(batch, model(batch)):
        (alone,), together = model([x]), output["instances"]
        assert len(alone["instances"]) == len(together) > 0
        for name, tolerance in (("scores", 1e-5), ("pred_classes", 0)):
            want, got = alone["instances"].get(name), together.get(name)
            torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)
        want, got = alone["instances"].pred_boxes.tensor, together.pred_boxes.tensor
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)


def test_integer_pixel_statistics():
    """Defect: [104, 114, 120] crashed, for PyTorch has no mean of integers."""
    keys = ("MODEL.PIXEL_MEAN", [104, 114, 120], "MODEL.PIXEL_STD", [74, 70, 71])
    images, _ = tiny_model(*keys).eval().preprocess_image([example(0)])
    floats = ("MODEL.PIXEL_MEAN", [104.0, 114.0, 120.0], "MODEL.PIXEL_STD", [74.0, 70.0, 71.0])
    assert torch.equal(images, tiny_model(*floats).eval().preprocess_image([example(0)])[0])


@pytest.mark.parametrize("padding", ["bottom_right", "center_black"])
@pytest.mark.parametrize("size", [(64, 96), (63, 95), (50, 70)])
def test_targets_of_mapper_and_model_agree(padding, size):
    """Whether the mapper made targets for the image or the model for its canvas."""
    model = tiny_model("MODEL.CORNERNET.PADDING", padding)
    x = example(5, size=size)
    canvas = model.preprocess_image([x])[1]
    (made,) = model.corner_targets([x], canvas)
    top, left = canvas.borders[0]
    boxes = x["instances"].gt_boxes.tensor + torch.tensor([left, top, left, top])
    expected = model.target_generator(boxes, x["instances"].gt_classes, canvas.size)
    assert torch.equal(made.cells, expected.cells) and made.map_size == expected.map_size
    # What the mapper gives for the bare image is taken where it fits, else made anew.
    bare = Canvas.fit([size], 16, 4)
    truth = x["instances"].gt_boxes.tensor, x["instances"].gt_classes
    ready = model.target_generator.on_canvas(bare, 0, *truth)
    (taken,) = model.corner_targets([{**x, "corner_targets": ready}], canvas)
    assert torch.equal(taken.cells, expected.cells)
    torch.testing.assert_close(taken.offsets, expected.offsets)
    assert (taken is ready) == (padding == "bottom_right")


@pytest.mark.parametrize("objects", [0, 3])
def test_targets_by_other_rules_are_made_anew(objects):
    """A mapper's classes, radii or canvas may not be the model's."""
    model = tiny_model("MODEL.CORNERNET.TARGETS.MIN_OVERLAP", 0.3)
    x = example(objects, size=(48, 60))
    canvas = model.preprocess_image([x])[1]
    truth = x["instances"].gt_boxes.tensor, x["instances"].gt_classes
    other = CornerTargetGenerator(80).on_canvas(Canvas.fit([(48, 60)], 128, 4), 0, *truth)
    (made,) = model.corner_targets([{**x, "corner_targets": other}], canvas)
    assert (made.generator, made.canvas_size) == (model.target_generator, canvas.size)
    assert len(made) == objects
    del x["instances"]
    with pytest.raises(ValueError, match="'instances'.*fit the canvas"):
        model.corner_targets([{**x, "corner_targets": other}], canvas)


def test_ignore_regions_survive_in_the_model():
    model = tiny_model()
    x = example(1)
    x["ignored"] = example(2, seed=1)["instances"]
    targets = model.corner_targets([x], model.preprocess_image([x])[1])
    assert len(targets[0].ignore_classes) == 2


def test_a_criterion_of_ones_own_is_named_in_the_config():
    class Doubled(CornerCriterion):
        def stack_weight(self, stacks: int) -> float:
            return 2 * super().stack_weight(stacks)

    CRITERION_REGISTRY.register(Doubled)
    try:
        model = tiny_model("MODEL.CORNERNET.LOSS.CONVENTION", "Doubled")
    finally:
        del CRITERION_REGISTRY._obj_map["Doubled"]
    batch = [example(3), example(1, seed=1)]
    own, usual = model(batch), tiny_model()(batch)
    assert type(model.criterion) is Doubled
    for name in LOSSES:
        torch.testing.assert_close(own[name], 2 * usual[name])


def test_unknown_criterion_is_refused():
    with pytest.raises(ValueError, match="LOSS.CONVENTION is 'theirs'.*default, mmdet, official"):
        tiny_model("MODEL.CORNERNET.LOSS.CONVENTION", "theirs")


def test_counts_are_those_of_the_targets():
    model = tiny_model()
    batch = [example(2), example(0), example(5, seed=3)]
    batch[0]["instances"].gt_boxes.tensor[0] = torch.tensor([5.0, 5.0, 5.0, 9.0])  # no width
    assert model.count_targets(batch).tolist() == [6, 3]


def test_accumulated_batches_equal_the_whole():
    model = tiny_model("MODEL.HOURGLASS.NORM", "FrozenBN", "MODEL.CORNERNET.NORM", "FrozenBN")
    model = model.double()
    batch = [example(n, seed=n) for n in (4, 0, 1)]
    whole = model(batch)
    model.loss_counts = model.count_targets(batch)
    parts = [model(batch[:1]), model(batch[1:])]
    for name in LOSSES:
        torch.testing.assert_close(parts[0][name] + parts[1][name], whole[name], rtol=1e-9, atol=0)


def test_missing_targets_are_named():
    with pytest.raises(ValueError, match="instances.*corner_targets.*a.jpg"):
        tiny_model()([{"image": example(0)["image"], "file_name": "a.jpg"}])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_autocast_keeps_losses_in_float32(dtype, channels_last):
    model = tiny_model("MODEL.CORNERNET.CHANNELS_LAST", channels_last)
    batch = [example(3), example(1, seed=1)]
    plain = copy.deepcopy(model)(batch)
    with torch.autocast("cpu", dtype=dtype):
        losses = model(batch)
        inference = copy.deepcopy(model).eval()(batch)
    for name in LOSSES:
        assert losses[name].dtype == torch.float32
        torch.testing.assert_close(losses[name], plain[name], rtol=0.05, atol=0.01)
    assert inference[0]["instances"].scores.isfinite().all()
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("level", ["stack", "block"])
def test_recomputation_changes_nothing(level):
    plain, recomputed = tiny_model(), tiny_model("MODEL.HOURGLASS.RECOMPUTE", level)
    batch = [example(3), example(1, seed=1)]
    for model in (plain, recomputed):
        sum(model(batch).values()).backward()
    for (name, a), b in zip(plain.named_parameters(), recomputed.parameters()):
        torch.testing.assert_close(a.grad, b.grad, msg=name, rtol=1e-4, atol=1e-5)
    for (name, a), b in zip(plain.named_buffers(), recomputed.buffers()):
        assert torch.equal(a, b), name


def test_training_logs_what_tells_a_run_apart():
    model = tiny_model("VIS_PERIOD", 1)
    with EventStorage() as storage:
        model([example(3), example(2, seed=1)])
        latest = storage.latest()
        assert latest["objects_per_batch"][0] == 5
        assert {"embedding/within", "embedding/between"} <= set(latest)
        ((name, picture, _),) = storage._vis_data
        assert name == "training" and picture.shape[0] == 3 and picture.std() > 0
    assert model.training


def test_pictures_are_drawn_where_they_are_written(monkeypatch):
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    with EventStorage() as storage:
        tiny_model("VIS_PERIOD", 1)([example(1)])
        assert not storage._vis_data


def test_pictures_need_a_period():
    with EventStorage() as storage:
        tiny_model()([example(1)])
        assert not storage._vis_data


def test_other_backbone_under_our_head():
    cfg = tiny_network("CornerNet-HG104", "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone")
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.CORNERNET.IN_FEATURES = ["p2"]
    torch.manual_seed(0)
    model = build_model(cfg)
    optimizer = torch.optim.SGD(model.parameters(), 1e-4)
    before = copy.deepcopy(model.backbone.fpn_output2.weight)
    sum(model([example(3)]).values()).backward()
    optimizer.step()
    assert not torch.equal(model.backbone.fpn_output2.weight, before)
    assert model.eval()([example(0)])[0]["instances"].image_size == (63, 95)


def test_feature_of_another_stride_is_refused():
    cfg = tiny_network("CornerNet-HG104", "MODEL.CORNERNET.IN_FEATURES", ["stack1", "p9"])
    with pytest.raises(ValueError, match="MODEL.CORNERNET.IN_FEATURES names .'p9'"):
        build_model(cfg)


def test_our_backbone_under_another_head():
    """RetinaNet on the hourglass's feature map."""
    cfg = tiny_network(
        "CornerNet-HG104", "MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.HOURGLASS.STACKS", 1
    )
    cfg.MODEL.RETINANET.IN_FEATURES = ["stack1"]
    cfg.MODEL.RETINANET.NUM_CLASSES = 3
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16, 32]]
    torch.manual_seed(0)
    model = build_model(cfg)
    with EventStorage():
        losses = model([example(3, size=(64, 96))])
    sum(losses.values()).backward()
    grads = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert grads and all(g.isfinite().all() for g in grads)


def test_state_dict_survives_the_file():
    model, other = tiny_model(), tiny_model()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
