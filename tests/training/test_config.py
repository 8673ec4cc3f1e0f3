from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from xyscannet.errors import ConfigError, UnavailableError
from xyscannet.losses import LossConfig
from xyscannet.training import parts
from xyscannet.training.config import TrainConfig, network_config
from xyscannet.training.recipes import load_config, parse_config, recipes


@pytest.mark.parametrize("name", ["smoke", "default-s"])
def test_recipe_loads_and_survives_being_written(name: str) -> None:
    config = load_config(name)
    assert name in recipes() and config.name == name
    assert parse_config(yaml.safe_load(config.to_yaml())) == config


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("iteration", "iterations"),
        ("optimiser.lrr", "optimiser.lr"),
        ("data.blur.path_xp", "data.blur.path_px"),
        ("optimizer.lr", "optimiser"),
        ("stages", None),
    ],
)
def test_unknown_key_names_the_nearest_known(key: str, nearest: str | None) -> None:
    if nearest is None:
        with pytest.raises(ConfigError, match=r"'stages.0.pach'; did you mean 'stages.0.patch'"):
            load_config("smoke", ["stages=[{until: 1, pach: 64, batch: 2}]"])
        return
    with pytest.raises(ConfigError, match=f"did you mean '{nearest}'"):
        load_config("smoke", [f"{key}=1"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.lr=-1", "optimiser.lr"),
        ("optimiser.lr=fast", "optimiser.lr"),
        ("optimiser.lr=.inf", "optimiser.lr"),
        ("optimiser.lr=1.0e-9", "min_lr 1e-07 is above lr"),
        ("optimiser.betas=[0.9, 1.0]", "optimiser.betas.1"),
        ("seed=99999999999999999999", "seed"),
        ("iterations=true", "iterations"),
        ("time_budget_minutes=5", "exactly one of iterations and time_budget_minutes"),
        ("iterations=null", "exactly one of iterations and time_budget_minutes"),
        ("data.scale=[0.9, 0.5]", "scale"),
        ("data.pairs=[{split: test}]", "a dataset, a root, or blur and sharp"),
        ("data.pairs=[{root: a, blur: b, sharp: c}]", "not both"),
        ("data.pairs=[{root: a, blur: b}]", "give both"),
        ("stages=[{until: 0.5, patch: 64, batch: 2}]", "end at 1"),
        ("stages=[{until: 1, patch: 64, batch: 2}, {until: 1, patch: 32, batch: 2}]", "must grow"),
        ("model=xyscannet-z", "xyscannet-"),
        ("model={widht: 8}", "width"),
        ("precision=fp8", "precision"),
        ("optimiser", "key=value"),
        ("iterations.first=1", "not a section"),
        ("data.photos=[a", "YAML"),
    ],
)
def test_wrong_values_are_refused_with_their_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("smoke", [override])


def test_there_is_one_set_to_validate_on() -> None:
    with pytest.raises(ConfigError, match="validation.pairs, not both"):
        load_config("smoke", ["data.validation=a", "validation.pairs={root: b}"])


def test_overrides_change_single_values_of_a_named_network() -> None:
    config = load_config("ablation", ["model.width=8", "model.encoder_blocks=[1, 1, 1]"])
    expected = network_config("xyscannet-b")
    assert network_config(config.model) == replace(expected, width=8, encoder_blocks=(1, 1, 1))
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        load_config("ablation", ["model.widht=8"])


def test_overrides_change_the_network_of_a_file_that_names_none(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("iterations: 10\n")
    expected = replace(network_config(load_config(path).model), gate="mean")
    assert network_config(load_config(path, ["model.gate=mean"]).model) == expected


def test_overrides_change_values_at_any_depth() -> None:
    config = load_config("smoke", ["optimiser.lr=1e-4", "data.photos=[a, b.tar]", "model=xyscannet-s"])
    assert config.optimiser.lr == 1e-4
    assert config.data.photos == ("a", "b.tar")
    assert config.model == "xyscannet-s"


def test_configuration_is_found_by_path_and_named_after_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("iterations: 5\n")
    assert load_config(path).name == "mine"
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "other.yaml")
    with pytest.raises(ConfigError, match="did you mean 'smoke'"):
        load_config("smok")
    path.write_text("data: {patch: 32}\niterations: 5\ndata: {batch: 2}\n")
    with pytest.raises(ConfigError, match="the key 'data' again(.|\n)*line 3"):
        load_config(path)
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="mapping"):
        load_config(path)


def test_stages_set_patch_and_batch_along_the_run() -> None:
    config = TrainConfig(
        iterations=10,
        stages=[{"until": 0.5, "patch": 64, "batch": 8}, {"until": 1, "patch": 128, "batch": 2}],
    )
    assert [config.shape_at(progress) for progress in (0, 0.49, 0.5, 1.2)] == [
        (64, 8),
        (64, 8),
        (128, 2),
        (128, 2),
    ]


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        TrainConfig(iterations=1).seed = 3


def test_a_loss_whose_package_is_missing_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    # torchvision, which LPIPS needs, is looked for first
    needed = r"^this needs the package (lpips|torchvision) .*pip install ['\"]xyscannet\[metrics\]"
    with pytest.raises(UnavailableError, match=needed):
        parts.make_loss(LossConfig(lpips=0.1), torch.device("cpu"))
