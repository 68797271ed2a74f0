"""Normalisation of the losses: independent of the split by default, the authors' in `official`."""

import pytest
import torch

from cornernet_d2.modeling.criterion import CornerCriterion, TargetBatch
from cornernet_d2.targets import CornerTargetGenerator

SIZE = (48, 64)  # of the canvas, pixels
NAMES = ["loss_heatmap", "loss_pull", "loss_push", "loss_offset"]


def make_maps(num_images: int, num_classes: int = 3, seed: int = 0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    channels = {"heatmap": num_classes, "embedding": 1, "offset": 2}
    return {
        corner: {
            name: torch.randn(num_images, c, SIZE[0] // 4, SIZE[1] // 4, generator=g, dtype=dtype)
            for name, c in channels.items()
        }
        for corner in ("tl", "br")
    }


def make_targets(counts, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    generate = CornerTargetGenerator(num_classes=3)
    targets = []
    for count in counts:
        start = torch.rand(count, 2, generator=g) * torch.tensor([40.0, 30.0])
        boxes = torch.cat([start, start + 4 + 15 * torch.rand(count, 2, generator=g)], dim=1)
        classes = torch.randint(3, (count,), generator=g)
        crowd = torch.tensor([[10.0, 10.0, 30.0, 20.0]])
        targets.append(generate(boxes, classes, SIZE, crowd, torch.tensor([1])))
    return targets


def join(targets):
    return TargetBatch.join(targets, torch.device("cpu"))


def part(maps, index):
    return {c: {k: v[index] for k, v in side.items()} for c, side in maps.items()}


@pytest.mark.parametrize("counts", [[0], [1], [2], [500], [0, 0], [1, 0, 2, 30]])
@pytest.mark.parametrize("convention", ["default", "official", "mmdet"])
def test_any_number_of_objects(counts, convention):
    stacks = [make_maps(len(counts), seed=s) for s in range(2)]
    for side in stacks[0].values():
        for value in side.values():
            value.requires_grad_()
    losses = CornerCriterion(convention=convention)(stacks, join(make_targets(counts)))
    assert list(losses) == NAMES
    sum(losses.values()).backward()
    for side in stacks[0].values():
        for value in side.values():
            assert value.grad is not None and value.grad.isfinite().all()


@pytest.mark.parametrize("convention", ["default", "official", "mmdet"])
def test_parts_add_up_to_the_whole(convention):
    """With the counts of the whole. Two objects share their cells, one has another class."""
    targets, maps = make_targets([3, 0, 7, 1]), make_maps(4)
    targets[2].cells[:2] = targets[2].cells[2]
    targets[2].classes[:3] = torch.tensor([0, 0, 1])
    criterion = CornerCriterion(convention=convention)
    whole = criterion([maps], join(targets))
    counts = join(targets).counts
    split = [slice(0, 1), slice(1, 4)]
    parts = [criterion([part(maps, s)], join(targets[s]), counts) for s in split]
    for name in NAMES:
        total = parts[0][name] + parts[1][name]
        torch.testing.assert_close(total, whole[name], rtol=1e-12, atol=0)


def test_official_embedding_losses_grow_with_the_batch():
    """What the default mends: twice the images, twice the pull and push loss."""
    targets, maps = make_targets([3]), make_maps(1)
    double = {c: {k: v.repeat(2, 1, 1, 1) for k, v in s.items()} for c, s in maps.items()}
    for convention, factor in (("default", 1), ("official", 2), ("mmdet", 2)):
        criterion = CornerCriterion(convention=convention)
        one, two = criterion([maps], join(targets)), criterion([double], join(targets * 2))
        for name in ("loss_pull", "loss_push"):
            torch.testing.assert_close(two[name], factor * one[name])


def test_default_normalisation_by_hand():
    targets, maps = make_targets([2, 0]), make_maps(2)
    criterion = CornerCriterion(push_weight=0.3, offset_weight=0.5, embedding_images=4)
    losses = criterion([maps, maps], join(targets))
    y, x = targets[0].cells // (SIZE[1] // 4), targets[0].cells % (SIZE[1] // 4)
    object_offsets = targets[0].offsets
    e = [maps[c]["embedding"][0, 0, y[:, i], x[:, i]] for i, c in enumerate(("tl", "br"))]
    mean = (e[0] + e[1]) / 2
    pull = ((e[0] - mean) ** 2 + (e[1] - mean) ** 2).sum() / 2
    push = torch.relu(1 - (mean[0] - mean[1]).abs())
    offset = sum(
        torch.nn.functional.smooth_l1_loss(
            maps[c]["offset"][0, :, y[:, i], x[:, i]].T,
            object_offsets[:, i].double(),
            reduction="sum",
        )
        for i, c in enumerate(("tl", "br"))
    )
    # Two images, one of them empty; two objects; two equal stacks are averaged.
    torch.testing.assert_close(losses["loss_pull"], 0.1 * 4 * pull / 2)
    torch.testing.assert_close(losses["loss_push"], 0.3 * 4 * push / 2)
    torch.testing.assert_close(losses["loss_offset"], 0.5 * offset / 2)


def test_mmdet_differs_from_official_as_documented():
    """At two stacks the heat map and offset terms agree, pull and push count double."""
    targets = make_targets([3, 2])
    for target in targets:  # one object in a cell, so that cells and objects are as many
        assert len(target.cells[:, 0].unique()) == len(target)
    stacks = [make_maps(2, seed=s) for s in range(2)]
    official = CornerCriterion(convention="official")(stacks, join(targets))
    mmdet = CornerCriterion(convention="mmdet")(stacks, join(targets))
    for name, factor in zip(NAMES, (1, 2, 2, 1)):
        torch.testing.assert_close(mmdet[name], factor * official[name], rtol=1e-3, atol=1e-6)


def test_crowd_cells_count_as_nothing():
    targets, maps = make_targets([1]), make_maps(1)
    loss = CornerCriterion()([maps], join(targets))["loss_heatmap"]
    hidden = targets[0].ignore_mask()[0, 1]
    assert hidden.any()
    maps["tl"]["heatmap"][0, 1][hidden] += 5
    assert torch.equal(CornerCriterion()([maps], join(targets))["loss_heatmap"], loss)


def test_unknown_convention_is_named():
    with pytest.raises(ValueError, match="MODEL.CORNERNET.LOSS.CONVENTION"):
        CornerCriterion(convention="theirs")
