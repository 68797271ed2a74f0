"""Normalisation of the losses: independent of the split by default, the authors' in `official`."""

import dataclasses
import weakref

import pytest
import torch
from torch import is_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cornernet_d2.compat.mmdet import MMDetCriterion
from cornernet_d2.compat.official import OfficialCriterion
from cornernet_d2.modeling import losses
from cornernet_d2.modeling.criterion import CornerCriterion
from cornernet_d2.modeling.pairing import EmbeddingPairing
from cornernet_d2.targets import CornerTargetGenerator

SIZE = (48, 64)  # of the canvas, pixels
CRITERIA = [CornerCriterion, OfficialCriterion, MMDetCriterion]
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


def losses_of(criterion, stacks, targets, counts=None, **kwargs):
    return criterion(stacks, criterion.prepare(targets, torch.device("cpu"), counts), **kwargs)


def part(maps, index):
    return {c: {k: v[index] for k, v in side.items()} for c, side in maps.items()}


@pytest.mark.parametrize("counts", [[0], [1], [2], [500], [0, 0], [1, 0, 2, 30]])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_any_number_of_objects(counts, criterion):
    stacks = [make_maps(len(counts), seed=s) for s in range(2)]
    for side in stacks[0].values():
        for value in side.values():
            value.requires_grad_()
    losses = losses_of(criterion(), stacks, make_targets(counts))
    assert list(losses) == NAMES
    sum(losses.values()).backward()
    for side in stacks[0].values():
        for value in side.values():
            assert value.grad is not None and value.grad.isfinite().all()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_parts_add_up_to_the_whole(criterion):
    """With the counts of the whole. Two objects share their cells, one has another class."""
    targets, maps = make_targets([3, 0, 7, 1]), make_maps(4)
    targets[2].cells[:2] = targets[2].cells[2]
    targets[2].classes[:3] = torch.tensor([0, 0, 1])
    criterion = criterion()
    whole = losses_of(criterion, [maps], targets)
    split = [slice(0, 1), slice(1, 4)]
    counts = sum(criterion.count(targets[s]) for s in split)
    parts = [losses_of(criterion, [part(maps, s)], targets[s], counts) for s in split]
    for name in NAMES:
        total = parts[0][name] + parts[1][name]
        torch.testing.assert_close(total, whole[name], rtol=1e-12, atol=0)


def test_official_embedding_losses_grow_with_the_batch():
    """What the default mends: twice the images, twice the pull and push loss."""
    targets, maps = make_targets([3]), make_maps(1)
    double = {c: {k: v.repeat(2, 1, 1, 1) for k, v in s.items()} for c, s in maps.items()}
    for criterion, factor in zip(CRITERIA, (1, 2, 2)):
        one = losses_of(criterion(), [maps], targets)
        two = losses_of(criterion(), [double], targets * 2)
        for name in ("loss_pull", "loss_push"):
            torch.testing.assert_close(two[name], factor * one[name])


def test_default_normalisation_by_hand():
    targets, maps = make_targets([2, 0]), make_maps(2)
    criterion = CornerCriterion(offset_weight=0.5, embedding_images=4)
    pairing = EmbeddingPairing(push_weight=0.3)
    losses = losses_of(criterion, [maps, maps], targets, pairing=pairing)
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
    official = losses_of(OfficialCriterion(), stacks, targets)
    mmdet = losses_of(MMDetCriterion(), stacks, targets)
    for name, factor in zip(NAMES, (1, 2, 2, 1)):
        torch.testing.assert_close(mmdet[name], factor * official[name], rtol=1e-3, atol=1e-6)


def test_crowd_cells_count_as_nothing():
    targets, maps = make_targets([1]), make_maps(1)
    loss = losses_of(CornerCriterion(), [maps], targets)["loss_heatmap"]
    hidden = targets[0].ignore_mask()[0, 1]
    assert hidden.any()
    maps["tl"]["heatmap"][0, 1][hidden] += 5
    assert torch.equal(losses_of(CornerCriterion(), [maps], targets)["loss_heatmap"], loss)


