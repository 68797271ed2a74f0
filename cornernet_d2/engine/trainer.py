"""CornerNetTrainer: Detectron2's DefaultTrainer with what a long CornerNet run needs."""

import contextlib
import logging
import weakref
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, HookBase, hooks
from detectron2.engine.defaults import create_ddp_model
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from detectron2.utils.logger import setup_logger
from torch import nn
from torch.utils.data import DataLoader

from ..checkpoint import CheckpointError
from ..data import CornerNetDatasetMapper
from .checkpointer import TrainingCheckpointer
from .ema import averaged_weights, best_metrics, build_ema, evaluated_kinds
from .evaluation import build_evaluator, printed_to_log, same_everywhere, tested_model
from .events import build_writers
from .guards import LossSpikeReporter, NonFiniteGuard, freeze_unreached
from .hooks import (
    Averaging,
    BestWeights,
    EarlyStopping,
    Forecast,
    Preemption,
    StepSeed,
    StopTraining,
)
from .optimizer import build_optimizer
from .precision import choose_precision, precision_name
from .preflight import check_disk, check_test_sets
from .resume import describe_changes, report_changes
from .run_folder import AVERAGED, changed_keys, lock, set_aside, unlock, write_config
from .settings import check_settings, scale_ema
from .train_loader import TrainLoader, build_train_loader
from .train_loop import GuardedTrainer, unwrap
from .validation_loss import ValidationLoss
from .validation_pictures import ValidationPictures

logger = logging.getLogger(__name__)


