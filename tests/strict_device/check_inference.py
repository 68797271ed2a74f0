"""Inference with every option on the strict device: equal to the CPU, within its budget."""

import pytest
import torch

from tests.strict_device.cases import config, detect
from tests.strict_device.device import StrictDevice

SYNCS = 6  # a batch, before its result is read
TEST = "MODEL__CORNERNET__TEST__"
BLACK = {"MODEL__CORNERNET__PADDING": "center_black"}
FLIP = {TEST + "FLIP": True}
MERGE = {TEST + "MERGE__ENABLED": True}
SCALES = {TEST + "SCALES": [0.5, 1.0, 1.5]}
LINEAR = {TEST + "SOFT_NMS__METHOD": "linear"}
HARD = {TEST + "SOFT_NMS__METHOD": "hard"}
OFFICIAL = {TEST + "CONVENTION": "official", **BLACK}
MMDET = {TEST + "CONVENTION": "mmdet", "MODEL__CORNERNET__PADDING": "center_mean"}
CASES = {
    "default": {},
    "flip": FLIP,
    "scales and flip": SCALES | FLIP,
    "linear": LINEAR,
    "hard": HARD,
    "merge and flip": MERGE | FLIP,
    "merge linear": MERGE | LINEAR,
    "channels_last": {"MODEL__CORNERNET__CHANNELS_LAST": True},
    "nothing found": {TEST + "EMBEDDING_THRESHOLD": -1.0},
    "official": OFFICIAL | FLIP,
    "official linear": OFFICIAL | LINEAR,
    "official hard": OFFICIAL | HARD,
    "official merge and scales": OFFICIAL | MERGE | SCALES,
    "mmdet": MMDET | FLIP,
    "mmdet scales": MMDET | SCALES,
}


@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_cpu_and_in_budget(case: str) -> None:
    expected, _ = detect(config("cpu", **CASES[case]))
    found = [len(image) for image in expected]
    assert found == [0] * len(found) if case == "nothing found" else min(found) > 2
    with StrictDevice():
        actual, ledger = detect(config("cuda", **CASES[case]))
        for ours, theirs in zip(actual, expected):
            assert ours.scores.device.type == ours.pred_boxes.device.type == "cuda"
            torch.testing.assert_close(ours.scores.cpu(), theirs.scores)
            torch.testing.assert_close(ours.pred_boxes.tensor.cpu(), theirs.pred_boxes.tensor)
            assert torch.equal(ours.pred_classes.cpu(), theirs.pred_classes)
    ledger.check(f"a batch of inference ({case})", syncs=SYNCS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype: torch.dtype) -> None:
    with StrictDevice():
        results, ledger = detect(config("cuda", **FLIP), dtype)
        for result in results:
            assert len(result) > 2 and result.scores.dtype == torch.float32
            assert bool(result.scores.isfinite().all())
            assert bool(result.pred_boxes.tensor.isfinite().all())
    ledger.check("a batch of inference under autocast", syncs=SYNCS)
