"""The loss functions against eq. 1 and 3 to 6 of the paper, written out as loops."""

import functools
import math

import pytest
import torch

from cornernet_d2.heatmaps import Planes
from cornernet_d2.modeling.losses import heatmap_focal_loss, offset_loss, pull_push_loss


def slow_focal(logits, target, ignore, alpha, beta):
    total = 0.0
    cells = (t.flatten().tolist() for t in (logits, target, ignore))
    for x, y, hidden in zip(*cells):
        p = 1 / (1 + math.exp(-x))
        if y == 1:
            total -= (1 - p) ** alpha * math.log(p)
        elif not hidden:
            total -= (1 - y) ** beta * p**alpha * math.log(1 - p)
    return total


def slow_pull_push(tl, br, image_index, num_images, margin):
    pull, push = [0.0] * num_images, [0.0] * num_images
    for image in range(num_images):
        members = [k for k in range(len(tl)) if image_index[k] == image]
        means = {k: (tl[k] + br[k]) / 2 for k in members}
        n = len(members)
        for k in members:
            pull[image] += ((tl[k] - means[k]) ** 2 + (br[k] - means[k]) ** 2) / n
            for j in members:
                if j != k:
                    push[image] += max(0, margin - abs(means[k] - means[j])) / (n * (n - 1))
    return pull, push


@pytest.mark.parametrize("alpha, beta", [(2.0, 4.0), (1.5, 3.0)])
def test_focal_loss_is_equation_1(alpha, beta):
    g = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 3, 4, 5, generator=g, dtype=torch.float64)
    target = torch.rand(2, 3, 4, 5, generator=g, dtype=torch.float64)
    target[0, 1, 2, 3] = target[1, 0, 0, 0] = 1
    ignore = torch.rand(2, 3, 4, 5, generator=g) < 0.3
    ignore[0, 1, 2, 3] = True  # an object's own cell counts whatever covers it
    loss = heatmap_focal_loss(logits, target, ignore, alpha=alpha, beta=beta)
    assert loss.item() == pytest.approx(slow_focal(logits, target, ignore, alpha, beta), rel=1e-12)


def test_focal_loss_gradient():
    g = torch.Generator().manual_seed(1)
    logits = (4 * torch.randn(1, 2, 3, 3, generator=g, dtype=torch.float64)).requires_grad_()
    target = torch.rand(1, 2, 3, 3, generator=g, dtype=torch.float64)
    target[0, 0, 1, 1] = 1
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x: heatmap_focal_loss(x, target), (logits,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_focal_loss_stays_finite(dtype):
    """1 - 1e-4 rounds to 1 in half precision, so that the published clamp would give log(0)."""
    limit = torch.finfo(dtype).max
    logits = torch.tensor([-limit, -30.0, 0.0, 30.0, limit], dtype=dtype)
    logits = logits.repeat(2, 1)[None, None].requires_grad_()
    target = torch.zeros(1, 1, 2, 5)
    target[..., 0, :] = 1
    finite = logits.detach().abs() < limit
    loss = heatmap_focal_loss(logits.where(finite, logits.sign() * 1e4), target)
    assert loss.dtype == torch.float32 and loss.isfinite()
    loss.backward()
    assert logits.grad.isfinite().all()


def test_clamp_has_no_gradient_beyond():
    logits = torch.tensor([-20.0, -1.0, 1.0, 20.0])[None, None, None].requires_grad_()
    heatmap_focal_loss(logits, torch.zeros(1, 1, 1, 4), clamp=1e-4).backward()
    assert (logits.grad.flatten() != 0).tolist() == [False, True, True, False]


@pytest.mark.parametrize("counts", [(0, 0), (1, 0, 2), (5, 1, 0, 7), (500,)])
def test_pull_push_are_equations_4_and_5(counts):
    g = torch.Generator().manual_seed(2)
    index = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    index = index[torch.randperm(len(index), generator=g)]
    tl = torch.randn(len(index), generator=g, dtype=torch.float64)
    br = tl + 0.3 * torch.randn(len(index), generator=g, dtype=torch.float64)
    pull, push = pull_push_loss(tl, br, index, len(counts), margin=1.3)
    slow = slow_pull_push(tl.tolist(), br.tolist(), index.tolist(), len(counts), 1.3)
    torch.testing.assert_close(pull, torch.tensor(slow[0], dtype=torch.float64))
    torch.testing.assert_close(push, torch.tensor(slow[1], dtype=torch.float64))


def test_push_grows_with_the_objects_of_an_image_not_of_the_batch():
    """The largest table is images times objects of one image squared."""
    index = torch.arange(20).repeat_interleave(50)
    tl = torch.randn(1000, generator=torch.Generator().manual_seed(0), requires_grad=True)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, _same):
        pull_push_loss(tl, tl, index, 20)
    assert 0 < max(sizes) <= 20 * 50 * 50


