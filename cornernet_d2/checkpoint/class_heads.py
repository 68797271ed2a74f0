"""Another set of classes for trained weights: rows of the heat map convolutions, by name."""

import difflib
import math
from collections.abc import Mapping, Sequence

import torch

from .files import CheckpointError

# The heat maps' initial bias, as in modeling/corner_head.py: sigmoid(-2.19) = 0.1.
_PRIOR_LOGIT = -2.19
_HEATMAP = ".heatmap.1."  # the only layer of which the shape depends on the classes


def select_classes(
    weights: Mapping[str, torch.Tensor],
    old: Sequence[str],
    new: Sequence[str],
    *,
    allow_new: bool = False,
    seed: int = 0,
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Reorder, drop and add classes.

    Args:
        weights: state dict in our names.
        old: class names in the order of the weights' heat maps.
        new: class names wanted, in order. A class of ``old`` keeps its weights; others start as
            in a new network (PyTorch's initialisation of a convolution, the prior as bias).
        allow_new: whether ``new`` may hold names that are not in ``old``.
        seed: of the new classes' weights.

    Returns:
        the state dict with new heat map convolutions, and the names that were initialised.

    Raises:
        CheckpointError: a name twice, an unknown name without ``allow_new``, or as many names in
            ``old`` as do not fit the weights.
    """
    repeated = sorted({name for name in new if list(new).count(name) > 1})
    if repeated:
        raise CheckpointError(f"classes named twice: {', '.join(repeated)}")
    added = [name for name in new if name not in old]
    if added and not allow_new:
        hints = [_suggest(name, old) for name in added]
        raise CheckpointError(
            f"the source has no class {'; '.join(hints)}. Add --allow-new-classes to start such "
            "classes from scratch"
        )
    source_rows = [old.index(name) for name in new if name in old]
    kept_rows = [row for row, name in enumerate(new) if name in old]
    generator = torch.Generator().manual_seed(seed)
    result = dict(weights)
    for key, value in weights.items():
        if _HEATMAP not in key:
            continue
        if len(value) != len(old):
            raise CheckpointError(
                f"{key} has {len(value)} classes, but {len(old)} names are known for them; "
                "name them with --source-classes"
            )
        rows = value.new_empty((len(new), *value.shape[1:]))
        if value.dim() == 1:
            rows.fill_(_PRIOR_LOGIT)
        else:
            bound = 1 / math.sqrt(value[0].numel())
            rows.uniform_(-bound, bound, generator=generator)
        rows[kept_rows] = value[source_rows]
        result[key] = rows
    return result, added


def _suggest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"{name!r} (did you mean {close[0]!r}?)" if close else repr(name)
