"""The parity command on small parts of the references, and on folders that it must reject.

The parts are renamed first: nothing may depend on the names of cases. CORNERNET_D2_REFERENCE
may name larger folders of either kind, joined as in PATH: their files run too, but for the full
networks.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity.__main__ import KINDS, compare, main, open_folder
from tests.parity.check import Case, match_rows, stats
from tests.parity.official import network
from tests.parity.ours import decode
from tests.parity.reference import (
    CenterNetReference,
    CentripetalReference,
    MMDetReference,
    OfficialReference,
    SqueezeReference,
    strided,
)

FIXTURES = Path(__file__).parent / "fixtures"
OFFICIAL, MMDET = FIXTURES / "reference", FIXTURES / "reference_mmdet"
CENTRIPETAL, SQUEEZE = FIXTURES / "reference_centripetal", FIXTURES / "reference_squeeze"
CENTERNET = FIXTURES / "reference_centernet"
LARGER = [
    Path(path) for path in os.environ.get("CORNERNET_D2_REFERENCE", "").split(os.pathsep) if path
]
SLOW = "network"  # beginning of names: minutes, and gigabytes of weights


def files(folder):
    return sorted(path.name for path in folder.glob("*.npz") if not path.name.startswith(SLOW))


def compared(folder):
    """Those of its files that the command compares."""
    return [file for file in files(folder) if file in KINDS[type(open_folder(str(folder)))]]


def renamed(arrays):
    """The same cases under other names, in another order."""
    key = "runs" if "runs" in arrays else "cases"
    if key not in arrays:  # numbered ones
        return arrays
    names = [str(name) for name in arrays[key]]
    new = {name: f"case{len(names) - i}" for i, name in enumerate(names)}
    result = {}
    for path, value in arrays.items():
        first, _, rest = path.partition("/")
        result[f"{new[first]}/{rest}" if first in new else path] = value
    result[key] = np.array([new[name] for name in reversed(names)])
    return result


def copy_support(source, target):
    for path in (*FIXTURES.glob("*.py"), *source.iterdir()):  # recipes serve several folders
        if path.suffix in (".py", ".json"):
            shutil.copy(path, target)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference")
    copy_support(OFFICIAL, path)
    for file in files(OFFICIAL):
        np.savez(path / file, **renamed(dict(np.load(OFFICIAL / file))))
    return path


@pytest.fixture(scope="module")
def mmdet_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("reference_mmdet")
    copy_support(MMDET, path)
    for file in files(MMDET):
        np.savez(path / file, **renamed(dict(np.load(MMDET / file))))
    return path


@pytest.fixture(scope="module")
def centripetal_folder(tmp_path_factory):
    """The recipes lie beside the folder, as in the whole family's."""
    path = tmp_path_factory.mktemp("family") / "centripetal"
    path.mkdir()
    copy_support(CENTRIPETAL, path)
    for recipe in path.glob("*.py"):
        recipe.rename(path.parent / recipe.name)
    for file in files(CENTRIPETAL):
        np.savez(path / file, **renamed(dict(np.load(CENTRIPETAL / file))))
    return path


def changed(folder, tmp_path, file, change):
    """A folder with one file, changed."""
    arrays = dict(np.load(folder / file))
    change(arrays)
    copy_support(folder, tmp_path)
    np.savez(tmp_path / file, **arrays)
    return open_folder(str(tmp_path))


def every_case_holds(folder, file):
    checks = list(compare(open_folder(str(folder)), [file]))
    assert checks
    assert not [check for check in checks if not check.passed]
    listed = np.load(folder / file)
    names = listed["runs"] if "runs" in listed else listed["cases"] if "cases" in listed else []
    return {str(name) for name in names} - {check.case for check in checks}


def first_number_moved(name, step):
    """A change of the first number of the first array whose path ends so."""

    def change(arrays):
        key = next(key for key in arrays if f"/{key}".endswith(f"/{name}") and arrays[key].size)
        value = arrays[key].copy()
        value.reshape(-1)[:1] += np.asarray(step, dtype=value.dtype)
        arrays[key] = value

    return change


