"""CornerNet on ViTDet (Li et al., ECCV 2022): ViT-B, MAE's weights, the pyramid's map of stride 4.

Needs Detectron2's main: its ViT came after 0.6. The coarser maps of the pyramid have no head; that
of stride 16 is there for the canvas, whose sides have to be whole patches. The input is what the
weights were trained on.
"""

from detectron2.config import LazyCall as L

from .common.data import dataloader
from .common.model import model
from .common.train import lr_multiplier, optimizer, train

VIT = "detectron2.modeling.backbone.vit"

model.backbone = L(f"{VIT}.SimpleFeaturePyramid")(
    net=L(f"{VIT}.ViT")(
        img_size=512,
        patch_size=16,
        embed_dim=768,
        depth=12,
        num_heads=12,
        drop_path_rate=0.1,
        window_size=14,
        mlp_ratio=4,
        qkv_bias=True,
        # The others are global.
        window_block_indexes=[0, 1, 3, 4, 6, 7, 9, 10],
        use_rel_pos=True,
        out_feature="last_feat",
    ),
    in_feature="last_feat",
    out_channels=256,
    scale_factors=(4.0, 2.0, 1.0),
    norm="LN",
)
model.norm = "BN"
model.in_features = ["p2"]
model.input_format = "RGB"
model.pixel_mean = [123.675, 116.28, 103.53]
model.pixel_std = [58.395, 57.12, 57.375]
train.init_checkpoint = (
    "detectron2://ImageNetPretrained/MAE/mae_pretrain_vit_base.pth?matching_heuristics=True"
)
train.ddp.find_unused_parameters = True  # of the maps without a head
optimizer.lr = 1e-4
