"""CornerNet on Hourglass-104; the sources of the numbers are in cornernet_d2/config.py."""

from detectron2.config import LazyCall as L

from cornernet_d2.modeling import (
    CornerCriterion,
    CornerInference,
    CornerNet,
    EmbeddingPairing,
    Hourglass,
    InferenceWithTTA,
)
from cornernet_d2.targets import CornerTargetGenerator

model = L(CornerNet)(
    backbone=L(Hourglass)(
        widths=[256, 256, 384, 384, 384, 512],
        blocks=[2, 2, 2, 2, 2, 4],
        stacks=2,
        stem_width=128,
        out_channels=256,
        norm="BN",
        recompute="none",
    ),
    num_classes=80,
    head_width=256,
    pool_width=128,
    head_kernel=3,
    cascade=False,
    norm="${.backbone.norm}",
    criterion=L(CornerCriterion)(
        alpha=2.0,
        beta=4.0,
        offset_weight=1.0,
        embedding_images=5.0,
    ),
    pairing=L(EmbeddingPairing)(
        dim=1,
        position=False,
        dilation=1,
        pull_weight=0.1,
        push_weight=0.1,
        push_margin=1.0,
        threshold=0.5,
    ),
    target_generator=L(CornerTargetGenerator)(
        num_classes="${..num_classes}",
        stride=4,
        min_overlap=0.7,
        formula="exact",
        fixed_radius=None,
        gaussian=True,
        clip="canvas",
        center=False,
    ),
    inference=L(InferenceWithTTA)(
        inference=L(CornerInference)(
            top_k=100,
            soft_nms_method="gaussian",
            max_detections=100,
        ),
        scales=[1.0],
        flip=False,
    ),
    pixel_mean=[104.013602, 114.034225, 119.916595],
    pixel_std=[73.602764, 69.890815, 70.915083],
    padding="bottom_right",
    channels_last=False,
    input_format="BGR",
    vis_period=0,
    vis_dataset="",
)
