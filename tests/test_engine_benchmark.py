"""The benchmark of a training step runs every combination it offers."""

import argparse
from typing import Any

import pytest

from cornernet_d2 import model_zoo
from cornernet_d2.tools.benchmark import train


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    common = ["--config-file", "CornerNet-Shapes", "--size", "63", "--steps", "1"]
    return parser.parse_args([*common, "--device", "cpu", *given])


@pytest.mark.parametrize("name", ["fp32", "bf16+channels_last+stack", "fp16+block"])
def test_measures_a_step(name: str) -> None:
    config = model_zoo.get_config("CornerNet-Shapes")
    seconds, gigabytes = train._measure(config, name, arguments())
    assert seconds > 0 and 0 <= gigabytes < 4


def test_counts_the_cost(capsys: Any) -> None:
    assert train.run(arguments("--cost", "--config-file", "CornerNet-HG104", "--size", "511")) == 0
    printed = capsys.readouterr().out
    assert "canvas 512 x 512: 201.0 M parameters" in printed
    assert "2.71 TFLOP" in printed and "804 MB" in printed


def test_unknown_switch() -> None:
    with pytest.raises(ValueError, match=r"unknown \['fp8'\]"):
        train.run(arguments("--combinations", "fp8+block"))
