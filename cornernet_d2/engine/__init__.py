"""Training and evaluation on top of detectron2.engine."""

from .launch import launch, restart_count
from .trainer import CornerNetTrainer

__all__ = ["CornerNetTrainer", "launch", "restart_count"]
