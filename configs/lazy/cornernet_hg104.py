"""CornerNet with a 2-stack Hourglass-104 on COCO, for Detectron2's lazyconfig_train_net.py."""

from .common.data import dataloader
from .common.model import model
from .common.train import lr_multiplier, optimizer, train
