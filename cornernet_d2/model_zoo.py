"""Shipped configs and their models by name, as ``detectron2.model_zoo`` does it for its own."""

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import IO

import torch
import yaml
from detectron2.config import CfgNode, LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig
from torch import nn

from .config import add_cornernet_config, override
from .data.files import register_files


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
            "`cornernet convert SRC DST` and set MODEL.WEIGHTS to DST"
        )
    path = get_config_file(name)
    if path.endswith(".py"):
        return LazyConfig.load(path)
    return _read(path)


def load_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """:func:`read_config`, with the CPU as MODEL.DEVICE where no GPU is."""
    cfg = read_config(config_file, opts)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def read_config(config_file: str, opts: Sequence[str] = ()) -> CfgNode:
    """Reads a yaml config and registers its DATASETS.FILES.

    Args:
        config_file: a path, or a name that :func:`get_config_file` knows. So may be the `_BASE_` of
            a file.
        opts: alternating keys and values that override the file.

    Raises:
        ValueError: neither such a file nor such a name; a LazyConfig; or a key, a value or a base
            that cannot be.
    """
    path = config_file if os.path.isfile(config_file) else get_config_file(config_file)
    if not path.endswith((".yaml", ".yml")):
        raise ValueError(f"{config_file} is not a yaml config")
    cfg = _read(path)
    override(cfg, opts)
    register_files(cfg)
    return cfg


class _NamedBases(CfgNode):
    """Reads `_BASE_: CornerNet-HG104.yaml` from the shipped configs where no file is called so."""

    @classmethod
    def _open_cfg(cls, filename: str) -> IO[str]:
        if not PathManager.isfile(filename):
            try:
                filename = get_config_file(os.path.basename(filename))
            except ValueError as error:
                raise ValueError(f"_BASE_ {filename} is no file, and {error}") from error
        return PathManager.open(filename, "r")


def _read(path: str) -> CfgNode:
    cfg = get_cfg()
    add_cornernet_config(cfg)
    try:
        content = _NamedBases.load_yaml_with_base(path, allow_unsafe=False)
        cfg.merge_from_other_cfg(CfgNode(content or {}))
    except (AssertionError, AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
        # yacs and yaml raise them for what users write
        reason = " ".join(str(error.args[0] if len(error.args) == 1 else error).split())
        raise ValueError(f"{path}: {reason}") from error
    except RecursionError as error:
        raise ValueError(f"{path}: its _BASE_ leads back to it") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
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
