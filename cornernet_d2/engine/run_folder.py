"""OUTPUT_DIR: one run at a time, no earlier one lost, the config.yaml of a run that began."""

import fcntl
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import yaml
from detectron2.config import CfgNode
from detectron2.utils import comm

from ..checkpoint import whole_file

logger = logging.getLogger(__name__)

CONFIG, LOCK, LOG = "config.yaml", ".lock", "log.txt"
NUMBERED = re.compile(r"model_\d{7,}\.pth")  # written by fvcore's PeriodicCheckpointer
WEIGHTS = re.compile(rf"{NUMBERED.pattern}|model_(best|final|final_ema)\.pth")
# All that a run leaves, except for its log.
WRITTEN = re.compile(
    rf"last_checkpoint|{WEIGHTS.pattern}|nonfinite_rank\d+\.pth"
    r"|config\.yaml|metrics\.json|events\.out\.tfevents\..*|log\.txt\.rank\d+"
    r"|inference|pictures|report\.html"
)
AVERAGED = re.compile(r"model_final_ema\.pth")

_locks: dict[str, IO] = {}  # open for as long as this process holds them, by real path
_log_starts: dict[str, int] = {}  # bytes of earlier runs in log.txt, by real path


@contextmanager
def starting_run(output_dir: str, training: bool) -> Iterator[None]:
    """Around Detectron2's ``default_setup``: lock a training's folder, keep its config.yaml.

    ``default_setup`` overwrites config.yaml although nothing has been trained with it yet, or will
    be: an evaluation, or a run that is refused. :func:`write_config` writes it.

    Raises:
        ValueError: another process trains in this folder.
    """
    if not comm.is_main_process() or not output_dir:
        yield
        return
    if training:
        lock(output_dir)
    path, log = os.path.join(output_dir, CONFIG), os.path.join(output_dir, LOG)
    before = None
    if os.path.exists(path):
        with open(path, "rb") as f:
            before = f.read()
    _log_starts[_key(output_dir)] = os.path.getsize(log) if os.path.exists(log) else 0
    yield
    if before is not None:
        with whole_file(path) as f:
            f.write(before)
    elif os.path.exists(path):
        os.remove(path)


def lock(output_dir: str) -> None:
    """Keep other processes from training in ``output_dir``, until :func:`unlock` or our end.

    The operating system lifts the lock of a process that dies, also of one that is killed.

    Raises:
        ValueError: another process holds it.
    """
    if _key(output_dir) in _locks:
        return
    os.makedirs(output_dir, exist_ok=True)
    file = open(os.path.join(output_dir, LOCK), "a+")  # noqa: SIM115 (held until unlock)
    try:
        # Not flock: that one would live on in data workers that outlive a killed run.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise ValueError(
            f"OUTPUT_DIR {output_dir} is in use by {holder}; wait for it, stop it, or set another "
            "OUTPUT_DIR"
        ) from None
    except OSError as error:
        logger.warning("%s cannot be locked (%s): start no second run there", output_dir, error)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _locks[_key(output_dir)] = file


def unlock(output_dir: str) -> None:
    """Let others train in ``output_dir`` again."""
    file = _locks.pop(_key(output_dir), None)
    if file is not None:
        file.truncate(0)
        file.close()


def set_aside(output_dir: str, names: re.Pattern = WRITTEN) -> None:
    """Move what an earlier run left to a folder of its own, so that none of it is lost."""
    if not os.path.isdir(output_dir):
        return
    left = [name for name in os.listdir(output_dir) if names.fullmatch(name)]
    if not left:
        return
    number = 1
    while os.path.exists(target := os.path.join(output_dir, f"previous_run_{number}")):
        number += 1
    os.makedirs(target)
    for name in left:
        os.rename(os.path.join(output_dir, name), os.path.join(target, name))
    if names is WRITTEN:
        _split_log(output_dir, target)
    logger.warning("Moved %s of an earlier run to %s", _listed(sorted(left)), target)


def _split_log(output_dir: str, target: str) -> None:
    """Move the part of log.txt that was there before this process began; it goes on in place."""
    start, path = _log_starts.pop(_key(output_dir), 0), os.path.join(output_dir, LOG)
    if not start or not os.path.exists(path):
        return
    for name in ("detectron2", "fvcore", "cornernet_d2"):
        for handler in logging.getLogger(name).handlers:
            stream = getattr(handler, "stream", None)
            if os.path.realpath(str(getattr(stream, "name", ""))) == os.path.realpath(path):
                stream.flush()
    with open(path, "r+b") as log:
        with open(os.path.join(target, LOG), "wb") as old:
            old.write(log.read(start))
        rest = log.read()
        log.seek(0)
        log.write(rest)
        log.truncate()  # whoever appends to it goes on at its new end


def write_config(cfg: CfgNode) -> None:
    """Write the config of a run that begins to OUTPUT_DIR/config.yaml."""
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    with whole_file(os.path.join(cfg.OUTPUT_DIR, CONFIG)) as f:
        f.write(cfg.dump().encode())


def changed_keys(cfg: CfgNode) -> dict[str, tuple[Any, Any]]:
    """Keys whose value differs from the one in OUTPUT_DIR/config.yaml: {key: (there, in cfg)}.

    Keys that only one of the two has are left out: the versions differ, not the run.
    """
    path = os.path.join(cfg.OUTPUT_DIR, CONFIG)
    if not os.path.exists(path):
        return {}
    with open(path) as f:
        try:
            before = dict(_flat(yaml.safe_load(f)))
        except yaml.YAMLError as error:
            logger.warning("Cannot read %s: %s", path, " ".join(str(error).split()))
            return {}
    now = dict(_flat(yaml.safe_load(cfg.dump())))
    return {k: (before[k], v) for k, v in now.items() if k in before and before[k] != v}


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict):
        yield prefix, node
        return
    for key, value in node.items():
        yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _key(output_dir: str) -> str:
    return os.path.realpath(output_dir)
