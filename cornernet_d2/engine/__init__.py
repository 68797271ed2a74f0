"""Training and evaluation on top of detectron2.engine.

Here is only what Detectron2 lacks. What happens inside a step is in train_loop.py. What happens
between steps is a hook: in guards.py if it only watches, in hooks.py if it acts on the run. A hook
reads the step's public attributes, writes its files through the checkpointer, and is ordered in
``CornerNetTrainer.build_hooks``, nowhere else. What is done once, before the first step, is a
function that the trainer calls. What a whole run does, from its config on, is in run.py, and what
it says in console.py.
"""

from .launch import launch, restart_count
from .optimizer import build_optimizer
from .run_folder import starting_run
from .trainer import CornerNetTrainer

__all__ = ["CornerNetTrainer", "build_optimizer", "launch", "restart_count", "starting_run"]
