"""The published recipe: Adam 2.5e-4, 500k iterations, a tenth of the rate from 450k."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from detectron2.solver.build import get_default_optimizer_params
from fvcore.common.param_scheduler import MultiStepParamScheduler

train = dict(
    output_dir="./output",
    init_checkpoint="",
    max_iter=500_000,
    amp=dict(enabled=False),
    # Without a GPU: train.ddp.device_ids=null
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=5000, max_to_keep=5),
    eval_period=0,
    log_period=20,
    device="cuda",
)

optimizer = L(torch.optim.Adam)(
    # The training script sets params.model.
    params=L(get_default_optimizer_params)(weight_decay_norm=0.0),
    lr=2.5e-4,
)

lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1],
        milestones=[90],  # percent of train.max_iter: 450k
        num_updates=100,
    ),
    warmup_length=0.0,
    warmup_method="linear",
    warmup_factor=1.0,
)
