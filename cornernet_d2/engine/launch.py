"""Start the processes of a run: alone, spawned here, or already started by torchrun."""

import logging
import os
from datetime import timedelta
from typing import Any, Callable, Tuple

import torch
from detectron2.utils import comm
from torch import distributed as dist
from torch import multiprocessing as mp

TIMEOUT = timedelta(minutes=30)  # of a collective; Detectron2's DEFAULT_TIMEOUT


def launch(
    main: Callable[..., Any],
    num_processes: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "tcp://127.0.0.1:29500",
    args: Tuple = (),
) -> Any:
    """Run ``main(*args)`` in every process of the run, as ``detectron2.engine.launch`` does.

    Two things are new. Under torchrun the processes exist already and its environment variables
    replace the other arguments. And without a GPU the processes talk through gloo, on every
    version of Detectron2.

    Args:
        main: runs once in each process.
        num_processes: processes per machine, one a GPU if there are any.
        num_machines: machines in the run; this function must be called on each.
        machine_rank: rank of this machine in [0, num_machines).
        dist_url: address of the process group, the same on all machines.
        args: arguments of ``main``.

    Returns:
        what ``main`` returned, None if it ran in other processes.

    Raises:
        ValueError: more processes than GPUs.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _torchrun_worker(main, args)
    if num_machines * num_processes == 1:
        return main(*args)
    if torch.cuda.is_available() and num_processes > torch.cuda.device_count():
        raise ValueError(
            f"--num-gpus {num_processes} on a machine with {torch.cuda.device_count()} GPUs"
        )
    mp.start_processes(
        _spawned_worker,
        args=(main, num_processes, num_machines, machine_rank, dist_url, args),
        nprocs=num_processes,
    )


def restart_count() -> int:
    """How often torchrun has restarted the processes of this run."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def _torchrun_worker(main: Callable, args: Tuple) -> Any:
    environ = os.environ
    local_size = int(environ.get("LOCAL_WORLD_SIZE", environ["WORLD_SIZE"]))
    return _work(
        main,
        args,
        init_method="env://",
        rank=int(environ["RANK"]),
        world_size=int(environ["WORLD_SIZE"]),
        local_rank=int(environ.get("LOCAL_RANK", environ["RANK"])),
        local_size=local_size,
    )


def _spawned_worker(
    local_rank: int,
    main: Callable,
    num_processes: int,
    num_machines: int,
    machine_rank: int,
    dist_url: str,
    args: Tuple,
) -> None:
    _work(
        main,
        args,
        init_method=dist_url,
        rank=machine_rank * num_processes + local_rank,
        world_size=num_machines * num_processes,
        local_rank=local_rank,
        local_size=num_processes,
    )


def _work(
    main: Callable,
    args: Tuple,
    *,
    init_method: str,
    rank: int,
    world_size: int,
    local_rank: int,
    local_size: int,
) -> Any:
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        torch.cuda.set_device(local_rank)
    try:
        dist.init_process_group(
            "nccl" if has_gpu else "gloo",
            init_method=init_method,
            world_size=world_size,
            rank=rank,
            timeout=TIMEOUT,
        )
    except Exception:
        logging.getLogger(__name__).error("Cannot join the process group at %s", init_method)
        raise
    try:
        _create_local_group(local_size)
        comm.synchronize()
        return main(*args)
    finally:
        dist.destroy_process_group()


def _create_local_group(local_size: int) -> None:
    if hasattr(comm, "create_local_process_group"):
        comm.create_local_process_group(local_size)
        return
    # Detectron2 0.6 has this inside its own launch() only, which insists on CUDA.
    machine_rank = dist.get_rank() // local_size
    for machine in range(dist.get_world_size() // local_size):
        ranks = range(machine * local_size, (machine + 1) * local_size)
        group = dist.new_group(list(ranks))
        if machine == machine_rank:
            comm._LOCAL_PROCESS_GROUP = group
