"""The converter: reports, classes, conventions, and files that it must refuse."""

import os
import pickle

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from test_checkpoint_formats import tiny_config, tiny_state

from cornernet_d2.checkpoint import CheckpointError, load_torch_file
from cornernet_d2.checkpoint.class_heads import select_classes
from cornernet_d2.checkpoint.conventions import CONVENTIONS, to_config
from cornernet_d2.tools import command
from cornernet_d2.tools.convert import convert

NAMES = ["ant", "bee", "cat", "dog", "eel"]


@pytest.fixture
def source(tmp_path):
    """A file as PyTorch 0.4.0 saved the authors' model."""
    path = tmp_path / "CornerNet_500000.pkl"
    torch.save(tiny_state(), path, _use_new_zipfile_serialization=False)
    return path


def run(*args, **kwargs):
    return dict(convert(*map(str, args), **kwargs))


def write(path, state, **kwargs):
    torch.save(state, path, **kwargs)
    return path


class TestConversion:
    def test_round_trip_of_files_is_equal_bit_for_bit(self, tmp_path, source):
        previous, digests = source, set()
        for number, target in enumerate(("d2", "mmdet", "d2", "princeton")):
            path = tmp_path / f"{number}.pth"
            report = run(previous, path, target_format=target)
            digests.add(report["weights sha256"])
            previous = path
        before, after = torch.load(source), torch.load(previous)
        assert list(before) == list(after)
        assert all(v.numpy().tobytes() == after[k].numpy().tobytes() for k, v in before.items())
        assert len(digests) == 1

    def test_result_does_not_depend_on_the_files_layout(self, tmp_path, source):
        modern = write(tmp_path / "modern.pkl", tiny_state())
        first = run(source, tmp_path / "a.pth")
        second = run(modern, tmp_path / "b.pth")
        assert first["file sha256"] == second["file sha256"]
        assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()

    def test_princeton_file_is_one_that_their_torch_reads(self, tmp_path, source):
        run(source, tmp_path / "a.pth")
        run(tmp_path / "a.pth", tmp_path / "back.pkl", target_format="princeton")
        assert not (tmp_path / "back.pkl").read_bytes().startswith(b"PK")
        assert list(torch.load(tmp_path / "back.pkl")) == list(tiny_state())

    def test_report(self, tmp_path, source):
        report = run(source, tmp_path / "a.pth")
        assert report["format"] == "princeton"
        assert report["keys matched"] == 378
        assert report["num_batches_tracked filled in"] == 66
        assert report["parameters"] == "435,432"
        assert report["MODEL.HOURGLASS.WIDTHS"] == [16, 24, 32]
        assert report["MODEL.CORNERNET.PADDING"] == "center_black"

    def test_model_of_the_report_loads_every_weight(self, tmp_path, source):
        run(source, tmp_path / "a.pth")
        model = build_model(tiny_config())
        state = torch.load(tmp_path / "a.pth")["model"]
        assert model.load_state_dict(state, strict=True)

    def test_says_what_it_leaves_behind(self, tmp_path, source):
        run(source, tmp_path / "a.pth")
        contents = torch.load(tmp_path / "a.pth")
        path = write(tmp_path / "trained.pth", {**contents, "optimizer": {}, "iteration": 7})
        report = run(path, tmp_path / "b.pth")
        assert report["not weights, not converted"] == "optimizer, iteration"
        assert sorted(torch.load(tmp_path / "b.pth")) == ["__author__", "cornernet_d2", "model"]

    def test_half_precision_stays(self, tmp_path):
        half = {key: value.half() for key, value in tiny_state().items()}
        run(write(tmp_path / "half.pth", half), tmp_path / "a.pth")
        weights = torch.load(tmp_path / "a.pth")["model"]
        assert weights["backbone.stem.0.weight"].dtype == torch.float16

    def test_command_line(self, tmp_path, source, capsys):
        assert (
            command.main(["convert", str(source), str(tmp_path / "a.pth"), "--from", "princeton"])
            == 0
        )
        assert "keys matched                       378" in capsys.readouterr().out
        assert command.main(["convert", str(source), str(tmp_path / "a.pth")]) == 1
        assert "a.pth exists" in capsys.readouterr().err
        assert command.main(["convert", str(source), str(tmp_path / "a.pth"), "--overwrite"]) == 0


