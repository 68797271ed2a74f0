"""Names of parameters in every code base, and the checkpointer that reads their files."""

import hashlib
import json
import logging
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from cornernet_d2 import model_zoo
from cornernet_d2.checkpoint import (
    FORMATS,
    Checkpoint,
    CheckpointError,
    CornerNetCheckpointer,
    build_config,
    build_contents,
    detect_format,
    infer_architecture,
    parse,
    rename,
    save_torch_file,
)
from cornernet_d2.checkpoint.key_maps import sort_keys
from cornernet_d2.tools.convert import expected_shapes

KEYS = Path(__file__).parent / "fixtures" / "reference" / "keys_tiny.json"
# The authors' code under a current PyTorch: its 1,128 keys, and the 948 without counters that
# PyTorch 0.4.0 saved, joined by newlines.
OFFICIAL_ORDER = "33e7c36c3e9ab44cdb3f72a8c73fdc4ce71488830f593da2f71760753d7065f5"
OFFICIAL_ORDER_040 = "38e025a428e09aa3436e2e127f230bc2a6b8c5a53713f1783c668c36bc1fc5d6"
HG104 = {
    "MODEL.BACKBONE.NAME": "build_hourglass_backbone",
    "MODEL.HOURGLASS.STACKS": 2,
    "MODEL.HOURGLASS.DEPTH": 5,
    "MODEL.HOURGLASS.WIDTHS": [256, 256, 384, 384, 384, 512],
    "MODEL.HOURGLASS.BLOCKS": [2, 2, 2, 2, 2, 4],
    "MODEL.HOURGLASS.STEM_WIDTH": 128,
    "MODEL.HOURGLASS.OUT_CHANNELS": 256,
    "MODEL.CORNERNET.PAIRING": "embedding",
    "MODEL.CORNERNET.EMBEDDING.DIM": 1,
    "MODEL.CORNERNET.EMBEDDING.POSITION": False,
    "MODEL.CORNERNET.CENTER.ENABLED": False,
    "MODEL.CORNERNET.CASCADE_POOLING": False,
    "MODEL.CORNERNET.NUM_CLASSES": 80,
    "MODEL.CORNERNET.HEAD_WIDTH": 256,
    "MODEL.CORNERNET.HEAD_KERNEL": 3,
    "MODEL.CORNERNET.POOL_WIDTH": 128,
}
GUIDED = {
    "MODEL.CORNERNET.PAIRING": "centripetal",
    "MODEL.CORNERNET.CENTRIPETAL.GUIDED": True,
}
# MMDetection's 1,152 keys of CentripetalNet on Hourglass-104.
CENTRIPETAL_ORDER = "b0b2c545824cac2b07274ad7231de6903ccf6ed0b783a40054c004be29e015e0"
# ours, mmdet, the authors': from the two code bases' sources
CENTRIPETAL_NAMES = [
    (
        "head.0.tl.shift.branch.1.bias",
        "bbox_head.tl_centripetal_shift.0.1.conv.bias",
        "bbox_head.mid_tl_off_c_2.1.bias",
    ),
    (
        "head.1.br.guiding_shift.0.weight",
        "bbox_head.br_guiding_shift.1.0.conv.weight",
        "bbox_head.br_off_c.0.conv.weight",
    ),
    (
        "head.1.tl.shift.gather.weight",
        "bbox_head.tl_feat_adaption.1.weight",
        "bbox_head.tl_fadp.weight",
    ),
    (
        "head.0.br.shift.places.weight",
        "bbox_head.br_dcn_offset.0.conv.weight",
        "bbox_head.mid_br_offset.weight",
    ),
    (
        "head.1.tl.pool.p1.norm.bias",
        "bbox_head.tl_pool.1.direction1_conv.bn.bias",
        "bbox_head.tl_pool.p1_conv1.bn.bias",
    ),
    (
        "backbone.inter_convs.0.norm.bias",
        "backbone.conv1x1s.0.bn.bias",
        "backbone.inters_.0.1.bias",
    ),
    (
        "backbone.stacks.1.low2.up1.0.shortcut.weight",
        "backbone.hourglass_modules.1.low2.up1.0.downsample.0.weight",
        "backbone.hg_modules.1.low2.up1.0.skip.0.weight",
    ),
]
# CenterNet's names of a CornerNet without centres are the first release's.
OTHERS = ("centripetalnet", "squeeze", "centernet")
EMBEDDING_FORMATS = [fmt for fmt in FORMATS if fmt not in OTHERS]
TRIPLETS = {
    **HG104,
    "MODEL.CORNERNET.CENTER.ENABLED": True,
    "MODEL.CORNERNET.CASCADE_POOLING": True,
}
# Keys of the release's CenterNet-104 and -52 under a current PyTorch, and without counters.
CENTERNET_ORDERS = {
    2: (
        "78c56c29b010d0ad3090a3443fccaa0a545e11dc9ed6d62b62e8f581ee596562",
        "595b0d01fbb4758405fe8499401ff9c87684b40d7ad84aec3ac6ac33b623e747",
    ),
    1: (
        "0e01f2dd02302bb3e58572945237108f5d603abf27a9dbe7a85ac2000e04b4b3",
        "7fbb4d98c1720216febcfa282de5a78cfd4f7d6baf9607dd0471204ce49cee9b",
    ),
}
# ours, the release's: from its source
CENTERNET_NAMES = [
    ("head.0.tl.pool.look1.weight", "tl_cnvs.0.look_conv1.conv.weight"),
    ("head.1.br.pool.look2.norm.bias", "br_cnvs.1.look_conv2.bn.bias"),
    ("head.1.br.pool.mix2.weight", "br_cnvs.1.P2_look_conv.weight"),
    ("head.0.center.pool.p1.norm.weight", "ct_cnvs.0.p1_conv1.bn.weight"),
    ("head.0.center.pool.merge.norm.bias", "ct_cnvs.0.p_bn1.bias"),
    ("head.1.center.heatmap.1.bias", "ct_heats.1.1.bias"),
    ("head.0.center.offset.0.weight", "ct_regrs.0.0.conv.weight"),
    ("head.0.tl.embedding.1.bias", "tl_tags.0.1.bias"),
    ("backbone.inter_convs.0.norm.bias", "inters_.0.1.bias"),
]
SQUEEZE = {
    **HG104,
    "MODEL.BACKBONE.NAME": "build_squeeze_backbone",
    "MODEL.HOURGLASS.DEPTH": 4,
    "MODEL.HOURGLASS.WIDTHS": [256, 256, 384, 384, 512],
    "MODEL.HOURGLASS.BLOCKS": [2, 2, 2, 2, 4],
    "MODEL.CORNERNET.HEAD_KERNEL": 1,
}
# The 990 keys of the authors' CornerNet-Squeeze under a current PyTorch, and 845 without counters.
SQUEEZE_ORDER = "51ff9ffddeeb9320f6fa358a3d62ce6af8e327a333ceda9b94e53e3a0d164913"
SQUEEZE_ORDER_040 = "3fccac284b84b2741d9148a57f055000586c1e465b0c2982b41ee4b423009b43"
SMALL = {
    "MODEL.HOURGLASS.DEPTH": 1,
    "MODEL.HOURGLASS.WIDTHS": [4, 6],
    "MODEL.HOURGLASS.BLOCKS": [1, 1],
}
# ours, princeton, mmdet: from the three code bases' sources
NAMES = [
    ("backbone.stem.0.weight", "pre.0.conv.weight", "backbone.stem.0.conv.weight"),
    ("backbone.stem.0.norm.bias", "pre.0.bn.bias", "backbone.stem.0.bn.bias"),
    (
        "backbone.stem.1.shortcut.norm.running_var",
        "pre.1.skip.1.running_var",
        "backbone.stem.1.0.downsample.1.running_var",
    ),
    (
        "backbone.stacks.1.low2.low2.low2.low2.low2.3.conv2.norm.weight",
        "kps.1.low2.low2.low2.low2.low2.3.bn2.weight",
        "backbone.hourglass_modules.1.low2.low2.low2.low2.low2.3.bn2.weight",
    ),
    (
        "backbone.stacks.0.low2.low3.1.shortcut.weight",
        "kps.0.low2.low3.1.skip.0.weight",
        "backbone.hourglass_modules.0.low2.low3.1.downsample.0.weight",
    ),
    ("backbone.out_convs.1.weight", "cnvs.1.conv.weight", "backbone.out_convs.1.conv.weight"),
    ("backbone.inters.0.conv1.weight", "inters.0.conv1.weight", "backbone.inters.0.conv1.weight"),
    ("backbone.inter_convs.0.weight", "inters_.0.0.weight", "backbone.conv1x1s.0.conv.weight"),
    ("backbone.remap_convs.0.norm.bias", "cnvs_.0.1.bias", "backbone.remap_convs.0.bn.bias"),
    (
        "head.0.tl.pool.p1.weight",
        "tl_cnvs.0.p1_conv1.conv.weight",
        "bbox_head.tl_pool.0.direction1_conv.conv.weight",
    ),
    (
        "head.1.br.pool.p2.norm.weight",
        "br_cnvs.1.p2_conv1.bn.weight",
        "bbox_head.br_pool.1.direction2_conv.bn.weight",
    ),
    (
        "head.1.br.pool.merge.weight",
        "br_cnvs.1.p_conv1.weight",
        "bbox_head.br_pool.1.aftpool_conv.conv.weight",
    ),
    (
        "head.1.br.pool.skip.norm.bias",
        "br_cnvs.1.bn1.bias",
        "bbox_head.br_pool.1.conv1.bn.bias",
    ),
    (
        "head.0.tl.pool.out.norm.running_mean",
        "tl_cnvs.0.conv2.bn.running_mean",
        "bbox_head.tl_pool.0.conv2.bn.running_mean",
    ),
    (
        "head.0.tl.heatmap.0.bias",
        "tl_heats.0.0.conv.bias",
        "bbox_head.tl_heat.0.0.conv.bias",
    ),
    ("head.1.tl.embedding.1.bias", "tl_tags.1.1.bias", "bbox_head.tl_emb.1.1.conv.bias"),
    ("head.1.br.offset.1.weight", "br_regrs.1.1.weight", "bbox_head.br_off.1.1.conv.weight"),
]
LITE = {
    "pre.0.conv.weight": "hg.pre.0.conv.weight",
    "kps.0.up1.0.conv1.weight": "hg.hgs.0.up1.0.conv1.weight",
    "inters_.0.0.weight": "hg.inters_.0.0.weight",
    "cnvs_.0.1.bias": "hg.cnvs_.0.1.bias",
    "tl_cnvs.1.p_conv1.weight": "tl_modules.1.p_conv1.weight",
    "br_regrs.0.1.bias": "br_offs.0.1.bias",
    "tl_heats.0.1.bias": "tl_heats.0.1.bias",
}