class TestReference:
    @pytest.mark.parametrize("file", files(OFFICIAL))
    def test_every_case_holds(self, folder, file):
        assert not every_case_holds(folder, file)

    @pytest.mark.parametrize(
        "larger, file", [(folder, file) for folder in LARGER for file in compared(folder)]
    )
    def test_every_case_of_larger_folders_holds(self, larger, file):
        assert not every_case_holds(larger, file)

    @pytest.mark.parametrize(
        "file, array, step",
        [
            ("augment.npz", "after_jitter", 1e-4),
            ("corner_pool.npz", "left_output", 1e-6),
            ("corner_pool.npz", "top_grad_input", 1e-4),
            ("decode.npz", "detections", 1e-4),
            ("losses.npz", "loss_total", 1e-1),
            ("losses.npz", "stack1/br_tag_grad", 1e-2),
            ("postprocess.npz", "image0/final", 1e-2),
            ("softnms.npz", "exp/boxes_after", 1e-3),
            ("targets.npz", "tl_regr", 1e-5),
            ("targets.npz", "br_ind", 1),
            ("training.npz", "loss", 0.1),
            ("training.npz", "grad_step1/module.pre.0.conv.weight", 0.5),
        ],
    )
    def test_an_error_in_any_place_is_found(self, folder, tmp_path, file, array, step):
        checks = list(compare(changed(folder, tmp_path, file, first_number_moved(array, step))))
        assert [check for check in checks if not check.passed]

    def test_a_broken_case_does_not_hide_the_others(self, folder, tmp_path):
        def change(arrays):
            arrays["cases"] = np.array(["case1", "whole"])
            for key in [key for key in arrays if key.startswith("case1/")]:
                arrays[key.replace("case1", "whole")] = arrays[key]
            del arrays["case1/tl_heat"]

        checks = list(compare(changed(folder, tmp_path, "decode.npz", change)))
        broken = [check for check in checks if not check.passed]
        assert [check.case for check in broken] == ["case1"]
        assert "KeyError" in broken[0].note
        assert {check.case for check in checks} == {"case1", "whole"}


class TestMMDetection:
    @pytest.mark.parametrize("file", files(MMDET))
    def test_every_case_holds(self, mmdet_folder, file):
        assert not every_case_holds(mmdet_folder, file)

    @pytest.mark.parametrize(
        "file, array, step",
        [
            ("decode.npz", "raw_image", 1e-2),
            ("decode.npz", "raw_mirror", 1e-2),
            ("decode.npz", "final", 1e-1),
            ("losses.npz", "pull_loss", 1e-3),
            ("losses.npz", "total", 1e-1),
            ("losses.npz", "stack1/br_off_grad", 1e-2),
            ("softnms.npz", "linear/keep", 1),
            ("softnms.npz", "gaussian/dets", 0),
            ("targets.npz", "radius", 1),
            ("targets.npz", "cells", 1),
            ("targets.npz", "tl_off", 1e-3),
            ("targets.npz", "br_heat_value", 1e-4),
            ("test_pipeline.npz", "sub", 1e-3),
            ("test_pipeline.npz", "last_rows", 1e-3),
            ("train_pipeline.npz", "final_boxes", 0.1),
            ("train_pipeline.npz", "final_labels", 1),
            ("train_pipeline.npz", "center", 1),
            ("train_step.npz", "losses", 0.1),
            ("train_step.npz", "grad_norm", 10),
            ("train_step.npz", "grad_l2", 0.1),
        ],
    )
    def test_an_error_in_any_place_is_found(self, mmdet_folder, tmp_path, file, array, step):
        change = first_number_moved(array, step)
        if step == 0:  # the score is the last of a row's five numbers

            def change(arrays):
                key = next(key for key in arrays if key.endswith(array))
                arrays[key] = arrays[key] + [0, 0, 0, 0, 1e-2]

        checks = list(compare(changed(mmdet_folder, tmp_path, file, change)))
        assert [check for check in checks if not check.passed]

    def test_heat_maps_beyond_their_sigmoid_are_left_out(self, mmdet_folder, tmp_path):
        def change(arrays):
            name = str(arrays["cases"][0])
            arrays[f"{name}/stack0/tl_heat"] = arrays[f"{name}/stack0/tl_heat"] + 40

            arrays["cases"] = arrays["cases"][:1]

        checks = list(compare(changed(mmdet_folder, tmp_path, "losses.npz", change)))
        assert checks and all(check.passed for check in checks)
        assert not [check for check in checks if "heat" in check.quantity]


