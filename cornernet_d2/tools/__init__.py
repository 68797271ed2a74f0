"""The command ``cornernet`` (command.py), a module a subcommand, and the pieces that they share.

A subcommand's module has ``add_arguments(parser)`` and ``run(args) -> int``, the exit status; its
docstring is what ``--help`` prints.
"""

from pathlib import Path


def check_output(path: Path, overwrite: bool) -> None:
    """Raises ValueError where writing a file would destroy one; makes its folder otherwise."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder: choose another --output")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists: choose another --output, or add --overwrite")
    path.parent.mkdir(parents=True, exist_ok=True)


def check_not_input(source: Path, target: Path) -> None:
    """Raises ValueError where writing ``target`` would destroy what is read."""
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(f"--output would overwrite the input {source}")