def tiny_state(counters: bool = False) -> "OrderedDict[str, torch.Tensor]":
    """A princeton state dict of the small network, as PyTorch 0.4.0 leaves it."""
    entries = json.loads(KEYS.read_text())["keys"]
    generator = torch.Generator().manual_seed(0)
    state = OrderedDict()
    for entry in entries:
        if entry["key"].endswith("num_batches_tracked"):
            if counters:
                state[entry["key"]] = torch.tensor(7)
        else:
            state[entry["key"]] = torch.rand(entry["shape"], generator=generator) + 0.5
    return state


def tiny_config(preset: str = "CornerNet-HG104-official"):
    cfg = model_zoo.get_config(preset)
    architecture = infer_architecture(parse(tiny_state(), "tiny").weights)
    cfg.merge_from_list([item for pair in architecture.items() for item in pair])
    cfg.MODEL.DEVICE = "cpu"
    return cfg


class TestNames:
    @pytest.mark.parametrize("ours, princeton, mmdet", NAMES)
    def test_table(self, ours, princeton, mmdet):
        assert rename(ours, "d2", "princeton") == f"module.{princeton}"
        assert rename(ours, "d2", "mmdet") == mmdet
        assert rename(mmdet, "mmdet", "d2") == ours
        assert rename(f"module.{princeton}", "princeton", "d2") == ours
        assert rename(princeton, "princeton", "mmdet") == mmdet

    @pytest.mark.parametrize("princeton, lite", LITE.items())
    def test_lite(self, princeton, lite):
        assert rename(princeton, "princeton", "lite") == f"module.{lite}"
        assert rename(f"module.{lite}", "lite", "princeton") == f"module.{princeton}"

    @pytest.mark.parametrize(
        "key",
        [
            "optimizer",
            "kps.0.up3.0.conv1.weight",
            "tl_cnvs.0.p3_conv1.conv.weight",
            "pre.2.bn1.bias",
        ],
    )
    def test_what_is_no_parameter(self, key):
        assert rename(key, "princeton", "d2") is None

    def test_full_network_has_the_official_keys_in_the_official_order(self):
        ours = list(expected_shapes(HG104))
        official = sort_keys([rename(key, "d2", "princeton") for key in ours], "princeton")
        assert len(official) == 1128
        assert hashlib.sha256("\n".join(official).encode()).hexdigest() == OFFICIAL_ORDER
        old = [key for key in official if not key.endswith("num_batches_tracked")]
        assert hashlib.sha256("\n".join(old).encode()).hexdigest() == OFFICIAL_ORDER_040

    def test_squeeze_has_the_official_keys_in_the_official_order(self):
        shapes = expected_shapes(SQUEEZE)
        theirs = [rename(key, "d2", "squeeze") for key in shapes]
        assert detect_format(theirs) == ("squeeze", 990)
        assert [rename(key, "squeeze", "d2") for key in theirs] == list(shapes)
        official = sort_keys(theirs, "squeeze")
        assert hashlib.sha256("\n".join(official).encode()).hexdigest() == SQUEEZE_ORDER
        old = [key for key in official if not key.endswith("num_batches_tracked")]
        assert hashlib.sha256("\n".join(old).encode()).hexdigest() == SQUEEZE_ORDER_040
        meta = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        assert infer_architecture(meta) == SQUEEZE
        for source, target in (("squeeze", "lite"), ("lite", "squeeze")):
            key = "module.hg.hgs.0.up1.0.conv1.weight"  # both have it, of different blocks
            assert rename(key, source, target) is None

    @pytest.mark.parametrize("stacks, orders", CENTERNET_ORDERS.items())
    def test_centernet_has_the_release_s_keys_in_its_order(self, stacks, orders):
        shapes = expected_shapes({**TRIPLETS, "MODEL.HOURGLASS.STACKS": stacks})
        theirs = [rename(key, "d2", "centernet") for key in shapes]
        assert detect_format(theirs) == ("centernet", 630 * stacks)
        assert [rename(key, "centernet", "d2") for key in theirs] == list(shapes)
        every = sort_keys(theirs, "centernet")
        old = [key for key in every if not key.endswith("num_batches_tracked")]
        found = tuple(hashlib.sha256("\n".join(keys).encode()).hexdigest() for keys in (every, old))
        assert found == orders

    @pytest.mark.parametrize("ours, theirs", CENTERNET_NAMES)
    def test_centernet_table(self, ours, theirs):
        assert rename(ours, "d2", "centernet") == f"module.{theirs}"
        assert rename(theirs, "centernet", "d2") == ours

    def test_centernet_goes_both_ways_and_nowhere_else(self):
        state = {
            k: torch.rand(shape) for k, shape in expected_shapes({**TRIPLETS, **SMALL}).items()
        }
        back = parse(build_contents(parse(state, "file"), "centernet"), "file")
        assert back.source == "centernet" and back.convention.preset == "official"
        assert set(back.weights) == set(state) and not back.left_over
        assert all(back.weights[k] is v for k, v in state.items())
        assert infer_architecture(back.weights) == {**TRIPLETS, **SMALL}
        cfg = build_config(back, "file")
        assert cfg.MODEL.CORNERNET.TEST.CONVENTION == "centernet"
        for target in ("princeton", "lite", "mmdet", "centripetalnet", "squeeze"):
            with pytest.raises(CheckpointError, match="not the blocks of this one"):
                build_contents(back, target)

    @pytest.mark.parametrize("key, value", [("DIM", 2), ("POSITION", True)])
    def test_other_code_bases_have_the_paper_s_embedding(self, key, value):
        architecture = {**HG104, **SMALL, f"MODEL.CORNERNET.EMBEDDING.{key}": value}
        state = {k: torch.rand(shape) for k, shape in expected_shapes(architecture).items()}
        assert infer_architecture(state) == architecture
        with pytest.raises(CheckpointError, match="lite knows no embeddings but the paper's"):
            build_contents(parse(state, "file"), "lite")

    def test_squeeze_goes_into_its_own_format_alone(self):
        state = {k: torch.rand(shape) for k, shape in expected_shapes({**SQUEEZE, **SMALL}).items()}
        published = build_contents(parse(state, "file"), "squeeze")
        back = parse(published, "file")
        assert back.source == "squeeze" and back.convention.preset == "official"
        assert set(back.weights) == set(state)
        assert all(back.weights[k] is v for k, v in state.items())
        for target in ("princeton", "lite", "mmdet", "centripetalnet"):
            with pytest.raises(CheckpointError, match="not the blocks of this one"):
                build_contents(back, target)

    @pytest.mark.parametrize("stacks, depth", [(1, 1), (2, 2), (3, 4)])
    def test_every_format_names_every_parameter_once(self, stacks, depth):
        architecture = {
            **HG104,
            "MODEL.HOURGLASS.STACKS": stacks,
            "MODEL.HOURGLASS.DEPTH": depth,
            "MODEL.HOURGLASS.WIDTHS": [8, 8, 12, 12, 16][: depth + 1],
            "MODEL.HOURGLASS.BLOCKS": [1, 2, 1, 3, 2][: depth + 1],
        }
        shapes = expected_shapes(architecture)
        ours = list(shapes)
        for fmt in EMBEDDING_FORMATS:
            theirs = [rename(key, "d2", fmt) for key in ours]
            assert None not in theirs and len(set(theirs)) == len(ours)
            assert detect_format(theirs) == (fmt, len(ours))
            assert [rename(key, fmt, "d2") for key in theirs] == ours
            assert sorted(sort_keys(theirs, fmt)) == sorted(theirs)
        meta = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        assert infer_architecture(meta) == architecture

    def test_centripetal_has_mmdetections_keys_in_its_order(self):
        ours = list(expected_shapes({**HG104, **GUIDED}))
        theirs = sort_keys([rename(key, "d2", "mmdet") for key in ours], "mmdet")
        assert len(theirs) == 1152
        assert hashlib.sha256("\n".join(theirs).encode()).hexdigest() == CENTRIPETAL_ORDER

    @pytest.mark.parametrize("ours, mmdet, authors", CENTRIPETAL_NAMES)
    def test_centripetal_table(self, ours, mmdet, authors):
        assert rename(ours, "d2", "mmdet") == mmdet and rename(mmdet, "mmdet", "d2") == ours
        assert rename(ours, "d2", "centripetalnet") == authors
        assert rename(authors, "centripetalnet", "d2") == ours

    def test_centripetal_formats_name_every_parameter_once(self):
        small = {"MODEL.HOURGLASS.WIDTHS": [8] * 6, "MODEL.HOURGLASS.BLOCKS": [1] * 6}
        shapes = expected_shapes({**HG104, **small, **GUIDED})
        ours = list(shapes)
        for fmt in ("d2", "mmdet", "centripetalnet"):
            theirs = [rename(key, "d2", fmt) for key in ours]
            assert None not in theirs and len(set(theirs)) == len(ours)
            assert detect_format(theirs) == (fmt, len(ours))
            assert [rename(key, fmt, "d2") for key in theirs] == ours
            assert sorted(sort_keys(theirs, fmt)) == sorted(theirs)
        assert rename("head.2.tl.heatmap.1.weight", "d2", "centripetalnet") is None
        meta = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
        found = infer_architecture(meta)
        assert not [key for key in found if ".EMBEDDING." in key]
        assert {**HG104, **small, **GUIDED, **found} == {**HG104, **small, **GUIDED}

    def test_the_masks_parameters_are_left_over(self):
        assert rename("bbox_head.convs.0.conv.weight", "centripetalnet", "d2") is None
        assert rename("bbox_head.conv_logits.weight", "centripetalnet", "d2") is None


