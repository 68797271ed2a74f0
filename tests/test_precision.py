"""SOLVER.AMP.PRECISION auto and CHANNELS_LAST null: what the machine is good at."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from tiny_run import make_dataset, tiny_config, tiny_network

from cornernet_d2 import model_zoo
from cornernet_d2.engine import CornerNetTrainer
from cornernet_d2.engine.precision import hardware_precision
from cornernet_d2.hardware import prefers_channels_last

PROBES = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
AUTO = ("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", "auto", "DATASETS.TEST", ())


@pytest.mark.parametrize("amx, avx, expected", [(1, 0, "AMX"), (0, 1, "AVX512"), (0, 0, "neither")])
def test_cpu(monkeypatch: pytest.MonkeyPatch, amx: int, avx: int, expected: str) -> None:
    for probe, answer in zip(PROBES, (amx, avx)):
        monkeypatch.setattr(torch.cpu, probe, lambda answer=answer: bool(answer), raising=False)
    dtype, reason = hardware_precision("cpu")
    assert dtype == (torch.bfloat16 if amx or avx else None) and expected in reason


def test_a_torch_that_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    for probe in PROBES:
        monkeypatch.delattr(torch.cpu, probe, raising=False)
    assert hardware_precision("cpu")[0] is None


@pytest.mark.parametrize(
    "capability, dtype",
    [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)],
)
def test_cuda(monkeypatch: pytest.MonkeyPatch, capability: tuple, dtype: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    found, reason = hardware_precision("cuda:0")
    assert found == dtype and f"{capability[0]}.{capability[1]}" in reason


@pytest.mark.parametrize("fast", [True, False])
def test_trains_in_it_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fast: bool
) -> None:
    for probe in PROBES:
        monkeypatch.setattr(torch.cpu, probe, lambda: fast, raising=False)
    make_dataset(str(tmp_path))
    with caplog.at_level("INFO"):
        trainer = CornerNetTrainer(tiny_config(str(tmp_path), *AUTO, "SOLVER.MAX_ITER", 1))
    (line,) = [r.getMessage() for r in caplog.records if "Training in" in r.getMessage()]
    assert line.startswith(
        "Training in bfloat16: the CPU has AMX" if fast else "Training in float32"
    )
    seen = set()
    trainer.model.size.register_forward_hook(lambda m, i, out: seen.add(out.dtype))
    trainer.train()
    assert seen == {torch.bfloat16 if fast else torch.float32}


@pytest.mark.parametrize("name", ["Shapes", "BCCD", "Overfit"])
def test_no_small_config_emulates(name: str) -> None:
    amp = model_zoo.get_config(f"CornerNet-{name}.yaml").SOLVER.AMP
    assert not amp.ENABLED or amp.PRECISION == "auto"


@pytest.mark.parametrize(
    "capability, expected",
    [("AVX512", True), ("AVX512_BF16", True), ("AVX2", False), ("NO", False)],
)
def test_memory_format_of_a_cpu(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capability: str,
    expected: bool,
) -> None:
    """CHANNELS_LAST null is decided where a model is built, and the log says so; True stays."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    last = torch.channels_last if expected else torch.contiguous_format
    key = "MODEL.CORNERNET.CHANNELS_LAST"
    with caplog.at_level("INFO"):
        model = build_model(tiny_network("CornerNet-Small", key, None))
    assert model.memory_format == last
    assert f"Memory format {'channels_last' if expected else 'contiguous'}: " in caplog.text
    assert f"the CPU has {capability}" in caplog.text
    for value in (True, False):
        cfg = tiny_network("CornerNet-Small", key, value)
        assert (build_model(cfg).memory_format == torch.channels_last) == value
        cfg.merge_from_list([key, None])  # and back
        assert (build_model(cfg).memory_format == torch.channels_last) == expected


@pytest.mark.parametrize("half", [True, False])
def test_memory_format_of_a_gpu(monkeypatch: pytest.MonkeyPatch, half: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert prefers_channels_last("cuda:1", half)[0] == half
    assert not prefers_channels_last("xpu", half)[0]
