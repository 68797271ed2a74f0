"""A model in a file alone: what is saved with it, and what is found with it."""

import copy
import json
import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data import transforms as T
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from test_checkpoint_formats import tiny_state
from tiny_run import tiny_network, train

import cornernet_d2
from cornernet_d2.checkpoint import (
    CONVENTIONS,
    Checkpoint,
    CheckpointError,
    CornerNetCheckpointer,
    build_config,
    save_torch_file,
)
from cornernet_d2.checkpoint.conventions import to_config
from cornernet_d2.modeling import CornerInference, InferenceWithTTA
from cornernet_d2.predictor import build, memory, tiling
from cornernet_d2.predictor.images import network_size
from cornernet_d2.tools.convert import convert

NAMES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    MetadataCatalog.get("predictor_test").thing_classes = NAMES
    keys = ("INPUT.FORMAT", "RGB", "DATASETS.TEST", ("predictor_test",), "INPUT.MIN_SIZE_TEST", 48)
    cfg = tiny_network("CornerNet-Shapes", *keys, "TEST.DETECTIONS_PER_IMAGE", 7)
    CornerNetCheckpointer(build_model(cfg), str(folder), cfg=cfg).save("model")
    MetadataCatalog.remove("predictor_test")  # as in another process
    return folder / "model.pth"


@pytest.fixture(scope="module")
def predictor(model_file: Path) -> cornernet_d2.Predictor:
    return cornernet_d2.load(model_file, device="cpu")


def picture(height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def assert_same(found: Instances, expected: Instances) -> None:
    assert found.image_size == expected.image_size and len(found) == len(expected) > 0
    torch.testing.assert_close(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    torch.testing.assert_close(found.scores, expected.scores)
    assert torch.equal(found.pred_classes, expected.pred_classes)


def test_a_file_is_all_that_is_needed(model_file: Path, predictor: cornernet_d2.Predictor) -> None:
    assert predictor.class_names == NAMES and not predictor.averaged
    assert predictor.cfg.INPUT.FORMAT == "RGB" and not predictor.model.training
    expected = DefaultPredictor(predictor.cfg)(picture())["instances"]
    assert_same(predictor(picture()), expected)
    contents = torch.load(model_file, weights_only=True)["cornernet_d2"]
    assert contents["classes"] == NAMES and contents["input"]["format"] == "RGB"


def test_paths_arrays_lists_and_folders(predictor: cornernet_d2.Predictor, tmp_path: Path) -> None:
    pictures = {"a.png": picture(), "b.png": picture(seed=1), "c.bmp": picture(64, 30)}
    for name, pixels in pictures.items():
        cv2.imwrite(str(tmp_path / name), pixels)
    one_by_one = [predictor(pixels) for pixels in pictures.values()]
    for given in (tmp_path, list(pictures.values()), [tmp_path / name for name in pictures]):
        for found, expected in zip(predictor(given), one_by_one, strict=True):
            assert_same(found, expected)
    assert_same(predictor(str(tmp_path / "c.bmp")), one_by_one[2])
    assert predictor([]) == []


def test_what_is_no_image_is_named(predictor: cornernet_d2.Predictor, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(ValueError, match="cannot read .*a.png"):
        predictor([picture(), tmp_path / "a.png"])
    with pytest.raises(ValueError, match=r"\(H, W, 3\) uint8.*float64"):
        predictor(np.zeros((4, 4, 3)))
    good, bad, after = predictor.stream([picture(), tmp_path / "a.png", picture()])
    assert bad.instances is None and "a.png" in bad.error
    assert_same(after.instances, good.instances)


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 2)])
def test_thin_and_tiny_images(predictor: cornernet_d2.Predictor, size: tuple[int, int]) -> None:
    assert predictor(picture(*size)).image_size == size


def test_network_size_is_detectron2s_but_never_empty() -> None:
    for height, width in ((480, 640), (31, 500), (7, 7)):
        expected = T.ResizeShortestEdge([240, 240], 320).get_transform(picture(height, width))
        assert network_size(height, width, 240, 320) == (expected.new_h, expected.new_w)
    assert network_size(1, 3000, 240, 320) == (1, 320)
    assert network_size(9, 5, 0, 320) == (9, 5)