class TestCentripetal:
    @pytest.mark.parametrize("file", files(CENTRIPETAL))
    def test_every_case_holds(self, centripetal_folder, file):
        assert not every_case_holds(centripetal_folder, file)

    @pytest.mark.parametrize(
        "file, array, step",
        [
            ("decode.npz", "mmdet_detections", 1e-1),
            ("decode.npz", "authors_detections", 1e-1),
            ("losses.npz", "mmdet_centripetal_loss", 1e-3),
            ("losses.npz", "authors_off_c_loss", 1e-3),
            ("losses.npz", "stack1/br_centripetal_shift_authors_grad", 1e-2),
            ("small_head.npz", "tl_centripetal_shift", 1e-2),
            ("small_head.npz", "tl_dcn_offset.0.conv.weight/sample", 0.1),
            ("targets.npz", "mmdet_tl_centripetal_shift_value", 1e-3),
            ("targets.npz", "authors_br_guiding_shift_value", 1e-3),
        ],
    )
    def test_an_error_in_any_place_is_found(self, tmp_path, file, array, step):
        checks = list(
            compare(changed(CENTRIPETAL, tmp_path, file, first_number_moved(array, step)))
        )
        assert [check for check in checks if not check.passed]


class TestSqueeze:
    @pytest.mark.parametrize("file", files(SQUEEZE))
    def test_every_case_holds(self, file):
        assert not every_case_holds(SQUEEZE, file)

    @pytest.mark.parametrize(
        "file, array, step",
        [
            ("blocks.npz", "fire_widen/eval/output", 1e-2),
            ("blocks.npz", "fire_skip/train/grad/conv_3x3.weight", 1e-2),
            ("blocks.npz", "unpool/train/grad/bias", 1e-2),
            ("decode.npz", "detections", 1e-4),
            ("postprocess.npz", "image0/final", 1e-2),
            ("postprocess.npz", "scale0/input_sub", 1e-3),
            ("targets.npz", "tl_off", 1e-5),
            ("targets.npz", "br_ind", 1),
            ("targets.npz", "br_heat_value", 1e-4),
        ],
    )
    def test_an_error_in_any_place_is_found(self, tmp_path, file, array, step):
        shutil.copy(SQUEEZE / "blocks.npz", tmp_path)  # which tells the kind
        folder = changed(SQUEEZE, tmp_path, file, first_number_moved(array, step))
        checks = list(compare(folder, [file]))
        assert [check for check in checks if not check.passed]


class TestCenterNet:
    @pytest.mark.parametrize("file", files(CENTERNET))
    def test_every_case_holds(self, file):
        assert not every_case_holds(CENTERNET, file)

    @pytest.mark.parametrize(
        "file, array, step",
        [
            ("decode.npz", "centers", 1e-2),
            ("pooling.npz", "ties/center_grad_a", 1e-2),
            ("pooling.npz", "cascade_tl2_output", 1e-4),
            ("pooling.npz", "tl_pool/eval/output", 1e-2),
            ("pooling.npz", "center_pool/train/grad/p1_conv1.conv.weight/sample", 1.0),
            ("postprocess.npz", "image0/checked", 1),
            ("postprocess.npz", "image0/final", 1e-2),
            ("targets.npz", "ct_regr", 1e-5),
            ("targets.npz", "ct_ind", 1),
            ("targets.npz", "default_ct_heat_value", 1e-4),
            ("targets.npz", "maps_delta5", 1e-4),
        ],
    )
    def test_an_error_in_any_place_is_found(self, tmp_path, file, array, step):
        shutil.copy(CENTERNET / "pooling.npz", tmp_path)  # which tells the kind
        folder = changed(CENTERNET, tmp_path, file, first_number_moved(array, step))
        checks = list(compare(folder, [file]))
        assert [check for check in checks if not check.passed]