class TestConvention:
    @pytest.mark.parametrize("target, preset", [("princeton", "official"), ("mmdet", "mmdet")])
    def test_is_that_of_the_format(self, tmp_path, source, target, preset):
        run(source, tmp_path / "a.pth")
        run(tmp_path / "a.pth", tmp_path / "b.pth", target_format=target, preset=preset)
        report = run(tmp_path / "b.pth", tmp_path / "c.pth")
        assert report["preset"] == preset
        notes = torch.load(tmp_path / "c.pth")["cornernet_d2"]["input"]
        assert notes["padding"] == CONVENTIONS[preset].padding
        assert notes["format"] == CONVENTIONS[preset].format

    def test_travels_through_other_formats(self, tmp_path, source):
        run(source, tmp_path / "a.pth")
        report = run(tmp_path / "a.pth", tmp_path / "b.pth", target_format="mmdet")
        assert "INPUT.FORMAT BGR" in report["warning"]
        assert run(tmp_path / "b.pth", tmp_path / "c.pth")["preset"] == "official"

    def test_must_be_known(self, tmp_path, source):
        run(source, tmp_path / "a.pth")
        bare = {"model": torch.load(tmp_path / "a.pth")["model"]}
        path = write(tmp_path / "bare.pth", bare)
        with pytest.raises(CheckpointError, match="--preset, one of default, official, mmdet"):
            run(path, tmp_path / "b.pth")
        assert run(path, tmp_path / "b.pth", preset="default")["preset"] == "default"

    @pytest.mark.parametrize("preset", CONVENTIONS)
    def test_are_those_of_the_configs(self, preset):
        configs = {
            "default": "CornerNet-HG104",
            "centripetalnet": "CentripetalNet-HG104-official",
        }
        cfg = tiny_config(configs.get(preset, f"CornerNet-HG104-{preset}"))
        for key, value in to_config(CONVENTIONS[preset]).items():
            node = cfg
            for part in key.split("."):
                node = node[part]
            assert node == (pytest.approx(value, abs=1e-4) if isinstance(value, list) else value)


class TestClasses:
    def test_kept_by_name(self, tmp_path, source):
        run(source, tmp_path / "a.pth", classes=["dog", "bee"], source_classes=NAMES)
        contents = torch.load(tmp_path / "a.pth")
        assert contents["cornernet_d2"]["classes"] == ["dog", "bee"]
        for corner in ("tl", "br"):
            for stack in (0, 1):
                for leaf in ("weight", "bias"):
                    old = tiny_state()[f"module.{corner}_heats.{stack}.1.{leaf}"]
                    new = contents["model"][f"head.{stack}.{corner}.heatmap.1.{leaf}"]
                    assert torch.equal(new, old[[3, 1]])

    def test_again_from_the_converted_file(self, tmp_path, source):
        run(source, tmp_path / "a.pth", classes=["dog", "bee", "ant"], source_classes=NAMES)
        report = run(tmp_path / "a.pth", tmp_path / "b.pth", classes=["ant"])
        assert report["classes kept"] == "1 of 3"
        old = tiny_state()["module.tl_heats.1.1.bias"]
        assert torch.load(tmp_path / "b.pth")["model"]["head.1.tl.heatmap.1.bias"] == old[0]

    def test_new_ones_must_be_meant(self, tmp_path, source):
        with pytest.raises(CheckpointError, match="'dgo' .did you mean 'dog'"):
            run(source, tmp_path / "a.pth", classes=["cat", "dgo"], source_classes=NAMES)
        report = run(
            source,
            tmp_path / "a.pth",
            classes=["fox", "cat"],
            source_classes=NAMES,
            allow_new_classes=True,
        )
        assert report["classes initialised"] == "fox"
        weights = torch.load(tmp_path / "a.pth")["model"]
        bias = weights["head.0.br.heatmap.1.bias"]
        assert bias[0] == pytest.approx(-2.19)
        assert bias[1] == tiny_state()["module.br_heats.0.1.bias"][2]
        fresh = weights["head.0.br.heatmap.1.weight"][0]
        assert 0 < fresh.abs().max() <= 1 / 4  # PyTorch's bound for 16 inputs

    def test_faults(self):
        weights = {"head.0.tl.heatmap.1.bias": torch.zeros(3)}
        with pytest.raises(CheckpointError, match="named twice: a"):
            select_classes(weights, ["a", "b", "c"], ["a", "a"])
        with pytest.raises(CheckpointError, match="3 classes, but 2 names"):
            select_classes(weights, ["a", "b"], ["a"])

    def test_names_of_a_source_that_is_not_coco(self, tmp_path, source):
        with pytest.raises(CheckpointError, match="--source-classes"):
            run(source, tmp_path / "a.pth", classes=["dog"])

    def test_names_from_a_file(self, tmp_path, source):
        (tmp_path / "names.txt").write_text("\n".join(NAMES))
        args = [str(source), str(tmp_path / "a.pth"), "--classes", "eel, ant"]
        assert (
            command.main(["convert", *args, "--source-classes", str(tmp_path / "names.txt")]) == 0
        )
        assert torch.load(tmp_path / "a.pth")["cornernet_d2"]["classes"] == ["eel", "ant"]


