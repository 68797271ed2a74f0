"""Files as MODEL.WEIGHTS: none of their code runs, and weights of something else are refused."""

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tiny_run import tiny_network

from cornernet_d2.checkpoint import CheckpointError, CornerNetCheckpointer, whole_file
from cornernet_d2.checkpoint.contents import read_contents
from cornernet_d2.engine import CornerNetTrainer

ARRAYS = {
    "float": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big": np.arange(4, dtype=">i4"),
    "bool": np.array([True, False]),
    "none": np.zeros((0, 3)),
    "scalar": np.float64(2.5),
    "number": np.array(7),
}


class Code:
    """A pickle that runs a command when it is read as pickles usually are."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple:
        return self.call[0], self.call[1:]


@pytest.fixture
def cfg(tmp_path: Path) -> CfgNode:
    return tiny_network("CornerNet-Shapes", "OUTPUT_DIR", str(tmp_path / "output"))


def evaluate(cfg: CfgNode, weights: Path | str) -> None:
    """Load weights as --eval-only does."""
    cfg.MODEL.WEIGHTS = str(weights)
    CornerNetTrainer.load_weights(cfg, build_model(cfg))


def saved(path: Path, contents: Any) -> Path:
    torch.save(contents, path)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_are_read_as_numpy_wrote_them(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "zoo.pkl"
    path.write_bytes(pickle.dumps({"model": ARRAYS, "__author__": "me", "n": 1}, protocol))
    found = read_contents(str(path))
    assert found["__author__"] == "me" and found["n"] == 1
    for name, value in ARRAYS.items():
        assert found["model"][name].dtype == value.dtype, name
        np.testing.assert_array_equal(found["model"][name], value)
    assert found["model"]["float"].flags.writeable


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    """Detectron2's R-50.pkl: str where Python 3 has bytes, and weights without a "model"."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\n"
        b"S'\\x00\\x00\\x80?\\x00\\x00\\x00@'\ntb"
    )
    path = tmp_path / "R-50.pkl"
    path.write_bytes(b"(dS'conv1_w'\n" + array + b"sS'conv1_w_momentum'\nI1\ns.")
    found = read_contents(str(path))
    assert found["matching_heuristics"] and list(found["model"]) == ["conv1_w"]
    np.testing.assert_array_equal(found["model"]["conv1_w"], np.float32([1, 2]))


@pytest.mark.parametrize("name", ["evil.pkl", "evil.pth", "evil.pyth"])
@pytest.mark.parametrize("kind", ["plain", "hidden", "zip", "legacy"])
def test_no_code_of_a_file_is_run(tmp_path: Path, cfg: CfgNode, name: str, kind: str) -> None:
    path, mark = tmp_path / name, tmp_path / "was run"
    contents: Any = {"model": {"x": Code(os.mkdir, str(mark))}, "__author__": "me"}
    if kind == "plain":
        path.write_bytes(pickle.dumps(contents))
    elif kind == "hidden":  # in an array of objects
        array = np.empty(1, dtype=object)
        array[0] = Code(os.mkdir, str(mark))
        path.write_bytes(pickle.dumps({"model": {"x": array}, "__author__": "me"}))
    else:
        torch.save(contents, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CheckpointError, match=f"{name} .*(any code|objects)"):
        CornerNetCheckpointer(build_model(cfg)).load(str(path))
    assert not mark.exists()
    if kind == "plain":  # the file does what this test says that it does
        pickle.loads(path.read_bytes())
        assert mark.exists()


