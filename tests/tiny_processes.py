"""Processes for tests: forked from a server that has imported everything, so they start at once."""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from cornernet_d2.engine import launch


@lru_cache(None)
def warm_context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["conftest", "tiny_run", "torch.utils.tensorboard"])
    tests = Path(__file__).resolve().parent
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(tests), str(tests.parent), *sys.path])
    try:
        context.Process(target=int).start()  # starts the server, which knows no sys.path
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> None:
    """Run ``function(*args)`` in processes that look as if torchrun had started them."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    processes = [
        warm_context().Process(target=_rank, args=(rank, world_size, port, function, args))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [p.exitcode for p in processes] == [0] * world_size


def _rank(rank: int, world_size: int, port: int, function: Callable, args: Any) -> None:
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    sizes = {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    os.environ.update({**address, **ranks, **sizes})
    launch(function, 1, args=args)
