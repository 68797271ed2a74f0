"""From a config and a file of weights to Detectron2's own predictor."""

from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor

from ..config import override
from ..engine import CornerNetTrainer
from ..engine.evaluation import tested_model
from ..hardware import check_device
from ..model_zoo import load_config

__all__ = ["build_predictor", "load_config", "override"]


def build_predictor(cfg: CfgNode) -> DefaultPredictor:
    """Makes Detectron2's predictor, with weights of any published format, averaged if there are.

    With MODEL.CORNERNET.TEST.FAST its model is a prepared one, see
    :func:`cornernet_d2.prepare_for_inference`.

    Raises:
        CheckpointError: MODEL.WEIGHTS is empty or no file, or its weights are not the model's.
    """
    check_device(cfg.MODEL.DEVICE)
    unloaded = cfg.clone()
    unloaded.MODEL.WEIGHTS, unloaded.MODEL.TIMM.PRETRAINED = "", ""  # both come from the file
    predictor = DefaultPredictor(unloaded)
    CornerNetTrainer.load_weights(cfg, predictor.model)
    predictor.model = tested_model(cfg, predictor.model)
    return predictor
