"""Shipped configs and their models by name, as ``detectron2.model_zoo`` does it for its own."""

from importlib import resources
from pathlib import Path

import torch
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from omegaconf import DictConfig
from torch import nn

from .config import add_cornernet_config


def get_config_file(name: str) -> str:
    """Returns the path of a shipped config.

    Args:
        name: relative to ``configs/``, for instance "CornerNet-HG104.yaml" or
            "lazy/cornernet_hg104.py"; the ending ".yaml" may be left out.

    Raises:
        ValueError: there is none of that name; the message lists those that there are.
    """
    folder = _configs()
    for candidate in (folder / name, folder / f"{name}.yaml"):
        if candidate.is_file():
            return str(candidate)
    known = sorted(
        path.relative_to(folder).as_posix()
        for ending in ("*.yaml", "*.py")
        for path in folder.rglob(ending)
        if path.name != "__init__.py"
    )
    raise ValueError(f"no config is called {name!r}; there are {', '.join(known)}")


def get_config(name: str, trained: bool = False) -> CfgNode | DictConfig:
    """Returns a shipped config: a CfgNode for .yaml, a LazyConfig's DictConfig for .py.

    Args:
        name: see :func:`get_config_file`.
        trained: must be False, see :func:`get`.

    Raises:
        ValueError: there is no such config, or ``trained`` is asked for.
    """
    if trained:
        raise ValueError(
            f"no trained weights are published for {name!r}. Convert a published checkpoint with "
            "`python -m cornernet_d2.tools.convert_checkpoint SRC DST` and set MODEL.WEIGHTS to DST"
        )
    path = get_config_file(name)
    if path.endswith(".py"):
        return LazyConfig.load(path)
    cfg = get_cfg()
    add_cornernet_config(cfg)
    cfg.merge_from_file(path)
    return cfg


def get(name: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Builds the model of a shipped config, in training mode and with fresh weights.

    Args:
        name: see :func:`get_config_file`.
        trained: must be False: the project has no weights of its own to download.
        device: where the model goes; by default where the config says, or the CPU where there is
            no GPU.

    Raises:
        ValueError: there is no such config, or ``trained`` is asked for.
    """
    cfg = get_config(name, trained)
    if device is None and not torch.cuda.is_available():
        device = "cpu"
    if isinstance(cfg, CfgNode):
        if device is not None:
            cfg.MODEL.DEVICE = device
        return build_model(cfg)
    model = instantiate(cfg.model)
    return model if device is None else model.to(device)


def _configs() -> Path:
    """The configs as a wheel installs them, inside the package, or else those of the repository."""
    packaged = Path(str(resources.files(__package__) / "configs"))
    return packaged if packaged.is_dir() else packaged.parent.parent / "configs"
