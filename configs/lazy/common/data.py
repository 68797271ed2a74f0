"""COCO 2017 with the paper's augmentations; what data and model share is the model's."""

from detectron2.config import LazyCall as L
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data import transforms as T
from detectron2.evaluation import COCOEvaluator
from omegaconf import OmegaConf

from cornernet_d2.data import CornerNetDatasetMapper
from cornernet_d2.data.augmentation import RandomScaleCrop
from cornernet_d2.data.colors import ColorJitter

dataloader = OmegaConf.create()

dataloader.train = L(build_detection_train_loader)(
    dataset=L(get_detection_dataset_dicts)(names="coco_2017_train", filter_empty=False),
    mapper=L(CornerNetDatasetMapper)(
        is_train=True,
        augmentations=[
            L(RandomScaleCrop)(
                size=[511, 511], scales=[0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3], border=128
            ),
            L(ColorJitter)(strength=0.4, lighting=0.1, image_format="${...image_format}"),
            L(T.RandomFlip)(horizontal=True),
        ],
        image_format="${model.input_format}",
        target_generator="${model.target_generator}",
        # Of whole cells at least: the model extends targets to the canvas that its backbone needs.
        size_divisibility="${model.target_generator.stride}",
        padding="${model.padding}",
    ),
    total_batch_size=49,
    num_workers=4,
)

dataloader.test = L(build_detection_test_loader)(
    dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
    mapper=L(CornerNetDatasetMapper)(
        is_train=False,
        augmentations=[],  # at the original resolution
        image_format="${model.input_format}",
    ),
    num_workers=4,
)

dataloader.evaluator = L(COCOEvaluator)(dataset_name="${..test.dataset.names}")