class Evil:
    """What an attacker's pickle looks like: reading it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


class TestRefusal:
    @pytest.fixture
    def refused(self, tmp_path):
        def check(path, match, error=CheckpointError, **kwargs):
            before = sorted(os.listdir(tmp_path))
            with pytest.raises(error, match=match):
                convert(str(path), str(tmp_path / "out.pth"), **kwargs)
            assert sorted(os.listdir(tmp_path)) == before  # nothing written, nothing left behind

        return check

    def test_missing_and_empty(self, tmp_path, refused):
        refused(tmp_path / "none.pth", "No such file", FileNotFoundError)
        (tmp_path / "empty.pth").touch()
        refused(tmp_path / "empty.pth", "is empty")

    @pytest.mark.parametrize("legacy", [True, False])
    @pytest.mark.parametrize("part", [0.02, 0.5, 0.999])
    def test_truncated(self, tmp_path, refused, legacy, part):
        path = write(tmp_path / "cut", tiny_state(), _use_new_zipfile_serialization=not legacy)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * part)])
        refused(path, "cut is truncated or damaged")

    def test_web_page_and_other_files(self, tmp_path, refused):
        (tmp_path / "page.pkl").write_text("<!DOCTYPE html><html>Quota exceeded")
        refused(tmp_path / "page.pkl", "web page")
        (tmp_path / "noise.pth").write_bytes(b"\x00\x01" * 100)
        refused(tmp_path / "noise.pth", "not written by torch.save")

    @pytest.mark.parametrize("legacy", [True, False])
    def test_code_is_never_run(self, tmp_path, refused, legacy):
        target = tmp_path / "owned"
        contents = {"state_dict": tiny_state(), "meta": Evil(str(target))}
        path = write(tmp_path / "evil.pth", contents, _use_new_zipfile_serialization=not legacy)
        refused(path, "more than tensors.*torch.save.*stripped.pth")
        plain = tmp_path / "plain.pkl"
        plain.write_bytes(pickle.dumps(Evil(str(target))))
        refused(plain, "plain pickle")
        assert not target.exists()

    def test_numpy_numbers_are_no_code(self, tmp_path, source):
        run(source, tmp_path / "a.pth", target_format="mmdet")
        contents = torch.load(tmp_path / "a.pth")
        contents["meta"].update(lr=np.float64(0.1), epoch=np.int64(3), ok=np.bool_(True))
        path = write(tmp_path / "numpy.pth", contents)
        assert load_torch_file(str(path))["meta"]["lr"] == 0.1
        assert run(path, tmp_path / "b.pth")["format"] == "mmdet"

    def test_another_network(self, tmp_path, refused):
        refused(write(tmp_path / "r.pth", {"fc.weight": torch.ones(2)}), "holds no CornerNet")
        saccade = tiny_state()
        saccade["module.att_modules.0.0.0.conv.weight"] = torch.ones(1)
        path = write(tmp_path / "saccade.pkl", saccade)
        refused(path, "1 weights that CornerNet does not have .module.att_modules")
        report = run(path, tmp_path / "forced.pth", drop_left_over=True)
        assert report["keys left over"] == "1 module.att_modules.0.0.0.conv.weight"

    def test_incomplete_and_wrong_shapes(self, tmp_path, refused):
        state = tiny_state()
        del state["module.br_tags.1.1.bias"]
        refused(write(tmp_path / "less.pth", state), "not in the file: head.1.br.embedding.1.bias")
        state = tiny_state()
        state["module.cnvs.1.conv.weight"] = torch.ones(16, 16, 1, 1)
        refused(
            write(tmp_path / "clash.pth", state),
            r"out_convs.1.weight \(16, 16, 1, 1\), not \(16, 16, 3, 3\)",
        )
        state = {key: value for key, value in tiny_state().items() if "kps" not in key}
        refused(write(tmp_path / "headless.pth", state), "not a CornerNet on an hourglass")

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_not_finite(self, tmp_path, refused, bad):
        state = tiny_state()
        state["module.inters.0.bn1.weight"][3] = bad
        path = write(tmp_path / "nan.pth", state)
        refused(path, "NaN or infinity in 1 weights .backbone.inters.0.conv1.norm.weight")

    def test_destination(self, tmp_path, source, refused):
        (tmp_path / "out.pth").write_text("precious")
        refused(source, "out.pth exists", FileExistsError)
        assert (tmp_path / "out.pth").read_text() == "precious"
        with pytest.raises(CheckpointError, match="must end in .pth"):
            run(source, tmp_path / "out.pkl")
        with pytest.raises(FileNotFoundError, match="no folder"):
            run(source, tmp_path / "no" / "out.pth")

    def test_full_disk_leaves_nothing(self, tmp_path, source, monkeypatch):
        def fail(obj, f, **_):
            f.write(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(torch, "save", fail)
        (tmp_path / "out.pth").write_text("precious")
        with pytest.raises(OSError, match="No space left"):
            run(source, tmp_path / "out.pth", overwrite=True)
        assert sorted(os.listdir(tmp_path)) == ["CornerNet_500000.pkl", "out.pth"]
        assert (tmp_path / "out.pth").read_text() == "precious"
