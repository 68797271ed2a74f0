"""The config of a network, read off the shapes of its weights."""

import re
from collections.abc import Mapping
from typing import Any

import torch

from ..modeling.pairing import recognise_pairing
from .files import CheckpointError


def infer_architecture(weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Find the values of the config keys that give these weights' shapes.

    Args:
        weights: state dict of a CornerNet on an hourglass, in our names. Anything with a
            ``shape`` does for a tensor.

    Returns:
        config key -> value, for every key of MODEL.HOURGLASS and MODEL.CORNERNET on which
        shapes depend.

    Raises:
        CheckpointError: a weight from which a value follows is not there.
    """
    depth = 1 + max(
        (key.count("low2.") for key in weights if re.match(r"backbone\.stacks\.0\..*up1\.", key)),
        default=-1,
    )

    def channels(key: str) -> int:
        if key not in weights:
            raise CheckpointError(f"not a CornerNet on an hourglass: no weight {key}")
        return int(weights[key].shape[0])

    def count(prefix: str) -> int:
        pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
        return 1 + max((int(m[1]) for m in map(pattern.match, weights) if m), default=-1)

    corner = "head.0.tl."
    branch = {k.removeprefix(corner): v for k, v in weights.items() if k.startswith(corner)}
    levels = ["backbone.stacks.0." + "low2." * d + "up1" for d in range(depth)]
    levels.append("backbone.stacks.0" + ".low2" * max(depth, 1))
    fire = "backbone.stacks.0.up1.0.squeeze.weight" in weights
    width = "norm" if fire else "conv1"  # the layer of a block that has its output's channels
    return {
        "MODEL.BACKBONE.NAME": f"build_{'squeeze' if fire else 'hourglass'}_backbone",
        "MODEL.HOURGLASS.STACKS": count("backbone.stacks"),
        "MODEL.HOURGLASS.DEPTH": depth,
        "MODEL.HOURGLASS.WIDTHS": [channels(f"{level}.0.{width}.weight") for level in levels],
        "MODEL.HOURGLASS.BLOCKS": [count(level) for level in levels],
        "MODEL.HOURGLASS.STEM_WIDTH": channels("backbone.stem.0.weight"),
        "MODEL.HOURGLASS.OUT_CHANNELS": channels("backbone.out_convs.0.weight"),
        **recognise_pairing(branch),
        "MODEL.CORNERNET.CENTER.ENABLED": any(key.startswith("head.0.center.") for key in weights),
        "MODEL.CORNERNET.CASCADE_POOLING": "head.0.tl.pool.look1.weight" in weights,
        "MODEL.CORNERNET.NUM_CLASSES": channels("head.0.tl.heatmap.1.weight"),
        "MODEL.CORNERNET.HEAD_WIDTH": channels("head.0.tl.heatmap.0.weight"),
        "MODEL.CORNERNET.HEAD_KERNEL": int(weights["head.0.tl.heatmap.0.weight"].shape[-1]),
        "MODEL.CORNERNET.POOL_WIDTH": channels("head.0.tl.pool.p1.weight"),
    }