def test_known_number_of_objects_changes_nothing():
    tl, index = torch.randn(5), torch.tensor([0, 2, 2, 0, 2])
    for a, b in zip(
        pull_push_loss(tl, -tl, index, 3), pull_push_loss(tl, -tl, index, 3, max_objects=3)
    ):
        assert torch.equal(a, b)


def _same(x):
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ignored", [False, True])
def test_focal_loss_keeps_its_arguments_alone(dtype, ignored):
    """At most 9 bytes a cell: logits, target and what is ignored."""
    logits = torch.randn(2, 3, 16, 16).to(dtype).requires_grad_()
    target = torch.rand(2, 3, 16, 16)
    saved = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: saved.update({x.data_ptr(): x.nbytes}) or x, _same
    ):
        loss = heatmap_focal_loss(logits, target, target > 0.9 if ignored else None)
    assert sum(saved.values()) == logits.numel() * (logits.element_size() + 4 + ignored)
    loss.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("clamp", [0.0, 1e-4])
def test_planes_alone_give_what_all_of_them_give(dtype, layout, clamp):
    """Loss and gradient to the bit, against the formula left to autograd."""
    g = torch.Generator().manual_seed(3)
    logits = (4 * torch.randn(2, 5, 6, 7, generator=g)).to(dtype).contiguous(memory_format=layout)
    numbers = (1, 4, 5)
    target, ignore = torch.zeros(10, 6, 7), torch.zeros(10, 6, 7, dtype=torch.bool)
    target[list(numbers)] = torch.rand(3, 6, 7, generator=g)
    target[4, 2, 3] = target[5, 0, 0] = 1
    ignore[list(numbers)] = torch.rand(3, 6, 7, generator=g) < 0.3
    planes = Planes(torch.tensor(numbers), numbers, (2, 5))

    def of(function, *truth):
        x = logits.clone(memory_format=torch.preserve_format).requires_grad_()
        loss = function(x, *truth)
        loss.backward()
        return loss, x.grad

    def plain(x, target, ignore):
        x = x if dtype == torch.float64 else x.float()
        log_p, log_not_p = (torch.nn.functional.logsigmoid(v) for v in (x, -x))
        if clamp:
            low, high = math.log(clamp), math.log1p(-clamp)
            log_p, log_not_p = log_p.clamp(low, high), log_not_p.clamp(low, high)
        weight = (1 - target).pow(4.0).masked_fill(ignore, 0)
        negative = weight * (2.0 * log_p).exp() * log_not_p
        return -torch.where(target == 1, (2.0 * log_not_p).exp() * log_p, negative).sum()

    focal = functools.partial(heatmap_focal_loss, clamp=clamp)
    dense = target.view(2, 5, 6, 7), ignore.view(2, 5, 6, 7)
    expected = of(plain, *dense)
    for found in (
        of(focal, *dense),
        of(focal, target[list(numbers)], ignore[list(numbers)], planes),
    ):
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
        assert found[1].dtype == dtype and found[1].stride() == logits.stride()


def test_offset_loss_is_smooth_l1_summed():
    prediction = torch.tensor([[[0.5, 3.0], [0.0, -2.0]]], dtype=torch.float64)
    target = torch.tensor([[[0.25, 0.5], [0.0, 0.5]]])
    # 0.5 d^2 below 1, |d| - 0.5 above: 0.03125 + 2.0 + 0 + 2.0
    assert offset_loss(prediction, target).item() == pytest.approx(4.03125)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    x = torch.randn(4, dtype=dtype)
    index = torch.zeros(4, dtype=torch.int64)
    losses = [*pull_push_loss(x, x, index, 1), offset_loss(x.view(1, 2, 2), torch.zeros(1, 2, 2))]
    assert all(loss.dtype == torch.float32 for loss in losses)