def test_overrides_and_averaged_weights(tmp_path: Path) -> None:
    trainer = train(str(tmp_path), "MODEL_EMA.ENABLED", True, "MODEL_EMA.DECAY", 0.5)
    file = tmp_path / "output" / "model_final.pth"
    loaded = cornernet_d2.load(file, "cpu", opts=["TEST.DETECTIONS_PER_IMAGE", 3])
    assert loaded.averaged and loaded.cfg.TEST.DETECTIONS_PER_IMAGE == 3
    assert torch.equal(loaded.model.size.weight, trainer.ema.module.size.weight)
    for name in ("model_best.pth", "model_final_ema.pth", "model_final.pth"):
        notes = torch.load(file.parent / name, weights_only=True)["cornernet_d2"]
        assert notes["classes"] == ["thing"]
        assert CfgNode.load_cfg(notes["config"]).MODEL.META_ARCHITECTURE == "TinyDetector"
    with pytest.raises(ValueError, match="TEST.DETECTIONS_PER_IMAG"):
        cornernet_d2.load(file, "cpu", opts=["TEST.DETECTIONS_PER_IMAG", 3])


def test_files_of_other_code_bases_and_converted_ones(tmp_path: Path) -> None:
    foreign, own = tmp_path / "CornerNet_500000.pkl", tmp_path / "model.pth"
    save_torch_file(tiny_state(), str(foreign), legacy=True)
    convert(str(foreign), str(own), source_classes=list("abcde"), classes=["c", "a"])
    first, second = (cornernet_d2.load(path, "cpu") for path in (foreign, own))
    assert first.cfg.MODEL.CORNERNET.TEST.CONVENTION == "official"
    assert second.class_names == ["c", "a"] and second.cfg.MODEL.CORNERNET.NUM_CLASSES == 2
    heat, chosen = (x.model.head[-1].tl.heatmap[1].bias for x in (first, second))
    assert torch.equal(heat[[2, 0]], chosen)


@pytest.mark.parametrize(
    "name, preset",
    [
        ("CornerNet-HG104", "default"),
        ("CornerNet-HG104-official", "official"),
        ("CornerNet-HG104-mmdet", "mmdet"),
        ("CornerNet-Squeeze", "default"),
        ("CornerNet-Squeeze-official", "official"),
        ("CentripetalNet-HG104", "default"),
        ("CentripetalNet-HG104-mmdet", "mmdet"),
        ("CentripetalNet-HG104-official", "centripetalnet"),
    ],
)
def test_the_config_of_weights_alone_is_the_shipped_one(name: str, preset: str) -> None:
    cfg = cornernet_d2.model_zoo.get_config(name)
    with torch.device("meta"):
        model = cornernet_d2.model_zoo.get(name, device="meta")
    convention = CONVENTIONS[preset]
    found = build_config(Checkpoint(model.state_dict(), "d2", 0, convention=convention), "file")
    cfg.merge_from_list([item for pair in to_config(convention).items() for item in pair])
    assert found.dump() == cfg.dump()


def test_a_predictor_downloads_no_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of timm's backbone are in the file; without MODEL.WEIGHTS it would get others."""
    seen = []
    monkeypatch.setattr(build, "DefaultPredictor", lambda cfg: seen.append(cfg) or 1 / 0)
    cfg = tiny_network("CornerNet-Shapes", "MODEL.WEIGHTS", "model.pth")
    with pytest.raises(ZeroDivisionError):
        build.build_predictor(cfg)
    assert not seen[0].MODEL.WEIGHTS and not seen[0].MODEL.TIMM.PRETRAINED


def test_files_without_config_and_places_without_file(tmp_path: Path) -> None:
    cfg = tiny_network("CornerNet-Shapes")
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="neither a config nor the input.*--config-file"):
        cornernet_d2.load(tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="folder without model.safetensors"):
        cornernet_d2.load(tmp_path)
    with pytest.raises(CheckpointError, match="nothing.pth does not exist"):
        cornernet_d2.load("nothing.pth")


def test_damaged_notes_are_one_line(model_file: Path, tmp_path: Path) -> None:
    contents = torch.load(model_file, weights_only=True)
    for number, text in enumerate(("a: [", "text", "MODEL: 3", "MODEL: {DEVICE: 7}", 5)):
        contents["cornernet_d2"]["config"] = text
        torch.save(contents, tmp_path / f"{number}.pth")
        with pytest.raises(CheckpointError, match=f"{number}.pth cannot be used") as error:
            cornernet_d2.load(tmp_path / f"{number}.pth")
        assert "\n" not in str(error.value)


