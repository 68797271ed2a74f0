"""The four losses of CornerNet as pure functions, always computed in float32 or better.

Law & Deng, "CornerNet", eq. 1 and 3 to 6. Letters: N images, C classes, M objects, h x w map
pixels. "tl" and "br" stand for the top-left and the bottom-right corner.

What the sums are divided by is :mod:`.criterion`'s matter.
"""

import math
from typing import Optional, Tuple

import torch
from torch.nn import functional as F

# The authors clamp sigmoid(heat map) to [1e-4, 1 - 1e-4] and add 1e-4 to their counts.
OFFICIAL_CLAMP = 1e-4
OFFICIAL_EPS = 1e-4


def heatmap_focal_loss(
    logits: torch.Tensor,
    target: torch.Tensor,
    ignore: Optional[torch.Tensor] = None,
    *,
    alpha: float = 2.0,
    beta: float = 4.0,
    clamp: float = 0.0,
) -> torch.Tensor:
    """Focal loss with Gaussian-softened negatives, summed over all cells (eq. 1 without 1 / N).

    Args:
        logits: (N, C, h, w), any floating dtype.
        target: same shape, 1 at corners, in [0, 1) elsewhere.
        ignore: bool, same shape or one that broadcasts to it: cells that count as nothing.
        alpha: exponent of the prediction's error.
        beta: exponent of a negative's distance from 1.
        clamp: probabilities are limited to [clamp, 1 - clamp], without gradient beyond.

    Returns:
        a scalar, float32 (float64 for float64 logits).
    """
    logits = _at_least_float32(logits)
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    if clamp > 0:
        low, high = math.log(clamp), math.log1p(-clamp)
        log_p, log_not_p = log_p.clamp(low, high), log_not_p.clamp(low, high)
    positive = target == 1
    negative_weight = (1 - target).pow(beta)
    if ignore is not None:
        negative_weight = negative_weight.masked_fill(ignore, 0)
    # p ** alpha as exp(alpha * log p) keeps its gradient finite at p = 0.
    loss = torch.where(
        positive,
        (alpha * log_not_p).exp() * log_p,
        negative_weight * (alpha * log_p).exp() * log_not_p,
    )
    return -loss.sum()


def pull_push_loss(
    tl: torch.Tensor,
    br: torch.Tensor,
    image_index: torch.Tensor,
    num_images: int,
    *,
    margin: float = 1.0,
    official: bool = False,
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Pull loss (eq. 4) and push loss (eq. 5) of each image.

    Args:
        tl, br: (M,) embeddings at the corners of M objects, any floating dtype.
        image_index: (M,) int64, the image that each object is in, in [0, num_images).
        num_images: N.
        margin: Delta, the distance beyond which two objects no longer push each other.
        official: the authors' counts, which add 1e-4 and, by their way
            of leaving out the pairs of an object with itself, a constant to an image's push loss.

    Returns:
        (pull, push), each (N,) float32 (float64 for float64 embeddings); 0 for images with too
        few objects to have any.
    """
    tl, br = _at_least_float32(tl), _at_least_float32(br)
    count = torch.bincount(image_index, minlength=num_images).to(tl.dtype)
    pairs = count * (count - 1)
    eps = OFFICIAL_EPS if official else 0.0
    floor = 0.0 if official else 1.0

    mean = (tl + br) / 2
    spread = (tl - mean) ** 2 + (br - mean) ** 2
    pull = spread.new_zeros(num_images).index_add(0, image_index, spread)
    pull = pull / (count + eps).clamp(min=floor)

    closeness = F.relu(margin - (mean[:, None] - mean[None, :]).abs())
    together = image_index[:, None] == image_index[None, :]
    if not official:
        together = together & ~torch.eye(len(mean), dtype=torch.bool, device=mean.device)
    per_object = (closeness * together).sum(dim=1)
    push = per_object.new_zeros(num_images).index_add(0, image_index, per_object)
    if official:
        push = push - count * count / (count + eps)
    push = push / (pairs + eps).clamp(min=floor)
    return pull, push


def offset_loss(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Smooth L1 loss of the offsets, summed over objects and coordinates (eq. 3 without 1 / N).

    Args:
        prediction: (M, ..., 2) as (x, y), map pixels, any floating dtype.
        target: same shape, in [0, 1).

    Returns:
        a scalar, float32 (float64 for float64 predictions).
    """
    prediction = _at_least_float32(prediction)
    return F.smooth_l1_loss(prediction, target.to(prediction.dtype), reduction="sum", beta=1.0)


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype == torch.float64 else x.float()
