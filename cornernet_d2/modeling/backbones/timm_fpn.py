"""Any features-only model of timm with a top-down path to stride 4.

The path is that of Lin et al., "Feature Pyramid Networks" (CVPR 2017), sec. 3, without the outputs
that nobody uses: one map of stride 4. timm is imported when such a backbone is built.
"""

import difflib
import logging
from types import ModuleType

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn
from torch.nn import functional as F

from ..hourglass import conv_norm
from .timm_weights import input_differences, read_weights

logger = logging.getLogger(__name__)

STRIDE = 4
HUB = "hub"


class TimmFPN(Backbone):
    """A timm model ``bottom_up`` and the path back to stride 4.

    ``forward`` takes normalised images (N, in_channels, H, W) and returns {"p2": (N, out_channels,
    ceil(H / 4), ceil(W / 4))}. Of each stride of the model from 4 on, the deepest map is used.

    Args:
        name: a model that timm's ``create_model`` knows, with ``features_only``.
        pretrained: "" for fresh weights, "hub" for those that timm publishes, or a file of them;
            see :func:`.timm_weights.read_weights`. Skipped on the meta device.
        out_channels: channels of the path and of the output.
        norm: name of the path's normalisation.
        freeze_at: levels (of strides 4, 8, ...) that keep their weights and statistics, with all
            that lies before them.
        in_channels: channels of the image.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm has no such model, or the file does not fit it.
    """

    @configurable
    def __init__(
        self,
        *,
        name: str,
        pretrained: str = "",
        out_channels: int = 128,
        norm: str = "BN",
        freeze_at: int = 0,
        in_channels: int = 3,
    ):
        super().__init__()
        self.bottom_up = _build(name, pretrained, in_channels)
        info = self.bottom_up.feature_info
        deepest = {level["reduction"]: i for i, level in enumerate(info.get_dicts())}
        self.levels = sorted(i for stride, i in deepest.items() if stride >= STRIDE)
        self._strides = [info.reduction()[i] for i in self.levels]
        self._size_divisibility = max(self._strides)
        self._channels_last = str(getattr(self.bottom_up, "output_fmt", "")).endswith("NHWC")

        channels = [info.channels()[i] for i in self.levels]
        self.lateral = nn.ModuleList(
            conv_norm(c, out_channels, 1, norm, relu=False) for c in channels
        )
        self.output = conv_norm(out_channels, out_channels, 3, norm)
        self._out_features = ["p2"]
        self._out_feature_channels = {"p2": out_channels}
        self._out_feature_strides = {"p2": STRIDE}
        self._frozen_norms = self._freeze(freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict:
        settings = cfg.MODEL.TIMM
        # The weights of a whole detector, which hold the backbone's, are read later.
        pretrained = "" if cfg.MODEL.WEIGHTS else settings.PRETRAINED
        if pretrained:
            wrong = input_differences(
                _timm().get_pretrained_cfg(settings.NAME),
                cfg.INPUT.FORMAT,
                cfg.MODEL.PIXEL_MEAN,
                cfg.MODEL.PIXEL_STD,
            )
            if wrong:
                raise ValueError(
                    f"the weights of MODEL.TIMM.NAME {settings.NAME} expect another input; "
                    f"set {', '.join(wrong)}"
                )
        return {
            "name": settings.NAME,
            "pretrained": pretrained,
            "out_channels": settings.OUT_CHANNELS,
            "norm": settings.NORM,
            "freeze_at": settings.FREEZE_AT,
            "in_channels": input_shape.channels,
        }

    @property
    def size_divisibility(self) -> int:
        """Image sizes that are multiples of this (pixels) make every level's size whole."""
        return self._size_divisibility

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        size = [-(-side // STRIDE) for side in x.shape[-2:]]
        maps = self.bottom_up(x)
        maps = [
            maps[i].permute(0, 3, 1, 2) if self._channels_last else maps[i] for i in self.levels
        ]
        merged = self.lateral[-1](maps[-1])
        for lateral, finer in zip(self.lateral[-2::-1], maps[-2::-1]):
            merged = lateral(finer) + F.interpolate(merged, size=finer.shape[-2:], mode="nearest")
        if list(merged.shape[-2:]) != size:  # the model has no map of stride 4
            merged = F.interpolate(merged, size=size, mode="nearest")
        return {"p2": self.output(merged)}

    def train(self, mode: bool = True) -> "TimmFPN":
        super().train(mode)
        for module in self._frozen_norms:
            module.eval()
        return self

    def _freeze(self, count: int) -> list[nn.Module]:
        """Keep the parameters of the first levels; returns the layers whose statistics to keep.

        Modules are registered in the order in which they run.
        """
        if not 0 <= count <= len(self.levels):
            raise ValueError(
                f"MODEL.TIMM.FREEZE_AT is {count}; the model has {len(self.levels)} levels"
            )
        if not count:
            return []
        module = self.bottom_up.feature_info.module_name()[self.levels[count - 1]]
        names = [name for name, _ in self.bottom_up.named_modules()]
        paths = (module, module.replace(".", "_"), f"model.{module}")  # as timm wraps them
        path = next((path for path in paths if path in names), None)
        if path is None:
            raise ValueError(
                f"MODEL.TIMM.FREEZE_AT: level {count} of this model is no module ({module}); set 0"
            )
        last = max(i for i, name in enumerate(names) if f"{name}.".startswith(f"{path}."))
        frozen = [self.bottom_up.get_submodule(name) for name in names[: last + 1]]
        for child in frozen:
            for parameter in child.parameters(recurse=False):
                parameter.requires_grad_(False)
        return [child for child in frozen if isinstance(child, nn.modules.batchnorm._BatchNorm)]


def _build(name: str, pretrained: str, in_channels: int) -> nn.Module:
    timm = _timm()
    if name not in timm.list_models():
        architecture = name.partition(".")[0]
        if architecture not in timm.list_models():
            near = difflib.get_close_matches(name, timm.list_models(), n=3)
            raise ValueError(f"MODEL.TIMM.NAME is {name!r}, which timm does not know; near: {near}")
    options = {"features_only": True, "in_chans": in_channels}
    if not pretrained or torch.empty(0).is_meta:
        return timm.create_model(name, **options)
    if pretrained != HUB:
        with torch.device("meta"):
            whole = timm.create_model(name)
        state = read_weights(pretrained, whole)
        options["pretrained_cfg_overlay"] = {"state_dict": state}
    logger.info("weights of %s from %s", name, pretrained)
    return timm.create_model(name, pretrained=True, **options)


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            "MODEL.BACKBONE.NAME build_timm_fpn_backbone needs timm: pip install timm"
        ) from error
    return timm


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmFPN:
    """Build :class:`TimmFPN` from ``MODEL.TIMM``."""
    return TimmFPN(cfg, input_shape)