class CornerNetTrainer(DefaultTrainer):
    """Train, evaluate and resume the model that a config describes.

    Beyond DefaultTrainer: exact resume, whole checkpoints, mixed precision on any device,
    gradient accumulation, averaged weights, several processes without a GPU, and guards against
    runs that go wrong silently. The parts are in the modules beside this one.
    """

    def __init__(self, cfg: CfgNode) -> None:
        # DefaultTrainer's own would wrap the model in a DDP that needs CUDA.
        TrainerBase.__init__(self)
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        check_settings(cfg)
        self.cfg = cfg
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER

        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        check_test_sets(cfg)
        precision, reason = choose_precision(cfg)
        logger.info("Training in %s: %s", precision_name(precision), reason)
        self.ema = build_ema(cfg, model) if cfg.MODEL_EMA.ENABLED else None
        if isinstance(data_loader, TrainLoader):
            freeze_unreached(model, data_loader.first_batch(), precision)
        if cfg.SOLVER.COMPILE:
            model.compile_parts()
        device_ids = {} if next(model.parameters()).is_cuda else {"device_ids": None}
        self._trainer = GuardedTrainer(
            create_ddp_model(
                model, broadcast_buffers=False, gradient_as_bucket_view=True, **device_ids
            ),
            data_loader,
            optimizer,
            precision=precision,
            accumulation=cfg.SOLVER.GRADIENT_ACCUMULATION,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = TrainingCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            cfg=cfg,
            keep=cfg.SOLVER.CHECKPOINT_KEEP,
            trainer=weakref.proxy(self),
        )
        if self.ema is not None:
            self.checkpointer.add_checkpointable("ema", self.ema)
        self.register_hooks(self.build_hooks())

    def train(self) -> dict[str, Any] | None:
        """Train to the end, or until SOLVER.PATIENCE is out.

        Returns:
            the last evaluation's results, on the main process; None if there was none.

        Raises:
            ValueError: another process trains in OUTPUT_DIR, or checkpoints do not fit on its disk.
        """
        if comm.is_main_process() and self.cfg.OUTPUT_DIR:
            self._enter_folder()
        with contextlib.suppress(StopTraining):
            try:
                super().train()
            finally:
                if comm.is_main_process() and self.cfg.OUTPUT_DIR:
                    unlock(self.cfg.OUTPUT_DIR)
        return getattr(self, "_last_eval_results", None) if comm.is_main_process() else None

    def _enter_folder(self) -> None:
        folder = self.cfg.OUTPUT_DIR
        lock(folder)
        check_disk(self.cfg, self._trainer.model)
        if self.start_iter == 0:
            set_aside(folder)
        elif self.ema is None:
            set_aside(folder, AVERAGED)  # it would pass for an average of this run
        write_config(self.cfg)

    def resume_or_load(self, resume: bool = True) -> None:
        """As in Detectron2; says which keys differ from those of the run that is resumed.

        Raises:
            CheckpointError: the checkpoint does not fit this config.
        """
        changes = changed_keys(self.cfg) if resume and self.checkpointer.has_checkpoint() else {}
        try:
            super().resume_or_load(resume)
        except CheckpointError as error:
            if not changes:
                raise
            raise CheckpointError(f"{error} Changed: {describe_changes(changes)}") from error
        report_changes(changes)

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's hooks, with ours at the places where their order matters."""
        cfg, step = self.cfg, self._trainer
        timer, *rest = super().build_hooks()
        averaging = Averaging(self.ema, step, self.checkpointer) if self.ema else None
        evaluation = next(i for i, h in enumerate(rest) if isinstance(h, hooks.EvalHook))
        spike_factor = cfg.SOLVER.LOSS_SPIKE_FACTOR
        return [
            timer,
            Forecast(),
            StepSeed(self.data_loader) if isinstance(self.data_loader, TrainLoader) else None,
            NonFiniteGuard(step, cfg.SOLVER.NONFINITE_LIMIT, cfg.OUTPUT_DIR),
            LossSpikeReporter(step, spike_factor) if spike_factor else None,
            averaging,
            *rest[:evaluation],  # schedule, precise BN, and then the checkpoint of this step
            Preemption(step, self.checkpointer),
            hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self.evaluate),
            (
                BestWeights(self.checkpointer, best_metrics(cfg), self.weights)
                if comm.is_main_process() and cfg.DATASETS.TEST
                else None
            ),
            ValidationLoss(cfg, self.model_to_evaluate) if cfg.TEST.LOSS_PERIOD else None,
            (
                ValidationPictures(cfg, self.evaluated_model)
                if comm.is_main_process() and cfg.DATASETS.TEST and cfg.VIS_PERIOD > 0
                else None
            ),
            self._early_stopping(averaging) if cfg.SOLVER.PATIENCE else None,
            *rest[evaluation + 1 :],
        ]

    def _early_stopping(self, averaging: Averaging | None) -> EarlyStopping:
        solver = self.cfg.SOLVER

        def finish() -> None:
            self.checkpointer.save("model_final", iteration=self.iter)
            if averaging is not None:
                averaging.write_final()

        period = self.cfg.TEST.EVAL_PERIOD
        metrics = best_metrics(self.cfg).values()
        return EarlyStopping(metrics, period, solver.PATIENCE, solver.MIN_DELTA, finish)

    def build_writers(self) -> list[EventWriter]:
        return build_writers(self.cfg, self.max_iter)

    def weights(self, kind: str) -> nn.Module:
        """The model with the "averaged" weights, or with the "latest" ones."""
        return self.ema.module if kind == "averaged" else unwrap(self.model)

    def evaluated_model(self) -> nn.Module:
        """The averaged weights if MODEL_EMA says so, the latest ones otherwise."""
        return self.weights(evaluated_kinds(self.cfg)[0])

    def model_to_evaluate(self) -> nn.Module:
        """:meth:`evaluated_model` on the device, the same in all processes; a collective call."""
        return same_everywhere(self.evaluated_model(), next(self.model.parameters()).device)

    def evaluate(self) -> dict[str, Any]:
        """Evaluate on DATASETS.TEST, the images shared among the processes.

        With MODEL_EMA.EVAL_BOTH the results of the second kind of weights stand under its name.
        """
        device, others = next(self.model.parameters()).device, {}
        # The preferred kind comes last, so that the files left are of it.
        for kind in evaluated_kinds(self.cfg)[1:]:
            logger.info("Evaluating the %s weights, then the others", kind)
            others[kind] = self.test(self.cfg, same_everywhere(self.weights(kind), device))
        results = self.test(self.cfg, self.model_to_evaluate())
        self._last_eval_results = {**results, **{k: v for k, v in others.items() if v}}
        return self._last_eval_results

    @classmethod
    def test(
        cls, cfg: CfgNode, model: nn.Module, evaluators: list[DatasetEvaluator] | None = None
    ) -> dict[str, Any]:
        """As Detectron2's; with MODEL.CORNERNET.TEST.FAST of a faster copy of the model.

        What COCO's code prints goes to the log, which has the table anyway.
        """
        with printed_to_log():
            return super().test(cfg, tested_model(cfg, model), evaluators)

    @classmethod
    def load_weights(cls, cfg: CfgNode, model: nn.Module, resume: bool = False) -> bool:
        """Load what --eval-only evaluates: MODEL.WEIGHTS, or with ``resume`` the last checkpoint.

        Averaged weights in the file are preferred as MODEL_EMA says.

        Returns:
            whether they are averaged weights.

        Raises:
            CheckpointError: there is no file, or it lacks weights of the model, or they are NaN.
        """
        checkpointer = TrainingCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        path = cfg.MODEL.WEIGHTS
        if resume and checkpointer.has_checkpoint():
            path = checkpointer.get_checkpoint_file()
        if not path:
            raise CheckpointError(
                "there are no weights: set MODEL.WEIGHTS to the file of a trained model"
                + (f"; {cfg.OUTPUT_DIR} holds no checkpoint" if resume else "")
            )
        rest = checkpointer.load(path, checkpointables=[])
        checkpointer.check_complete(path)
        ema = cfg.MODEL_EMA
        if not (ema.ENABLED and ema.USE_EMA_WEIGHTS_FOR_EVAL_ONLY and "ema" in rest):
            return bool(rest.get("averaged"))
        model.load_state_dict(averaged_weights(rest["ema"]), strict=False)
        logger.info("Evaluating the averaged weights")
        return True

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        scaled = DefaultTrainer.auto_scale_workers(cfg, num_workers)
        if scaled is not cfg:
            scale_ema(scaled, num_workers / cfg.SOLVER.REFERENCE_WORLD_SIZE)
        return scaled

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> TrainLoader:
        return build_train_loader(cfg, CornerNetDatasetMapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> DataLoader:
        """Detectron2's loader, reading images as training does."""
        mapper = CornerNetDatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        return build_evaluator(cfg, dataset_name, output_folder)

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["_trainer"] = self._trainer.state_dict()  # Detectron2 0.6 leaves the optimizer out
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        TrainerBase.load_state_dict(self, state_dict)
        if "_trainer" in state_dict:
            self._trainer.load_state_dict(state_dict["_trainer"])