def test_safetensors(predictor: cornernet_d2.Predictor, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    predictor.save_pretrained(tmp_path / "hub")
    names = sorted(path.name for path in (tmp_path / "hub").iterdir())
    assert names == ["config.yaml", "model.safetensors"]
    assert str(tmp_path) not in (tmp_path / "hub" / "config.yaml").read_text()
    again = cornernet_d2.Predictor.from_pretrained(tmp_path / "hub", device="cpu")
    assert again.class_names == NAMES
    assert_same(again(picture()), predictor(picture()))
    file = tmp_path / "hub" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="model.safetensors is damaged"):
        cornernet_d2.load(tmp_path / "hub")


def test_safetensors_of_a_prepared_model(model_file: Path, tmp_path: Path) -> None:
    """It lacks norms and inner heads: what is written are the weights that it was made from."""
    pytest.importorskip("safetensors")
    opts = ["MODEL.CORNERNET.TEST.FAST", True]
    fast = cornernet_d2.load(model_file, device="cpu", opts=opts)
    fast.save_pretrained(tmp_path)
    again = cornernet_d2.Predictor.from_pretrained(tmp_path, device="cpu")
    assert_same(again(picture()), fast(picture()))


def test_a_name_on_the_hub(
    predictor: cornernet_d2.Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library is stood for by the one function that is used of it."""
    pytest.importorskip("safetensors")
    predictor.save_pretrained(tmp_path)

    def download(name: str, file: str) -> str:
        if name != "someone/ants":
            raise OSError("404\nno such repository")
        return str(tmp_path / file)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=download))
    assert cornernet_d2.load("someone/ants", "cpu").class_names == NAMES
    with pytest.raises(CheckpointError, match="someone/bees is neither here nor on the hub: 404$"):
        cornernet_d2.load("someone/bees")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match="pip install huggingface_hub"):
        cornernet_d2.load("someone/ants")


class TestMemory:
    def test_the_estimate_is_what_a_run_takes(self, predictor: cornernet_d2.Predictor) -> None:
        model, side = predictor.model, 4 * predictor.model.divisibility
        with torch.no_grad(), memory._Peak() as run:
            model.last_maps(torch.zeros(1, 3, side, side))
        assert memory.bytes_per_pixel(model) == pytest.approx(run.peak / side**2, rel=0.1)
        # the image in float32, and at stride 2 the stem's 8 channels before and after its norm
        assert run.peak / side**2 >= 12 + 2 * 8

    def test_a_huge_image_is_refused_before_it_is_tried(
        self, predictor: cornernet_d2.Predictor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cfg = predictor.cfg.clone()
        cfg.INPUT.MIN_SIZE_TEST = 0
        unscaled = cornernet_d2.Predictor(predictor.model, cfg)
        monkeypatch.setattr(memory, "SMALL", 64 * 64)
        monkeypatch.setattr(memory, "available_bytes", lambda _: 1 << 20)
        long = np.zeros((48, 999, 3), np.uint8)
        items = list(unscaled.stream([picture(), long, picture()]))
        assert [item.error is None for item in items] == [True, False, True]
        assert "does not fit into memory: 0 megapixels need about" in items[1].error
        (tiled,) = unscaled.stream([long], tile=48)
        assert tiled.error is None

    @pytest.mark.parametrize("side, pixels", [(9_000, "162"), (20_000, "800")])
    def test_the_message_comes_before_the_memory_is_taken(
        self,
        predictor: cornernet_d2.Predictor,
        monkeypatch: pytest.MonkeyPatch,
        side: int,
        pixels: str,
    ) -> None:
        cfg = predictor.cfg.clone()
        cfg.INPUT.MIN_SIZE_TEST = 0
        unscaled = cornernet_d2.Predictor(predictor.model, cfg)
        monkeypatch.setattr(memory, "available_bytes", lambda _: 1 << 30)
        huge = np.broadcast_to(np.uint8(0), (side, side, 3))  # of one byte; seen twice, mirrored
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        message = f"{pixels} megapixels need about .* GiB .* 1.0 GiB are free: use --tile"
        with pytest.raises(MemoryError, match=message):
            unscaled.detect([huge])
        (result,) = unscaled.stream([huge])
        assert result.error.startswith("the image does not fit into memory")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB

    def test_scales_and_mirror_images_count(
        self, predictor: cornernet_d2.Predictor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Defect: memory was estimated for the image as given, whatever its views."""
        seen = []
        monkeypatch.setattr(memory, "check_memory", lambda pixels, *_: seen.append(pixels))
        model = copy.copy(predictor.model)
        for scales, flip in (((1.0,), False), ((0.5, 2.0, 1.0), False), ((2.0,), True)):
            model.corner_inference = InferenceWithTTA(CornerInference(), scales, flip=flip)
            cornernet_d2.Predictor(model, predictor.cfg).check_memory([(64, 96)])
        model.corner_inference = CornerInference()
        cornernet_d2.Predictor(model, predictor.cfg).check_memory([(64, 96), (48, 96)])
        area = 64 * 96
        assert seen == [area, 4 * area, 8 * area, 2 * area]

    def test_available(self) -> None:
        assert memory.available_bytes(torch.device("cpu")) > 0


class TestTiling:
    @pytest.mark.parametrize("size", [(100, 64), (64, 64), (65, 300), (1000, 30)])
    def test_every_small_object_is_whole_in_a_tile(self, size: tuple[int, int]) -> None:
        height, width = size
        tiles = tiling.tile_boxes(height, width, 64)
        assert tiles.min() == 0 and tiles.amax(0)[2:].tolist() == [width, height]
        assert ((tiles[:, 2:] - tiles[:, :2]) <= 64).all()
        low = torch.cartesian_prod(torch.arange(width - 15), torch.arange(height - 15))
        boxes = torch.cat([low, low + 15], dim=1)[:, None]  # the overlap is 16
        inside = (tiles[:, :2] <= boxes[..., :2]) & (tiles[:, 2:] >= boxes[..., 2:])
        assert inside.all(-1).any(-1).all()

    def test_objects_are_found_once(self) -> None:
        """A detector that finds bright rectangles, whole or cut."""
        cfg = tiny_network("CornerNet-Shapes")
        picture = np.zeros((200, 300, 3), np.uint8)
        boxes = [(10, 10, 20, 20), (50, 40, 62, 52), (98, 100, 110, 112), (140, 20, 290, 180)]
        for number, (x0, y0, x1, y1) in enumerate(boxes, 1):
            picture[y0:y1, x0:x1] = 60 * number

        def detect(pictures: list[np.ndarray]) -> list[Instances]:
            found = []
            for number in range(1, len(boxes) + 1):
                rows, columns = (np.abs(pictures[0][..., 0] - 60.0 * number) < 25).nonzero()
                if not len(rows):
                    continue
                low, high = (columns.min(), rows.min()), (columns.max() + 1, rows.max() + 1)
                if len(rows) > 0.5 * (high[0] - low[0]) * (high[1] - low[1]):  # no blurred rim
                    found.append([*low, *high])
            result = Instances(pictures[0].shape[:2])
            result.pred_boxes = Boxes(torch.tensor(found, dtype=torch.float32).reshape(-1, 4))
            result.scores = torch.full((len(found),), 0.9)
            result.pred_classes = torch.zeros(len(found), dtype=torch.int64)
            return [result]

        found = tiling.detect_tiled(picture, 64, detect, cfg)
        sure = found[found.scores > 0.5].pred_boxes.tensor
        order = sure[:, 0].argsort()
        torch.testing.assert_close(sure[order], torch.tensor(boxes).float(), atol=6, rtol=0)
        assert (found.scores[:-1] >= found.scores[1:]).all()

    def test_small_pictures_are_seen_whole(self, predictor: cornernet_d2.Predictor) -> None:
        assert_same(predictor(picture(), tile=64), predictor(picture()))
        assert predictor(picture(100, 130), tile=64).image_size == (100, 130)


def test_notes_are_plain_values(predictor: cornernet_d2.Predictor, model_file: Path) -> None:
    notes = torch.load(model_file, weights_only=True)["cornernet_d2"]
    assert json.loads(json.dumps(notes)) == notes
