"""Configs and models by name."""

from pathlib import Path

import pytest
from detectron2.config import CfgNode

import cornernet_d2
from cornernet_d2 import model_zoo
from cornernet_d2.data.builtin import CLASSES

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_yaml_is_found_and_is_complete(path: Path) -> None:
    assert Path(model_zoo.get_config_file(path.name)).samefile(path)
    assert model_zoo.get_config_file(path.stem) == model_zoo.get_config_file(path.name)
    cfg = model_zoo.get_config(path.name)
    assert isinstance(cfg, CfgNode)
    assert cfg.MODEL.META_ARCHITECTURE == "CornerNet"


@pytest.mark.parametrize(
    "path",
    sorted(path for path in (CONFIGS / "lazy").glob("*.py") if path.name != "__init__.py"),
    ids=lambda path: path.name,
)
def test_every_lazy_config_is_found(path: Path) -> None:
    cfg = model_zoo.get_config(path.relative_to(CONFIGS).as_posix())
    assert {"model", "dataloader", "optimizer", "train"} <= set(cfg)


def test_a_model_comes_in_training_mode_on_the_device_asked_for() -> None:
    model = model_zoo.get("CornerNet-Shapes", device="cpu")
    assert model.training and model.device.type == "cpu"
    assert model.target_generator.num_classes == len(CLASSES["shapes"])


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'CornerNet-R50'.*CornerNet-HG104\.yaml.*Shapes"):
        model_zoo.get_config_file("CornerNet-R50")


@pytest.mark.parametrize("function", [model_zoo.get, model_zoo.get_config])
def test_trained_weights_are_refused_with_the_way_to_get_them(function: object) -> None:
    with pytest.raises(ValueError, match="cornernet convert"):
        function("CornerNet-HG104", trained=True)


def test_it_is_there_after_importing_the_package() -> None:
    assert cornernet_d2.model_zoo is model_zoo
