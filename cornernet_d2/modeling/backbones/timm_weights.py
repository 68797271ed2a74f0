"""Weights for timm's models from a file, and the input that they expect."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

# Layers of an inverted-residual block of the EfficientNet-PyTorch family -> timm's, for blocks with
# and without the convolution that widens.
_WIDENING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_AROUND = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def read_weights(path: str, model: nn.Module) -> dict[str, torch.Tensor]:
    """Read a state dict under timm's names; no code of the file is run.

    Args:
        path: what ``torch.save`` or safetensors wrote: the state dict of timm's whole classifier,
            or of the EfficientNet-PyTorch family (``_conv_stem``, ``_blocks.0``, ...).
        model: timm's whole model, for its names; may be on the meta device.

    Raises:
        ValueError: there is no such file, or it lacks weights of the model.
    """
    if not os.path.isfile(path):
        raise ValueError(f'MODEL.TIMM.PRETRAINED is {path!r}: no file, nor "hub" or empty')
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        state = state.get(key, state)
    if "_conv_stem.weight" in state:
        state = _from_efficientnet_pytorch(state, list(model.state_dict()))
    classifiers = model.pretrained_cfg.get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    expected = {
        name: value
        for name, value in model.named_parameters()
        if not name.startswith(tuple(f"{layer}." for layer in classifiers))
    }
    missing = [
        name
        for name, value in expected.items()
        if name not in state or state[name].shape != value.shape
    ]
    if missing:
        raise ValueError(
            f"MODEL.TIMM.PRETRAINED {path} lacks {len(missing)} of {len(expected)} weights of "
            f"{model.pretrained_cfg.get('architecture')}, or has them in another shape: "
            f"{', '.join(missing[:3])}, ..."
        )
    return dict(state)


def _from_efficientnet_pytorch(
    state: Mapping[str, torch.Tensor], names: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Their names as timm's; blocks are numbered through there, stage by stage in timm."""
    blocks = list(
        dict.fromkeys(m[0] for m in map(re.compile(r"blocks\.\d+\.\d+").match, names) if m)
    )
    renamed = {}
    for key, value in state.items():
        first, _, rest = key.partition(".")
        if first == "_blocks":
            number, layer, leaf = rest.split(".", 2)
            widens = f"_blocks.{number}._expand_conv.weight" in state
            layer = (_WIDENING if widens else _PLAIN).get(layer)
            if layer is None or int(number) >= len(blocks):
                continue  # another member of the family; what is missing is reported
            renamed[f"{blocks[int(number)]}.{layer}.{leaf}"] = value
        elif first in _AROUND:
            renamed[f"{_AROUND[first]}.{rest}"] = value
    return renamed


def input_differences(
    weights: Any, image_format: str, mean: Sequence[float], std: Sequence[float]
) -> list[str]:
    """Config keys by which a config's input is not the one that timm's weights expect.

    Args:
        weights: timm's ``PretrainedCfg``, or None, of which nothing is known.
        image_format: INPUT.FORMAT.
        mean, std: MODEL.PIXEL_MEAN and PIXEL_STD, in that order, 0..255.

    Returns:
        "KEY VALUE" each, with the expected value; a difference of up to 1 grey level is none.
    """
    if weights is None:
        return []
    wanted = {
        "MODEL.PIXEL_MEAN": [round(255 * x, 3) for x in weights.mean],
        "MODEL.PIXEL_STD": [round(255 * x, 3) for x in weights.std],
    }
    found = {"MODEL.PIXEL_MEAN": mean, "MODEL.PIXEL_STD": std}
    wrong = [] if image_format == "RGB" else ["INPUT.FORMAT RGB"]
    return wrong + [
        f"{key} {str(value).replace(' ', '')}"
        for key, value in wanted.items()
        if max(abs(a - b) for a, b in zip(value, found[key])) > 1
    ]
