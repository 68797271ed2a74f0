"""Embeddings beyond the paper's: several dimensions, positions, a larger receptive field."""

import copy

import pytest
import torch
from test_pairing import example, found, tiny_model
from torch import nn

from cornernet_d2.checkpoint import infer_architecture
from cornernet_d2.modeling.decode import decode_corners
from cornernet_d2.modeling.losses import pull_push_loss
from cornernet_d2.modeling.outputs import OutputBranch
from cornernet_d2.modeling.pairing import EmbeddingPairing
from cornernet_d2.modeling.pairing.embedding import UNIT, PositionedBranch

KEY = "MODEL.CORNERNET.EMBEDDING"
BETTER = [f"{KEY}.DIM", 2, f"{KEY}.POSITION", True, f"{KEY}.DILATION", 3]


def maps_of(*values):
    """Two top-left corners and one bottom-right one, with embeddings (D,) each."""
    maps = {}
    for corner, cells in {"tl": [(1, 1), (4, 2)], "br": [(9, 9)]}.items():
        heatmap = torch.full((1, 1, 12, 12), -12.0)
        embedding = torch.full((1, len(values[0]), 12, 12), torch.nan)
        for i, (x, y) in enumerate(cells):
            heatmap[0, 0, y, x] = 2.0
            embedding[0, :, y, x] = torch.tensor(values[i if corner == "tl" else 2])
        maps[corner] = {"heatmap": heatmap, "embedding": embedding}
    return maps


@pytest.mark.parametrize("dim", [1, 3])
def test_pull_and_push_of_several_dimensions(dim):
    generator = torch.Generator().manual_seed(0)
    index = torch.tensor([0, 0, 0, 2])
    tl, br = (torch.randn(4, dim, generator=generator, dtype=torch.float64) for _ in range(2))
    pull, push = pull_push_loss(tl, br, index, 3, margin=2.0)
    mean = (tl + br) / 2
    each = ((tl - mean) ** 2 + (br - mean) ** 2).sum(1)
    torch.testing.assert_close(pull, torch.stack((each[:3].mean(), each[3] * 0, each[3])))
    pairs = [(i, k) for i in range(3) for k in range(3) if i != k]
    gaps = [max(0.0, 2.0 - (mean[i] - mean[k]).abs().sum().item()) for i, k in pairs]
    torch.testing.assert_close(push, torch.tensor([sum(gaps) / 6, 0, 0], dtype=torch.float64))


def test_one_dimension_is_the_paper_s_to_the_bit():
    torch.manual_seed(0)
    index = torch.arange(4).repeat_interleave(5)
    tl, br = torch.randn(20), torch.randn(20)
    results = []
    for shape in ((20,), (20, 1)):
        inputs = [x.clone().view(shape).requires_grad_() for x in (tl, br)]
        losses = pull_push_loss(*inputs, index, 4)
        sum(x.sum() for x in losses).backward()
        results.append([*losses, *(x.grad.flatten() for x in inputs)])
    assert all(torch.equal(a, b) for a, b in zip(*results))
    assert type(EmbeddingPairing().branches(4, 4, 3)["embedding"]) is OutputBranch


def test_distances_are_sums_over_the_dimensions():
    # The second top-left corner is 0.3 + 0.3 away: each dimension alone would do.
    maps = maps_of([0.2, 0.1], [0.3, 0.3], [0.0, 0.0])
    boxes, _ = found(decode_corners(maps, pairing=EmbeddingPairing(dim=2, threshold=0.5)))
    assert boxes == [(1, 1, 9, 9)]
    boxes, _ = found(decode_corners(maps, pairing=EmbeddingPairing(dim=2, threshold=0.7)))
    assert len(boxes) == 2


@pytest.mark.parametrize("size", [(6, 9), (5, 8)])
def test_the_branch_is_told_where_cells_are(size):
    branch = PositionedBranch(16, 16, 2, kernel=1)
    nn.init.zeros_(branch[0].weight)
    nn.init.zeros_(branch[0].bias)
    with torch.no_grad():
        for i in range(2):
            branch[0].weight[i, 16 + i] = 1.0
            branch[1].weight.zero_()[i, i] = 1.0
        branch[1].weight[0, 0] = 1.0
        branch[1].bias.fill_(0.0)
        x, y = branch(torch.randn(1, 16, *size))[0]
    half = (size[1] - 1) / 2, (size[0] - 1) / 2
    columns = ((torch.arange(size[1]) - half[0]) / UNIT).clamp(min=0)  # behind a ReLU
    rows = ((torch.arange(size[0]) - half[1]) / UNIT).clamp(min=0)
    torch.testing.assert_close(x, columns.expand(size))
    torch.testing.assert_close(y, rows[:, None].expand(size))


def test_dilation_reaches_farther_for_as_many_parameters():
    x = torch.zeros(1, 16, 9, 9)
    x[0, :, 4, 4] = 1.0
    counts, reach = [], []
    for dilation in (1, 3):
        branch = EmbeddingPairing(dilation=dilation).branches(16, 16, 3)["embedding"]
        counts.append(sum(p.numel() for p in branch.parameters()))
        with torch.no_grad():
            nn.init.ones_(branch[0].weight)
            nn.init.ones_(branch[1].weight)
            response = branch(x)[0, 0] - branch(torch.zeros_like(x))[0, 0]
        reach.append(response.nonzero().amin().item())
    assert counts[0] == counts[1] and reach == [3, 1]


def test_trains_detects_and_is_recognised():
    model = tiny_model(*BETTER)
    losses = model([example([8, 8, 40, 30], [20, 16, 50, 60]), example()])
    assert list(losses) == ["loss_heatmap", "loss_pull", "loss_push", "loss_offset"]
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert model.head[-1].tl.embedding[0].dilation == (3, 3)
    x = {k: v for k, v in example().items() if k != "instances"}
    (result,) = model.eval()([x])
    assert result["instances"].pred_boxes.tensor.isfinite().all()
    architecture = infer_architecture(model.state_dict())
    assert architecture[f"{KEY}.DIM"] == 2 and architecture[f"{KEY}.POSITION"]
    plain = infer_architecture(tiny_model().state_dict())
    assert plain[f"{KEY}.DIM"] == 1 and not plain[f"{KEY}.POSITION"]


def test_nearest_neighbours_in_several_dimensions():
    pairing = EmbeddingPairing(dim=2)

    class Batch:
        objects = (3, 1, 0)

    mean = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 3.0], [9.0, 9.0]])
    shift = torch.tensor([0.1, -0.1])
    values = {"embedding": [mean + shift, mean - shift]}
    found = pairing.statistics(values, Batch)
    assert found["embedding/within"].item() == pytest.approx(0.4)
    assert found["embedding/between"].item() == pytest.approx((2 + 2 + 3) / 3)


def test_the_head_exports():
    branch = PositionedBranch(16, 16, 2)
    x = torch.randn(2, 16, 8, 12)
    sizes = {2: torch.export.Dim("h", min=4, max=64), 3: torch.export.Dim("w", min=4, max=64)}
    sizes[0] = torch.export.Dim("batch")
    exported = torch.export.export(branch, (copy.deepcopy(x),), dynamic_shapes=(sizes,)).module()
    for each in (x, torch.randn(3, 16, 11, 7)):
        torch.testing.assert_close(exported(each), branch(each))


@pytest.mark.parametrize("key", ["DIM", "DILATION"])
def test_what_cannot_be(key):
    with pytest.raises(ValueError, match="EMBEDDING.DIM and DILATION must be at least 1"):
        tiny_model(f"{KEY}.{key}", 0)
