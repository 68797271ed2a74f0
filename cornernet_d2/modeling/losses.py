"""The losses of CornerNet as pure functions, always computed in float32 or better.

Law & Deng, "CornerNet", eq. 1 and 3 to 6. Letters: N images, C classes, M objects, P planes (one
an image and class), h x w map (cells). "tl" and "br" stand for the top-left and the bottom-right
corner.

What the sums are divided by is :mod:`.criterion`'s matter.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..heatmaps import Planes

# Cells whose loss is computed at once: bounds the memory, about 40 bytes a cell, of many classes.
_MAX_CELLS = 2**22


def heatmap_focal_loss(
    logits: Tensor,
    target: Tensor,
    ignore: Tensor | None = None,
    planes: Planes | None = None,
    *,
    alpha: float = 2.0,
    beta: float = 4.0,
    clamp: float = 0.0,
) -> Tensor:
    """Focal loss with Gaussian-softened negatives, summed over all cells (eq. 1 without 1 / N).

    The backward pass computes it anew, a piece at a time: nothing is kept but the arguments.

    Args:
        logits: (N, C, h, w), any floating dtype.
        target: same shape, 1 at corners, in [0, 1) elsewhere.
        ignore: bool, same shape or one that broadcasts to it: cells that count as nothing.
        planes: ``target`` and ``ignore`` are (P, h, w) and hold these planes alone; all others are
            0 and not ignored. Their ``shape`` is (N, C).
        alpha: exponent of the prediction's error.
        beta: exponent of a negative's distance from 1.
        clamp: probabilities are limited to [clamp, 1 - clamp], without gradient beyond.

    Returns:
        a scalar, float32 (float64 for float64 logits).
    """
    if ignore is not None:
        ignore = ignore.expand_as(target)
    return _FocalLoss.apply(logits, target, ignore, planes, (alpha, beta, clamp))


class _FocalLoss(torch.autograd.Function):
    """:func:`heatmap_focal_loss`, which saves no more than its arguments."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        ignore: Tensor | None,
        planes: Planes | None,
        exponents: tuple[float, float, float],
    ) -> Tensor:
        ctx.save_for_backward(logits, target, ignore)
        ctx.planes, ctx.exponents = planes, exponents
        dtype = torch.promote_types(logits.dtype, torch.float32)
        total = torch.zeros((), dtype=dtype, device=logits.device)
        for part, truth in _pieces(logits.shape, target, ignore, planes):
            total = total + _focal_sum(logits[part], truth, *exponents)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        logits, target, ignore = ctx.saved_tensors
        result = torch.empty_like(logits)
        again = torch.is_grad_enabled()  # the gradient is to be differentiated, too
        for part, truth in _pieces(logits.shape, target, ignore, ctx.planes):
            with torch.enable_grad():
                piece = logits[part] if again else logits[part].detach().requires_grad_()
                loss = _focal_sum(piece, truth, *ctx.exponents)
            result[part] = torch.autograd.grad(loss, piece, grad, create_graph=again)[0]
        return result, None, None, None, None


class _Truth(NamedTuple):
    """Target and ignored cells of a piece, of all its planes or of the ``chosen`` ones."""

    target: Tensor
    ignore: Tensor | None
    chosen: tuple[Tensor, Tensor] | None  # images and classes, numbered within the piece