class TestContents:
    def test_a_pairing_that_a_format_does_not_know(self):
        """Neither are weights dropped, nor is the file half written."""
        for pairing, target in (("embedding", "centripetalnet"), ("centripetal", "mmdet")):
            shapes = expected_shapes({**HG104, "MODEL.CORNERNET.PAIRING": pairing})
            weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
            checkpoint = Checkpoint(weights, "d2", len(weights))
            with pytest.raises(CheckpointError, match=f"{target} has no name for 16 weights .*tl"):
                build_contents(checkpoint, target)

    @pytest.mark.parametrize("counters", [False, True])
    def test_round_trip_is_equal_bit_for_bit(self, counters):
        state = tiny_state(counters)
        contents = state
        for target in ("d2", "mmdet", "d2", "lite", "mmdet", "princeton"):
            checkpoint = parse(contents, "file")
            assert not checkpoint.left_over
            contents = build_contents(checkpoint, target)
        assert list(contents) == list(state)
        assert all(contents[k].numpy().tobytes() == v.numpy().tobytes() for k, v in state.items())

    def test_weights_are_shared_not_copied(self):
        state = tiny_state()
        weights = parse(state, "file").weights
        assert (
            weights["backbone.stem.0.weight"].data_ptr()
            == state["module.pre.0.conv.weight"].data_ptr()
        )

    def test_counters_are_filled_in_beside_their_statistics(self):
        keys = list(parse(tiny_state(), "file").weights)
        assert sum(key.endswith("num_batches_tracked") for key in keys) == 66
        for i, key in enumerate(keys):
            if key.endswith("num_batches_tracked"):
                assert keys[i - 1] == key.replace("num_batches_tracked", "running_var")

    @pytest.mark.parametrize(
        "meta",
        [
            {"CLASSES": ("a", "b")},
            {"dataset_meta": {"classes": ["a", "b"]}},
            {"dataset_meta": {"CLASSES": ("a", "b")}},
        ],
    )
    def test_mmdet_class_names(self, meta):
        state = build_contents(parse(tiny_state(), "file"), "mmdet")["state_dict"]
        checkpoint = parse({"meta": meta, "state_dict": state}, "file")
        assert checkpoint.source == "mmdet"
        assert checkpoint.classes == ("a", "b")
        assert checkpoint.convention.preset == "mmdet"

    def test_says_what_a_wrong_file_is(self):
        with pytest.raises(CheckpointError, match="holds no CornerNet.*layer1"):
            parse({"layer1.weight": torch.zeros(1)}, "resnet.pth")
        with pytest.raises(CheckpointError, match="'epoch' is int"):
            parse({"epoch": 3}, "log.pth")
        with pytest.raises(CheckpointError, match="'princeton'.*not 'mmdet'"):
            parse(tiny_state(), "file", source="mmdet")


