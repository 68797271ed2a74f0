"""Checkpoints of every CornerNet code base: names, file formats, conventions, and loading."""

from .architecture import infer_architecture
from .checkpointer import CornerNetCheckpointer
from .config import build_config, read_config
from .contents import read_contents
from .conventions import CONVENTIONS, InputConvention
from .files import CheckpointError, load_torch_file, save_torch_file, whole_file
from .formats import Checkpoint, build_contents, parse
from .key_maps import FORMATS, detect_format, rename
from .names import class_names

__all__ = [
    "CONVENTIONS",
    "Checkpoint",
    "CheckpointError",
    "CornerNetCheckpointer",
    "FORMATS",
    "InputConvention",
    "build_config",
    "build_contents",
    "class_names",
    "detect_format",
    "infer_architecture",
    "load_torch_file",
    "parse",
    "read_config",
    "read_contents",
    "rename",
    "save_torch_file",
    "whole_file",
]