def _pieces(
    shape: torch.Size, target: Tensor, ignore: Tensor | None, planes: Planes | None
) -> Iterator[tuple[tuple[slice, slice], _Truth]]:
    """Where parts of (N, C, h, w) are, several images or some classes of one that is too large."""
    num_images, num_classes, height, width = shape
    limit = max(1, _MAX_CELLS // max(1, height * width))  # planes
    images, classes = max(1, limit // max(1, num_classes)), max(1, min(limit, num_classes))
    for n in range(0, num_images, images):
        for c in range(0, num_classes, classes):
            part = (slice(n, n + images), slice(c, c + classes))
            within, chosen = part, None
            if planes is not None:
                # Several images have all their classes here, so that no plane lies between.
                first, last = n * num_classes + c, min(n + images, num_images) - 1
                within = planes.within(first, last * num_classes + min(c + classes, num_classes))
                index = planes.index[within] - n * num_classes
                chosen = (index // num_classes, index % num_classes - c)
            yield part, _Truth(target[within], None if ignore is None else ignore[within], chosen)


def _focal_sum(logits: Tensor, truth: _Truth, alpha: float, beta: float, clamp: float) -> Tensor:
    if truth.chosen is None:
        return -_focal_terms(logits, truth.target, truth.ignore, alpha, beta, clamp).sum()
    log_p, log_not_p = _log_probabilities(logits, clamp)
    terms = (alpha * log_p).exp() * log_not_p
    if len(truth.target):
        some = _focal_terms(logits[truth.chosen], truth.target, truth.ignore, alpha, beta, clamp)
        terms = terms.index_put(truth.chosen, some)
    return -terms.sum()


def _focal_terms(
    logits: Tensor,
    target: Tensor,
    ignore: Tensor | None,
    alpha: float,
    beta: float,
    clamp: float,
) -> Tensor:
    """Eq. 1's summands, any shape."""
    log_p, log_not_p = _log_probabilities(logits, clamp)
    negative_weight = (1 - target).pow(beta)
    if ignore is not None:
        negative_weight = negative_weight.masked_fill(ignore, 0)
    # p ** alpha as exp(alpha * log p) keeps its gradient finite at p = 0.
    return torch.where(
        target == 1,
        (alpha * log_not_p).exp() * log_p,
        negative_weight * (alpha * log_p).exp() * log_not_p,
    )


def _log_probabilities(logits: Tensor, clamp: float) -> tuple[Tensor, Tensor]:
    """log p and log(1 - p) in float32 or better."""
    logits = _at_least_float32(logits)
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    if clamp > 0:
        low, high = math.log(clamp), math.log1p(-clamp)
        log_p, log_not_p = log_p.clamp(low, high), log_not_p.clamp(low, high)
    return log_p, log_not_p


class PairSums(NamedTuple):
    """Of each image, in float32 or better: what eq. 4 and 5 divide, and by how many objects.

    Attributes:
        count: (N,) number of objects.
        spread: (N,) sum over objects of the squared distances of both corners from their mean.
        closeness: (N,) sum over ordered pairs of different objects of how far their means are
            within the margin.
    """

    count: Tensor
    spread: Tensor
    closeness: Tensor


def pull_push_sums(
    tl: Tensor,
    br: Tensor,
    image_index: Tensor,
    num_images: int,
    *,
    margin: float = 1.0,
    max_objects: int | None = None,
) -> PairSums:
    """The sums of :func:`pull_push_loss`, which has the arguments."""
    tl, br = (_at_least_float32(x if x.dim() > 1 else x[:, None]) for x in (tl, br))
    images = torch.arange(num_images, device=tl.device)
    # Objects of an image, numbered: quadratic in them, not in those of the whole batch.
    numbers = (image_index[:, None] == images).cumsum(0)
    if max_objects is None:
        max_objects = int(numbers.max()) if numbers.numel() else 0
    number = numbers.gather(1, image_index[:, None])[:, 0] - 1
    count = numbers[-1].to(tl.dtype) if len(numbers) else tl.new_zeros(num_images)

    mean = (tl + br) / 2  # (M, D)
    spread = ((tl - mean) ** 2 + (br - mean) ** 2).sum(dim=1)
    spread = spread.new_zeros(num_images).index_add(0, image_index, spread)

    table = mean.new_zeros(num_images, max_objects, mean.shape[1])
    table = table.index_put((image_index, number), mean)
    slots = torch.arange(max_objects, device=tl.device)
    taken = slots < count[:, None]
    pairs = taken[:, :, None] & taken[:, None] & (slots[:, None] != slots)
    closeness = F.relu(margin - (table[:, :, None] - table[:, None]).abs().sum(dim=3))
    return PairSums(count, spread, (closeness * pairs).sum(dim=(1, 2)))


def pull_push_loss(
    tl: Tensor,
    br: Tensor,
    image_index: Tensor,
    num_images: int,
    *,
    margin: float = 1.0,
    max_objects: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Pull loss (eq. 4) and push loss (eq. 5) of each image.

    Args:
        tl, br: (M,) embeddings at the corners of M objects, any floating dtype; or (M, D), of which
            eq. 4 takes the squared Euclidean distance, and eq. 5 the sum of absolute differences.
        image_index: (M,) int64, the image that each object is in, in [0, num_images).
        num_images: N.
        margin: Delta, the distance beyond which two objects no longer push each other.
        max_objects: most objects of one image, where known: else the device is asked, which waits.

    Returns:
        (pull, push), each (N,) float32 (float64 for float64 embeddings); 0 for images with too
        few objects to have any.
    """
    count, spread, closeness = pull_push_sums(
        tl, br, image_index, num_images, margin=margin, max_objects=max_objects
    )
    return spread / count.clamp(min=1), closeness / (count * (count - 1)).clamp(min=1)


def offset_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 loss of the offsets, summed over objects and coordinates (eq. 3 without 1 / N).

    Args:
        prediction: (M, ..., 2) as (x, y), cells, any floating dtype.
        target: same shape, in [0, 1].

    Returns:
        a scalar, float32 (float64 for float64 predictions).
    """
    prediction = _at_least_float32(prediction)
    return F.smooth_l1_loss(prediction, target.to(prediction.dtype), reduction="sum", beta=1.0)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