def test_mmdet_counts_the_last_offset_of_a_cell():
    """Also in half precision, where an offset is not what its target rounds to."""
    targets, maps = make_targets([4]), make_maps(1, dtype=torch.bfloat16)
    targets[0].cells[:3] = targets[0].cells[2]
    kept = dataclasses.replace(
        targets[0],
        **{k: getattr(targets[0], k)[2:] for k in ("cells", "offsets", "classes", "radii")},
    )
    all_, last = (
        losses_of(MMDetCriterion(), [maps], [t])["loss_offset"] for t in (targets[0], kept)
    )
    torch.testing.assert_close(all_, last)


def test_official_push_has_a_constant_for_a_single_object():
    targets, maps = make_targets([1]), make_maps(1, dtype=torch.float32)
    push, pull = (
        losses_of(OfficialCriterion(), [maps], targets)[f"loss_{k}"] for k in ("push", "pull")
    )
    assert push.item() == pytest.approx(0.1, rel=1e-3)
    usual = losses_of(CornerCriterion(embedding_images=1), [maps], targets)["loss_pull"]
    assert pull.item() == pytest.approx(usual.item() / 1.0001, rel=1e-6)


def test_a_step_costs_the_default_no_count_of_cells(monkeypatch):
    targets = make_targets([3, 4])
    monkeypatch.setattr(torch.Tensor, "unique", None)
    assert CornerCriterion().count(targets).tolist() == [7, 2]
    with pytest.raises(TypeError):
        OfficialCriterion().count(targets)


class TestManyClasses:
    """1,203 classes of which an image holds a few: the cost is that of the logits."""

    CLASSES, SIDE = 1203, 32

    def targets(self):
        make = CornerTargetGenerator(self.CLASSES)
        boxes = torch.tensor(
            [[8.0, 8, 100, 90], [20, 20, 60, 60], [4, 4, 30, 30], [0, 0, 128, 128]]
        )
        classes = torch.tensor([1202, 7, 0, 7])
        return [make(boxes, classes, (128, 128), boxes[:1], classes[:1]) for _ in range(2)]

    def stacks(self, dtype=torch.float32):
        sides = [make_maps(2, self.CLASSES, seed=s, dtype=dtype) for s in range(2)]
        side = self.SIDE
        g = torch.Generator().manual_seed(0)
        for maps in sides:
            for corner, channels in maps.items():
                for name, value in channels.items():
                    shape = (*value.shape[:2], side, side)
                    channels[name] = torch.randn(shape, generator=g).to(dtype).requires_grad_()
        return sides

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_memory_of_a_step(self, monkeypatch, dtype):
        """At most 2.5 times the logits, with pieces as small beside them as those of 511 px."""
        stacks, targets = self.stacks(dtype), self.targets()
        logits = sum(m[c]["heatmap"].nbytes for m in stacks for c in m)
        monkeypatch.setattr(losses, "_MAX_CELLS", losses._MAX_CELLS // (3 * 16))
        with PeakBytes() as memory:
            values = losses_of(CornerCriterion(), stacks, targets)
            sum(values.values()).backward()
        assert logits + memory.peak < 2.5 * logits

    def test_pieces_change_nothing(self, monkeypatch):
        """Several images in a piece, one, and some classes of one."""
        found = []
        for cells in (2**22, 1203 * 32 * 32, 2**18):
            monkeypatch.setattr(losses, "_MAX_CELLS", cells)
            stacks = self.stacks()
            loss = losses_of(CornerCriterion(), stacks, self.targets())["loss_heatmap"]
            loss.backward()
            found.append((loss, *(m[c]["heatmap"].grad for m in stacks for c in m)))
        for other in found[1:]:
            torch.testing.assert_close(other[0], found[0][0])
            assert all(torch.equal(a, b) for a, b in zip(other[1:], found[0][1:]))


class PeakBytes(TorchDispatchMode):
    """The most bytes of tensors made inside it that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self.seen = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        old = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if is_tensor(x)}
        for x in tree_leaves(out):
            if is_tensor(x) and x.untyped_storage()._cdata not in old:
                self.note(x.untyped_storage())
        return out

    def note(self, storage) -> None:
        if storage in self.seen:
            return
        size = storage.nbytes()
        self.seen.add(storage)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self.free, size)

    def free(self, size: int) -> None:
        self.alive -= size
