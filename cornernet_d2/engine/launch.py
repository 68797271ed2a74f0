"""Start the processes of a run: alone, spawned here, or already started by torchrun."""

import logging
import os
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

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
    args: tuple = (),
    device: str = "cuda",
) -> Any:
    """Run ``main(*args)`` in every process of the run, as ``detectron2.engine.launch`` does.

    Two things are new. Under torchrun the processes exist already and its environment variables
    replace the other arguments. And without a GPU, or with a model that is not on it, the
    processes talk through gloo, on every version of Detectron2.

    Args:
        main: runs once in each process.
        num_processes: processes per machine, one a GPU if they use any.
        num_machines: machines in the run; this function must be called on each.
        machine_rank: rank of this machine in [0, num_machines).
        dist_url: address of the process group, the same on all machines.
        args: arguments of ``main``.
        device: MODEL.DEVICE; "cuda" means the CPU where there is no GPU.

    Returns:
        what ``main`` returned, None if it ran in other processes.

    Raises:
        ValueError: more processes than GPUs.
    """
    use_gpu = device.startswith("cuda") and torch.cuda.is_available()
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return _torchrun_worker(main, args, use_gpu)
    if num_machines * num_processes == 1:
        return main(*args)
    if use_gpu and num_processes > torch.cuda.device_count():
        raise ValueError(
            f"--num-gpus {num_processes} on a machine with {torch.cuda.device_count()} GPUs"
        )
    mp.start_processes(
        _spawned_worker,
        args=(main, num_processes, num_machines, machine_rank, dist_url, args, use_gpu),
        nprocs=num_processes,
    )


def restart_count() -> int:
    """How often torchrun has restarted the processes of this run."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def _torchrun_worker(main: Callable, args: tuple, use_gpu: bool) -> Any:
    environ = os.environ
    rank, world_size = int(environ["RANK"]), int(environ["WORLD_SIZE"])
    store, _, _ = next(dist.rendezvous("env://", rank, world_size, timeout=TIMEOUT))
    if dist.is_torchelastic_launched():
        store = _fresh_store(store, rank, world_size)
    return _work(
        main,
        args,
        use_gpu,
        rank=rank,
        world_size=world_size,
        local_rank=int(environ.get("LOCAL_RANK", rank)),
        local_size=int(environ.get("LOCAL_WORLD_SIZE", world_size)),
        store=store,
    )


def _fresh_store(store: dist.Store, rank: int, world_size: int) -> dist.Store:
    """A part of ``store`` that no earlier processes wrote to.

    After a restart torchrun hands out the store of the processes that died, and gloo would
    connect to the addresses that they left there. Rank 0 draws a new name and answers whoever asks
    for it with a number of its own, again and again until all others have confirmed the name: so
    neither side can take an old message for a new one.
    """
    name = uuid.uuid4().hex
    if rank == 0:
        unconfirmed = set(range(1, world_size))
        while unconfirmed:
            for other in sorted(unconfirmed):
                if store.check([f"ask/{other}"]):
                    store.set(f"answer/{store.get(f'ask/{other}').decode()}", name)
                if store.check([f"confirm/{name}/{other}"]):
                    unconfirmed.remove(other)
            time.sleep(0.02)
        return dist.PrefixStore(name, store)
    store.set(f"ask/{rank}", name)
    store.wait([f"answer/{name}"], TIMEOUT)
    chosen = store.get(f"answer/{name}").decode()
    store.set(f"confirm/{chosen}/{rank}", "")
    return dist.PrefixStore(chosen, store)


def _spawned_worker(
    local_rank: int,
    main: Callable,
    num_processes: int,
    num_machines: int,
    machine_rank: int,
    dist_url: str,
    args: tuple,
    use_gpu: bool,
) -> None:
    _work(
        main,
        args,
        use_gpu,
        rank=machine_rank * num_processes + local_rank,
        world_size=num_machines * num_processes,
        local_rank=local_rank,
        local_size=num_processes,
        init_method=dist_url,
    )


def _work(
    main: Callable,
    args: tuple,
    use_gpu: bool,
    *,
    rank: int,
    world_size: int,
    local_rank: int,
    local_size: int,
    **rendezvous: Any,
) -> Any:
    """Join the process group and run ``main``; ``rendezvous`` is ``init_method`` or ``store``."""
    if use_gpu:
        torch.cuda.set_device(local_rank)
    try:
        dist.init_process_group(
            "nccl" if use_gpu else "gloo",
            rank=rank,
            world_size=world_size,
            timeout=TIMEOUT,
            **rendezvous,
        )
    except Exception:
        logging.getLogger(__name__).error("Cannot join the process group: %s", rendezvous)
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