class TestCommand:
    @pytest.mark.parametrize(
        "kind, files",
        [
            (MMDetReference, ["mm_weights.py", "weights.py", "losses.npz"]),
            (MMDetReference, ["network.npz"]),
            (MMDetReference, ["decode.npz", "train_step.npz"]),
            (CentripetalReference, ["small_head.npz", "losses.npz"]),
            (OfficialReference, ["weights.py", "losses.npz"]),
            (OfficialReference, ["network_511.npz"]),
            (SqueezeReference, ["weights.py", "decode.npz", "blocks.npz"]),
            (CenterNetReference, ["weights.py", "decode.npz", "pooling.npz"]),
        ],
    )
    def test_the_files_tell_the_kind(self, tmp_path, kind, files):
        for file in files:
            (tmp_path / file).touch()
        assert type(open_folder(str(tmp_path))) is kind

    def test_keys_tell_the_kind_of_a_network_alone(self, tmp_path):
        (tmp_path / "keys.json").write_text('{"keys": [{"key": "module.ct_heats.0.1.weight"}]}')
        (tmp_path / "network_255.npz").touch()
        assert type(open_folder(str(tmp_path))) is CenterNetReference

    def test_table_and_status(self, folder, capsys, tmp_path):
        report = tmp_path / "report.json"
        arguments = [str(folder), "--only", "decode,softnms", "--json", str(report)]
        assert main(arguments) == 0
        out = capsys.readouterr().out
        assert "decode.npz" in out and "softnms.npz" in out and "losses.npz" not in out
        rows = json.loads(report.read_text())
        assert {row["file"] for row in rows} == {"decode.npz", "softnms.npz"}
        assert all(row["passed"] and row["max_abs"] <= 1e-3 for row in rows)
        assert f"{len(rows)} of {len(rows)} comparisons hold" in out

    def test_failure_is_the_exit_status(self, folder, tmp_path, capsys):
        def change(arrays):
            arrays["case1/detections"] = arrays["case1/detections"] + 1

        changed(folder, tmp_path, "decode.npz", change)
        assert main([str(tmp_path)]) == 1
        assert "FAILS" in capsys.readouterr().out

    def test_what_is_unknown_or_missing_is_said(self, folder, tmp_path, capsys):
        shutil.copy(folder / "corner_pool.npz", tmp_path)
        (tmp_path / "extra.npz").touch()
        assert main([str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert "unknown file: extra.npz" in out
        assert "not in the folder: losses.npz" in out
        assert "not in the folder: network_*.npz" in out

    def test_nothing_compared_is_no_success(self, tmp_path):
        assert main([str(tmp_path)]) == 2
        assert main([str(tmp_path / "none")]) == 2


class TestNetwork:
    """The full network's file, played with the small one."""

    @pytest.fixture
    def arrays(self, folder, tmp_path):
        shutil.copy(FIXTURES / "weights.py", tmp_path)
        shutil.copy(OFFICIAL / "keys_tiny.json", tmp_path / "keys.json")
        reference = OfficialReference(str(tmp_path))
        checkpoint = reference.weights("keys.json", 5)
        model, _ = reference.model("keys.json", 5)
        images = np.stack([reference.recipe.make_image(63, 95, seed) for seed in (1, 2)])
        x = torch.cat([reference.recipe.normalise(image) for image in images])
        values = [v.double() for v in checkpoint.weights.values() if v.is_floating_point()]
        arrays = {
            "weights_seed": np.array(5),
            "weights_sum": np.array(sum(float(v.sum()) for v in values)),
            "weights_abs_sum": np.array(sum(float(v.abs().sum()) for v in values)),
            "image": images,
            "input_stats": stats(x),
            "input_sub": x[..., ::16, ::16].numpy(),
            "heat_channels": np.array([0, 3]),
        }
        with torch.no_grad():
            stem = model.eval().backbone.stem(x)
            stacks = model.corner_maps(x)
        arrays["inter/pre/shape"], arrays["inter/pre/stats"] = np.array(stem.shape), stats(stem)
        for s, maps in enumerate(stacks):
            for corner in ("tl", "br"):
                for name, ours in network.OUTPUTS.items():
                    value, prefix = maps[corner][ours], f"stack{s}/{corner}_{name}"
                    arrays[f"{prefix}/shape"] = np.array(value.shape)
                    arrays[f"{prefix}/stats"] = stats(value)
                    arrays[f"{prefix}/channel_sums"] = value.double().sum((2, 3)).numpy()
                    chosen = value[:, [0, 3]] if name == "heat" else value
                    arrays[f"{prefix}/sub"] = chosen[..., ::4, ::4].numpy()
        decoded = decode(stacks[-1], top_k=100, max_detections=1000)
        arrays["detections"] = network.decoded_rows(decoded)[:, ::-1]  # any order
        return arrays

    def check(self, tmp_path, arrays):
        np.savez(tmp_path / "network_63x95.npz", **arrays)
        return [c for c in compare(open_folder(str(tmp_path))) if not c.passed]

    def test_holds_and_finds_errors(self, tmp_path, arrays):
        assert not self.check(tmp_path, arrays)
        for key in ("stack1/br_heat/sub", "stack0/tl_regr/stats", "inter/pre/stats", "detections"):
            wrong = {**arrays, key: arrays[key] + 0.01}
            assert self.check(tmp_path, wrong), key
        assert self.check(tmp_path, {**arrays, "weights_seed": np.array(6)})


class TestComparing:
    case = Case("file", "case")

    def test_measures(self):
        assert self.case.absolute("q", [1.0, 2.0], [1.0, 2.1], 0.11).passed
        assert not self.case.absolute("q", [1.0, 2.0], [1.0, 2.1], 0.09).passed
        assert self.case.relative("q", [100.0], [101.0], 0.01).passed
        assert not self.case.relative("q", [100.0], [102.0], 0.01).passed
        assert self.case.relative("q", [0.0], [0.0], 1e-9).passed
        assert not self.case.relative("q", [1e-3], [0.0], 1e-9).passed
        assert self.case.largest("q", [0.001, 1.0], [0.0, 1.0], 0.01).passed
        assert not self.case.exact("q", [1, 2], [1, 3]).passed

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_what_is_not_finite_never_holds(self, bad):
        assert not self.case.absolute("q", [bad], [1.0], 1e9).passed
        assert not self.case.relative("q", [bad], [1.0], 1e9).passed
        assert not self.case.exact("q", [float("nan")], [1.0]).passed

    def test_shapes_must_agree(self):
        check = self.case.absolute("q", np.zeros((2, 1)), np.zeros(2), 1.0)
        assert not check.passed and "shape (2, 1), reference (2,)" in check.note

    def test_rows_in_any_order_are_used_once(self):
        want = np.array([[0.0], [0.0], [5.0]])
        assert np.array_equal(match_rows(want[[2, 0, 1]], want), want)
        assert not np.array_equal(match_rows(np.array([[0.0], [5.0], [5.0]]), want), want)

    def test_stride_of_a_sample(self):
        x = torch.arange(511.0).expand(1, 1, 511, 511)
        assert strided(x, (1, 1, 32, 32)).shape == (1, 1, 32, 32)
        assert strided(x, (1, 1, 32, 32))[0, 0, 0, 1] == 16
        assert strided(x[..., :8], (1, 1, 16, 1)).shape == (1, 1, 16, 1)
