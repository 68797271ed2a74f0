"""Settings that cannot work together, and settings that nothing reads."""

import logging
from operator import attrgetter

from detectron2.config import CfgNode, get_cfg

logger = logging.getLogger(__name__)

RESIZING = ("INPUT.MIN_SIZE_TRAIN", "INPUT.MAX_SIZE_TRAIN", "INPUT.MIN_SIZE_TRAIN_SAMPLING")


def check_settings(cfg: CfgNode) -> None:
    """Log a warning for keys that were set and have no effect.

    Raises:
        ValueError: the warm-up takes the whole run, of which a cosine then leaves nothing; or
            early stopping without the evaluations that it goes by.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR" and solver.MAX_ITER <= solver.WARMUP_ITERS:
        raise ValueError(
            f"SOLVER.WARMUP_ITERS {solver.WARMUP_ITERS} takes all of SOLVER.MAX_ITER "
            f"{solver.MAX_ITER}: with WarmupCosineLR the rate stays near 0. Lower WARMUP_ITERS."
        )
    if solver.WARMUP_ITERS and solver.MAX_ITER <= solver.WARMUP_ITERS:
        logger.warning(
            "SOLVER.WARMUP_ITERS %d takes all of SOLVER.MAX_ITER %d: SOLVER.BASE_LR is not reached",
            solver.WARMUP_ITERS,
            solver.MAX_ITER,
        )
    if solver.PATIENCE and not (cfg.TEST.EVAL_PERIOD and cfg.DATASETS.TEST):
        raise ValueError(
            f"SOLVER.PATIENCE {solver.PATIENCE} counts evaluations: set TEST.EVAL_PERIOD and "
            "DATASETS.TEST"
        )
    ignored = {}
    if cfg.INPUT.CORNERNET.CROP.ENABLED:
        reason = "INPUT.CORNERNET.CROP takes the place of resizing; its SIZE and SCALES decide"
        ignored.update(dict.fromkeys(RESIZING, reason))
    if cfg.MODEL.BACKBONE.NAME == "build_hourglass_backbone":
        ignored["MODEL.BACKBONE.FREEZE_AT"] = "the hourglass has no stages to freeze"
    defaults = get_cfg()
    for key, reason in ignored.items():
        if attrgetter(key)(cfg) != attrgetter(key)(defaults):
            logger.warning("%s is ignored: %s", key, reason)


def scale_ema(cfg: CfgNode, ratio: float) -> None:
    """Have MODEL_EMA average over as many images as before, with ``ratio`` times as many a step."""
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.MODEL_EMA.DECAY **= ratio
    if frozen:
        cfg.freeze()
