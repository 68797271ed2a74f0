"""What a set of weights expects of its input; weights alone do not tell.

The authors' release, CornerNet-Lite and CenterNet feed BGR images with their own statistics and pad
with black; MMDetection feeds RGB with ImageNet's and pads with the mean; CentripetalNet's authors
feed BGR with ImageNet's and pad with black.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn


class InputConvention(NamedTuple):
    """Values of the config keys that decide what the network sees.

    Attributes:
        preset: a key of :data:`CONVENTIONS`.
        format: INPUT.FORMAT, the channel order.
        pixel_mean, pixel_std: MODEL.PIXEL_MEAN and PIXEL_STD in that order, grey levels 0..255.
        padding: MODEL.CORNERNET.PADDING.
    """

    preset: str
    format: str
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    padding: str


# The authors' statistics of COCO, in units of 255 (their db/coco.py).
_OFFICIAL_MEAN = tuple(255 * x for x in (0.40789654, 0.44719302, 0.47026115))
_OFFICIAL_STD = tuple(255 * x for x in (0.28863828, 0.27408164, 0.27809835))

CONVENTIONS: dict[str, InputConvention] = {
    "default": InputConvention("default", "BGR", _OFFICIAL_MEAN, _OFFICIAL_STD, "bottom_right"),
    "official": InputConvention("official", "BGR", _OFFICIAL_MEAN, _OFFICIAL_STD, "center_black"),
    "mmdet": InputConvention(
        "mmdet", "RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "center_mean"
    ),
    "centripetalnet": InputConvention(
        "centripetalnet", "BGR", (103.53, 116.28, 123.675), (57.375, 57.12, 58.395), "center_black"
    ),
}
# The convention that a format's own code base always uses.
FORMAT_PRESET = {
    "princeton": "official",
    "lite": "official",
    "squeeze": "official",
    "centernet": "official",
    "mmdet": "mmdet",
    "centripetalnet": "centripetalnet",
}


def to_metadata(convention: InputConvention) -> dict[str, Any]:
    """As plain values, for a checkpoint."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in convention._asdict().items()
    }


def from_metadata(metadata: Mapping[str, Any]) -> InputConvention:
    """The inverse of :func:`to_metadata`."""
    return InputConvention(
        **{
            key: tuple(value) if isinstance(value, list) else value
            for key, value in metadata.items()
            if key in InputConvention._fields
        }
    )


def to_config(convention: InputConvention) -> dict[str, Any]:
    """The same as config keys and values."""
    return {
        "INPUT.FORMAT": convention.format,
        "MODEL.PIXEL_MEAN": list(convention.pixel_mean),
        "MODEL.PIXEL_STD": list(convention.pixel_std),
        "MODEL.CORNERNET.PADDING": convention.padding,
    }


def of_model(model: nn.Module) -> InputConvention | None:
    """The convention that a built model follows; None if it does not say."""
    if not all(hasattr(model, name) for name in ("pixel_mean", "pixel_std", "input_format")):
        return None
    mean, std = (tuple(x.flatten().tolist()) for x in (model.pixel_mean, model.pixel_std))
    found = InputConvention("", model.input_format, mean, std, getattr(model, "padding", ""))
    for convention in CONVENTIONS.values():
        if not differences(convention, found):
            return found._replace(preset=convention.preset)
    return found


def differences(expected: InputConvention, found: InputConvention) -> list[str]:
    """Config keys in which two conventions differ, as "KEY VALUE" with the expected value."""
    expected_keys, found_keys = to_config(expected), to_config(found)
    return [
        f"{key} {_rounded(value)}"
        for key, value in expected_keys.items()
        if not _close(value, found_keys[key])
    ]


def _close(a: Any, b: Any) -> bool:
    if isinstance(a, list):  # configs round to about four decimals
        return len(a) == len(b) and all(abs(x - y) < 1e-2 for x, y in zip(a, b))
    return a == b


def _rounded(value: Any) -> Any:
    return [round(x, 4) for x in value] if isinstance(value, list) else value
