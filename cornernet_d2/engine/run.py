"""A training or an evaluation from its config on, as the command line and train_net.py run it."""

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Callable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng

from ..data.files import register_files
from ..hardware import check_device
from .console import log_setting, say_head, say_result, start_logging
from .launch import launch, restart_count
from .run_folder import starting_run
from .trainer import CornerNetTrainer

logger = logging.getLogger(__name__)


def add_processes(parser: argparse.ArgumentParser) -> None:
    """The arguments about processes and machines, those of Detectron2's train_net.py."""
    port = 2**15 + 2**14 + hash(os.getuid() if hasattr(os, "getuid") else 1) % 2**14
    parser.add_argument("--num-gpus", type=int, default=1, help="per machine [1]; 0: on the CPU")
    parser.add_argument("--num-machines", type=int, default=1, help="[%(default)s]")
    parser.add_argument("--machine-rank", type=int, default=0, help="of this machine, from 0 on")
    parser.add_argument("--dist-url", default=f"tcp://127.0.0.1:{port}", help="[%(default)s]")


def run_training(
    cfg: CfgNode,
    args: argparse.Namespace,
    *,
    resume: bool = False,
    after: Callable[[CfgNode], object] | None = None,
) -> Any:
    """Train in as many processes as ``args`` says (:func:`add_processes`).

    Args:
        after: called with the config in the main process, at the end; a function of a module.
    """
    return _launch(train, cfg, args, resume, after)


def run_evaluation(cfg: CfgNode, args: argparse.Namespace, *, resume: bool = False) -> Any:
    """Evaluate in as many processes as ``args`` says; returns the results of the first."""
    return _launch(evaluate, cfg, args, resume)


def _launch(main: Callable, cfg: CfgNode, args: argparse.Namespace, *rest: Any) -> Any:
    if args.num_gpus < 0 or args.num_machines < 1:
        raise ValueError("--num-gpus must be at least 0, --num-machines at least 1")
    use_device(cfg, args.num_gpus)
    return launch(
        main,
        max(1, args.num_gpus),
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(cfg, *rest),
        device=cfg.MODEL.DEVICE,
    )


def use_device(cfg: CfgNode, num_gpus: int) -> None:
    """Set MODEL.DEVICE to the CPU for 0 GPUs."""
    if num_gpus == 0:
        cfg.MODEL.DEVICE = "cpu"


def start(cfg: CfgNode, *, evaluating: bool = False) -> CfgNode:
    """What comes before a model is built: device, datasets, log, seed.

    Args:
        cfg: changed in place, and frozen.
        evaluating: nothing is trained.
    """
    wanted = cfg.MODEL.DEVICE
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    check_device(cfg.MODEL.DEVICE)
    cfg.freeze()
    register_files(cfg)  # in this process
    if comm.is_main_process():
        _forget_converted(cfg)
    with starting_run(cfg.OUTPUT_DIR, training=not evaluating):
        start_logging(cfg.OUTPUT_DIR)
        log_setting(cfg, shlex.join(sys.argv))
    if wanted != cfg.MODEL.DEVICE:
        logger.warning("No CUDA device: MODEL.DEVICE is set to cpu")
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
    if not evaluating:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
    return cfg


def _forget_converted(cfg: CfgNode) -> None:
    """Remove the json of each dataset that has none, which COCOEvaluator made in an earlier run.

    It would be used again although the data may have changed.
    """
    for name in cfg.DATASETS.FILES:
        path = os.path.join(cfg.OUTPUT_DIR, "inference", name, f"{name}_coco_format.json")
        if os.path.isfile(path):
            os.remove(path)


def train(
    cfg: CfgNode, resume: bool, after: Callable[[CfgNode], object] | None = None
) -> dict[str, Any] | None:
    """Train in this process, one of those of the run.

    Args:
        cfg: of the run.
        resume: go on from the last checkpoint in OUTPUT_DIR, if there is one.
        after: see :func:`run_training`.

    Returns:
        the last evaluation's results, if there was one.
    """
    cfg = start(cfg)
    trainer = CornerNetTrainer(cfg)
    trainer.resume_or_load(resume=resume or restart_count() > 0)
    if comm.is_main_process():
        step, loader = trainer._trainer, trainer.data_loader
        say_head(cfg, trainer.evaluated_model(), step.precision, len(loader.dataset))
    results = trainer.train()
    if comm.is_main_process():
        say_result(cfg.OUTPUT_DIR, cfg.SOLVER.BEST_METRIC)
        if after is not None:
            after(cfg)
    return results


def evaluate(cfg: CfgNode, resume: bool) -> dict[str, Any]:
    """Evaluate in this process; ``resume``: the last checkpoint instead of MODEL.WEIGHTS."""
    cfg = start(cfg, evaluating=True)
    model = CornerNetTrainer.build_model(cfg)
    CornerNetTrainer.load_weights(cfg, model, resume=resume or restart_count() > 0)
    results = CornerNetTrainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results
