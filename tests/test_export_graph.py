"""What is exported: the graph of a detector, its soft-NMS, and the comparison with the model."""

import runpy

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from test_export import MAX_SIDE, ROOT, model

from cornernet_d2.canvas import PADDINGS
from cornernet_d2.export import compare, report_lines
from cornernet_d2.export.detector import Detector, without_views
from cornernet_d2.export.parity import blurred_noise, match
from cornernet_d2.export.soft_nms import PickLoop, soft_nms_picks
from cornernet_d2.modeling.soft_nms import batched_soft_nms


@pytest.mark.parametrize("padding", PADDINGS)
@torch.no_grad()
def test_the_graph_places_images_as_the_canvas_does(padding):
    exported = model("MODEL.CORNERNET.PADDING", padding)
    detector = Detector(exported, raw=True)
    for image in (*blurred_noise(exported), torch.rand(3, 15, 31) * 255, torch.rand(3, 1, 1)):
        pixels, canvas = exported.preprocess_image([{"image": image}])
        torch.testing.assert_close(detector.place(image[None]), pixels, rtol=0, atol=0)
        wanted = exported.corner_inference.candidates(exported, [image])
        boxes, scores, _, classes = detector(image[None])
        torch.testing.assert_close(scores[0], wanted.scores, rtol=0, atol=1e-6)
        good = scores[0] >= 0
        torch.testing.assert_close(boxes[0][good], wanted.boxes[good], rtol=0, atol=1e-4)
        assert torch.equal(classes[0][good], wanted.classes[good])


@pytest.mark.parametrize("method", ["gaussian", "linear", "hard"])
@pytest.mark.parametrize("exponent", [None, 10.0])
def test_soft_nms_of_picks_equals_that_of_classes(method, exponent):
    generator = torch.Generator().manual_seed(3)
    start = torch.rand(2, 60, 2, generator=generator) * 20
    boxes = torch.cat((start, start + 8 * torch.rand(2, 60, 2, generator=generator) + 2), -1)
    scores = torch.rand(2, 60, generator=generator) - 0.2
    corners = torch.rand(2, 60, 2, generator=generator)
    classes = torch.randint(3, (2, 60), generator=generator)
    settings = {"method": method, "sigma": 0.5, "iou_threshold": 0.3, "min_score": 0.05}
    loop = PickLoop(**settings, exponent=exponent, picks=25)
    picks = soft_nms_picks(boxes, scores, corners, classes, loop)
    for i in range(2):
        merging = {"corner_scores": corners[i], "exponent": exponent} if exponent else {}
        one = (boxes[i], scores[i], classes[i])
        keep, wanted, *merged = batched_soft_nms(*one, **settings, **merging, max_detections=25)
        count = int(picks.count[i])
        assert count == len(keep) > 0
        torch.testing.assert_close(picks.scores[i, :count], wanted)
        wanted_boxes = merged[0] if merged else boxes[i][keep]
        torch.testing.assert_close(picks.boxes[i, :count], wanted_boxes)
        assert torch.equal(picks.classes[i, :count], classes[i][keep])
        assert not picks.scores[i, count:].any() and (picks.classes[i, count:] == -1).all()


def test_the_host_step_of_raw_pairs():
    soft_nms = runpy.run_path(str(ROOT / "docs" / "examples" / "soft_nms.py"))["soft_nms"]
    generator = torch.Generator().manual_seed(3)
    start = torch.rand(60, 2, generator=generator) * 20
    boxes = torch.cat((start, start + 8 * torch.rand(60, 2, generator=generator) + 2), -1)
    scores = torch.rand(60, generator=generator) - 0.2
    classes = torch.randint(3, (60,), generator=generator)
    found = soft_nms(boxes.numpy(), scores.numpy(), classes.numpy(), 0.5, 0.05, 25)
    settings = {"method": "gaussian", "sigma": 0.5, "iou_threshold": 0.5, "min_score": 0.05}
    keep, wanted = batched_soft_nms(boxes, scores, classes, **settings, max_detections=25)
    assert [x[2] for x in found] == classes[keep].tolist() and len(found) > 10
    torch.testing.assert_close(torch.tensor([x[1] for x in found]), wanted)
    torch.testing.assert_close(torch.tensor(np.array([x[0] for x in found])), boxes[keep])


def test_differences_are_found():
    wanted = Instances((20, 20))
    wanted.pred_boxes = Boxes(torch.tensor([[1.0, 1, 9, 9], [2, 2, 8, 8], [1, 1, 9, 9]]))
    wanted.scores, wanted.pred_classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0])
    boxes = wanted.pred_boxes.tensor
    given = boxes.flip(0) + 0.125, wanted.scores.flip(0), wanted.pred_classes.flip(0)
    assert match(wanted, *given) == (0, 0.125, 0.0)
    assert match(wanted, boxes, wanted.scores - 0.25, wanted.pred_classes)[0] == 0
    assert match(wanted, boxes, wanted.scores, torch.tensor([0, 2, 0]))[0] == 2
    assert match(wanted, boxes + 2, wanted.scores, wanted.pred_classes)[0] == 6
    assert match(wanted, boxes[:0], wanted.scores[:0], wanted.pred_classes[:0])[0] == 3

    def shifted(images):
        found = without_views(exported).inference(
            [{"image": x} for x in images], do_postprocess=False
        )
        most = max(map(len, found))
        pad = [most - len(x) for x in found]
        rows = [torch.nn.functional.pad(x.scores, (0, n)) for x, n in zip(found, pad)]
        boxes = [
            torch.nn.functional.pad(x.pred_boxes.tensor + 0.25, (0, 0, 0, n))
            for x, n in zip(found, pad)
        ]
        classes = [torch.nn.functional.pad(x.pred_classes, (0, n)) for x, n in zip(found, pad)]
        counts = torch.tensor([len(x) for x in found])
        return torch.stack(boxes), torch.stack(rows), torch.stack(classes), counts

    exported = model()
    report = compare(exported, shifted, max_side=MAX_SIDE)
    assert not report["passed"] and abs(report["box"] - 0.25) < 1e-3
    assert report_lines(report)[-1].startswith("DIFFERENT")
