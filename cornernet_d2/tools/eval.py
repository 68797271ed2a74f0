"""Evaluate a trained model on DATASETS.TEST, or with --data on other data.

cornernet eval output/cards/model_best.pth
cornernet eval model.pth --config-file CornerNet-HG104 MODEL.CORNERNET.TEST.FLIP True
"""

import argparse

from ..engine.run import add_processes, run_evaluation
from .options import add_data, add_model, model_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add_data(parser)
    add_processes(parser)


def run(args: argparse.Namespace) -> int:
    cfg = model_config(args)
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: give --data, or DATASETS.TEST at the end")
    run_evaluation(cfg, args)
    return 0
