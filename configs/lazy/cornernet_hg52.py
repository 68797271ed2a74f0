"""One hourglass instead of two."""

from .common.data import dataloader
from .common.model import model
from .common.train import lr_multiplier, optimizer, train

model.backbone.stacks = 1
