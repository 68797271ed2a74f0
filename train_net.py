#!/usr/bin/env python
"""Train or evaluate a CornerNet from a config file; the command line is Detectron2's.

Runs in one process, in --num-gpus processes per machine, or under torchrun, which then decides
about the processes.
"""

import argparse
import logging
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser, default_setup
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from cornernet_d2 import add_cornernet_config
from cornernet_d2.engine import CornerNetTrainer, launch, restart_count, starting_run


def read_config(args: argparse.Namespace) -> CfgNode:
    cfg = get_cfg()
    add_cornernet_config(cfg)
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    return cfg


def setup(args: argparse.Namespace) -> CfgNode:
    cfg = read_config(args)
    wants_gpu = cfg.MODEL.DEVICE.startswith("cuda")
    if wants_gpu and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    with starting_run(cfg.OUTPUT_DIR, training=not args.eval_only):
        default_setup(cfg, args)
    if wants_gpu and cfg.MODEL.DEVICE == "cpu":
        logging.getLogger("detectron2").warning("No CUDA device: MODEL.DEVICE is set to cpu")
    return cfg


def main(args: argparse.Namespace) -> dict[str, Any] | None:
    cfg = setup(args)
    resume = args.resume or restart_count() > 0
    if args.eval_only:
        model = CornerNetTrainer.build_model(cfg)
        CornerNetTrainer.load_weights(cfg, model, resume=resume)
        results = CornerNetTrainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = CornerNetTrainer(cfg)
    trainer.resume_or_load(resume=resume)
    return trainer.train()


if __name__ == "__main__":
    arguments = default_argument_parser().parse_args()
    launch(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
        device=read_config(arguments).MODEL.DEVICE,
    )
