"""Pictures of a training and of its evaluations: how many, of what, and where."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from tiny_run import TINY_NETWORK, make_dataset, tiny_config, tiny_network

from cornernet_d2.engine import CornerNetTrainer
from cornernet_d2.modeling.monitoring import pair_distances


def test_pictures_are_written_at_every_evaluation(tmp_path: Path) -> None:
    make_dataset(str(tmp_path))
    cfg = tiny_config(
        str(tmp_path), *TINY_NETWORK, "MODEL.META_ARCHITECTURE", "CornerNet", "VIS_PERIOD", 2
    )
    cfg.merge_from_list(["MODEL.CORNERNET.NUM_CLASSES", 1, "SOLVER.MAX_ITER", 4])
    cfg.merge_from_list(["SOLVER.STEPS", (), "TEST.EVAL_PERIOD", 2, "SOLVER.IMS_PER_BATCH", 2])
    cfg.merge_from_list(["SOLVER.WARMUP_ITERS", 0, "LOGGERS", []])
    torch.manual_seed(0)
    trainer = CornerNetTrainer(cfg)
    assert "bbox" in trainer.train()  # gives the last evaluation's results
    files = sorted(p.name for p in (tmp_path / "output" / "pictures").iterdir())
    expected = [f"training_{i:07d}.jpg" for i in (0, 2)]
    # 8 of the 12 images, the same at both evaluations
    expected += [f"validation_{n}_{i:07d}.jpg" for n in range(8) for i in (1, 3)]
    assert files == expected
    for name in files:
        assert cv2.imread(str(tmp_path / "output" / "pictures" / name)).shape[1] > 900
    assert not trainer.storage._vis_data


@pytest.mark.parametrize("pairing", ["embedding", "centripetal", "central_region"])
def test_distances_are_those_of_the_true_corners(pairing: str) -> None:
    kind = "embedding" if pairing == "embedding" else "centripetal"
    cfg = tiny_network("CornerNet-HG104", "MODEL.CORNERNET.PAIRING", kind)
    if pairing == "central_region":
        cfg.MODEL.CORNERNET.CENTRIPETAL.RULE = pairing
    model = CornerNetTrainer.build_model(cfg)
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.tensor([[8.0, 8.0, 32.0, 40.0], [16.0, 8.0, 48.0, 56.0]]))
    instances.gt_classes = torch.tensor([0, 0])
    (targets,) = model.corner_targets([{"instances": instances}], model.canvas([(64, 64)]))
    maps = {corner: {name: torch.zeros(1, 2, 16, 16) for name in ("embedding", "shift")}
            for corner in ("tl", "br")}  # fmt: skip
    maps["tl"]["embedding"][0, 0, 2, 2], maps["tl"]["embedding"][0, 0, 2, 4] = 1.0, 3.0
    maps["br"]["embedding"][0, 0, 10, 8], maps["br"]["embedding"][0, 0, 14, 12] = 1.25, 6.0
    for corner, places in (("tl", [(2, 2), (2, 4)]), ("br", [(10, 8), (14, 12)])):
        for (y, x), size in zip(places, [(6.0, 8.0), (8.0, 12.0)]):
            maps[corner]["shift"][0, :, y, x] = (torch.tensor(size) / 2).log()
    found = pair_distances(maps, targets, model.pairing)
    if pairing == "central_region":
        assert found is None and model.pairing.limit is None
    elif pairing == "embedding":
        np.testing.assert_allclose(found, [[0.25, 5.0], [1.75, 3.0]])
        assert model.pairing.limit == 0.5
    else:
        np.testing.assert_allclose(found.diagonal(), 0, atol=1e-6)
        assert found[0, 1] == pytest.approx(np.log(10 / 6)) and model.pairing.limit == 0.6