def _instructions(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


@pytest.mark.parametrize(
    "program",
    [
        _instructions(b"cbuiltins\neval\n(S'1'\ntR"),
        _instructions(b"cnumpy\nload\n(S'x'\ntR"),
        _instructions(b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x04\x00\x00\x00zip_tR"),
        _instructions(b"cnumpy\ndtype\n(S'O'\ntR"),
        _instructions(b"cnumpy\ndtype\n(S'V8'\ntR"),
        _instructions(b"cnumpy.core.multiarray\nscalar.__globals__\n"),
        b"\x80\x05\x95" + struct.pack("<Q", 1 << 40) + b".",
        b"\x80\x02",
        b"\x80\x02I5\n.",
    ],
)
def test_crafted_and_cut_pickles_are_one_line(tmp_path: Path, program: bytes) -> None:
    path = tmp_path / "crafted.pkl"
    path.write_bytes(program)
    with pytest.raises(CheckpointError, match="crafted.pkl") as caught:
        read_contents(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("legacy", [True, False])
def test_a_torch_file_cut_anywhere_is_one_line(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "cut.pth"
    weights = {"layer.weight": torch.zeros(2), "number": 3}
    torch.save(weights, path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    for length in range(1, len(data) - 1, 7):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="cut.pth"):
            read_contents(str(path))


def test_a_pickle_cannot_change_what_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "crafted.pkl"
    state = b"(N(dS'__defaults__'\n(S'F'\ntstb"  # slots of a function
    path.write_bytes(_instructions(b"cnumpy.core.numeric\n_frombuffer\n" + state))
    with pytest.raises(CheckpointError):
        read_contents(str(path))
    test_arrays_are_read_as_numpy_wrote_them(tmp_path, 5)


class TestWrongWeights:
    def test_none_at_all(self, cfg: CfgNode) -> None:
        with pytest.raises(CheckpointError, match="no weights: set MODEL.WEIGHTS"):
            evaluate(cfg, "")

    def test_no_file(self, cfg: CfgNode) -> None:
        with pytest.raises(CheckpointError, match="nowhere.pth does not exist"):
            evaluate(cfg, "nowhere.pth")

    @pytest.mark.parametrize("training", [False, True])
    def test_of_another_network(self, tmp_path: Path, cfg: CfgNode, training: bool) -> None:
        path = saved(tmp_path / "resnet.pth", {"layer1.weight": torch.zeros(2)})
        with pytest.raises(CheckpointError, match="resnet.pth fits nothing.*layer1.weight"):
            if training:
                CornerNetCheckpointer(build_model(cfg)).load(str(path))
            else:
                evaluate(cfg, path)

    def test_of_a_backbone_alone(self, tmp_path: Path, cfg: CfgNode) -> None:
        state = build_model(cfg).state_dict()
        backbone = {key: value for key, value in state.items() if key.startswith("backbone")}
        path = saved(tmp_path / "backbone.pth", {"model": backbone})
        CornerNetCheckpointer(build_model(cfg)).load(str(path))  # to train the head
        with pytest.raises(CheckpointError, match=r"weights are not in the file \(head"):
            evaluate(cfg, path)

    def test_of_another_number_of_classes(self, tmp_path: Path, cfg: CfgNode) -> None:
        path = saved(tmp_path / "model.pth", {"model": build_model(cfg).state_dict()})
        cfg.MODEL.CORNERNET.NUM_CLASSES = 5
        with pytest.raises(CheckpointError, match=r"other shapes \(.*\(3, .*\(5, "):
            evaluate(cfg, path)

    def test_not_a_number(self, tmp_path: Path, cfg: CfgNode) -> None:
        state = build_model(cfg).state_dict()
        state["backbone.stem.0.weight"][0] = torch.nan
        path = saved(tmp_path / "model.pth", {"model": state})
        with pytest.raises(CheckpointError, match="NaN or infinity in 1 weights .backbone.stem"):
            evaluate(cfg, path)

    def test_no_weights_at_all(self, tmp_path: Path, cfg: CfgNode) -> None:
        for number, contents in enumerate(({"model": 3}, {"model": {"x": "text"}}, [1])):
            path = saved(tmp_path / f"{number}.pth", contents)
            with pytest.raises(CheckpointError, match=f"{number}.pth"):
                evaluate(cfg, path)

    def test_the_right_ones_load(self, tmp_path: Path, cfg: CfgNode) -> None:
        evaluate(cfg, saved(tmp_path / "model.pth", {"model": build_model(cfg).state_dict()}))


def test_writing_replaces_files_alone(tmp_path: Path) -> None:
    """A device or a pipe is written to, a link keeps its place; a full one is an error."""
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with whole_file(str(link)) as f:
        f.write(b"new")
    assert link.is_symlink() and target.read_bytes() == b"new"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with whole_file(str(pipe)) as f:
        f.write(b"passed on")
    assert os.read(reader, 100) == b"passed on" and pipe.is_fifo()
    os.close(reader)
    assert {p.name for p in tmp_path.iterdir()} == {"target", "link", "pipe"}