class TestCheckpointer:
    @pytest.fixture
    def state(self):
        return tiny_state()

    def load(self, path, preset="CornerNet-HG104-official"):
        model = build_model(tiny_config(preset))
        CornerNetCheckpointer(model).load(str(path))
        return model

    def check(self, model, state):
        for key, value in state.items():
            got = model.state_dict()[rename(key, "princeton", "d2")]
            assert torch.equal(got, value), key

    @pytest.mark.parametrize("legacy", [True, False])
    @pytest.mark.parametrize("name", ["CornerNet_500000.pkl", "cornernet.pth"])
    def test_princeton(self, tmp_path, state, name, legacy, caplog):
        save_torch_file(state, str(tmp_path / name), legacy=legacy)
        with caplog.at_level(logging.INFO, logger="cornernet_d2"):
            self.check(self.load(tmp_path / name), state)
        assert "format of princeton: 378 weights renamed, 0 left over" in caplog.text

    @pytest.mark.parametrize("target", ["lite", "mmdet", "d2"])
    def test_other_formats(self, tmp_path, state, target):
        checkpoint = parse(state, "file")
        path = tmp_path / "model.pth"
        save_torch_file(build_contents(checkpoint, target), str(path))
        self.check(self.load(path), state)

    def test_own_file_notes_and_checks_the_input(self, tmp_path, state, caplog):
        model = build_model(tiny_config("CornerNet-HG104-mmdet"))
        CornerNetCheckpointer(model, str(tmp_path)).save("model", iteration=3)
        path = tmp_path / "model.pth"
        saved = torch.load(path)
        assert saved["iteration"] == 3
        assert saved["cornernet_d2"]["input"]["preset"] == "mmdet"
        assert saved["cornernet_d2"]["input"]["format"] == "RGB"
        self.load(path, "CornerNet-HG104-mmdet")
        assert "expect" not in caplog.text
        with pytest.raises(CheckpointError, match="INPUT.FORMAT RGB.*PIXEL_MEAN.*123.675"):
            self.load(path, "CornerNet-HG104-official")

    def test_other_padding_is_only_reported(self, tmp_path, state, caplog):
        save_torch_file(state, str(tmp_path / "princeton.pth"))
        self.check(self.load(tmp_path / "princeton.pth", "CornerNet-HG104"), state)
        assert "MODEL.CORNERNET.PADDING center_black" in caplog.text

    def test_optimizer_state_goes_with_the_weights(self, tmp_path):
        model = build_model(tiny_config())
        optimizer = torch.optim.Adam(model.parameters())
        sum(p.sum() for p in model.parameters()).backward()
        optimizer.step()
        checkpointer = CornerNetCheckpointer(model, str(tmp_path), optimizer=optimizer)
        checkpointer.save("model")
        fresh = torch.optim.Adam(model.parameters())
        loaded = CornerNetCheckpointer(model, optimizer=fresh).load(str(tmp_path / "model.pth"))
        assert len(fresh.state_dict()["state"]) == len(optimizer.state_dict()["state"])
        assert "optimizer" not in loaded

    def test_detectron2_pickles_are_read_as_before(self, tmp_path):
        model = build_model(tiny_config())
        value = torch.full((5,), 3.0)
        weights = {"head.0.tl.heatmap.1.bias": value.numpy()}
        path = tmp_path / "zoo.pkl"
        path.write_bytes(pickle.dumps({"model": weights, "__author__": "someone"}))
        CornerNetCheckpointer(model).load(str(path))
        assert torch.equal(model.head[0].tl.heatmap[1].bias, value)

    def test_damaged_file(self, tmp_path, state):
        path = tmp_path / "cut.pth"
        save_torch_file(state, str(path))
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(CheckpointError, match="cut.pth is truncated or damaged"):
            self.load(path)
