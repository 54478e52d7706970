from __future__ import annotations

from pathlib import Path

import pytest

from deepsup.errors import ConfigError
from deepsup.settings import configs
from deepsup.settings.configs import load
from deepsup.settings.training import TrainConfig


def test_what_is_saved_loads_as_the_same(tmp_path: Path):
    config = load(None, ["supervise.at=[relu1]", "supervise.weight={relu1: 0.3}", "optimizer.lr=1e-3", "seed=3"])
    configs.save(config, tmp_path / "config.yaml")
    assert load(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("optimizer.lr=1e-3", "optimizer.lr", 0.001),
        ("optimizer.lr=.5", "optimizer.lr", 0.5),
        ("supervise.at=relu1", "supervise.at", ["relu1"]),
        ("supervise.at=auto", "supervise.at", "auto"),
        ("supervise.at={early: relu1}", "supervise.at", {"early": "relu1"}),
        ("supervise.weight=linear(0.3, 0)", "supervise.weight", "linear(0.3, 0)"),
        ("model=timm:resnet18", "model", "timm:resnet18"),
        ("model_options.widths=[8, 16]", "model_options", {"widths": [8, 16]}),
        ("model_options=null", "model_options", {}),
        ("data.size=null", "data.size", None),
        ("log.tensorboard=true", "log.tensorboard", True),
    ],
)
def test_overrides_are_read_as_yaml(override: str, key: str, value: object):
    found: object = load(None, [override])
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_an_override_wins_over_the_file_and_a_later_one_over_an_earlier_one(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("epochs: 3\noptimizer: {name: adam, lr: 0.1}\n")
    config = load(file, ["optimizer.lr=0.2", "optimizer.lr=0.3"])
    assert isinstance(config, TrainConfig)
    assert (config.epochs, config.optimizer.name, config.optimizer.lr) == (3, "adam", 0.3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimiser.lr=1", "no key 'optimiser'. Closest: optimizer"),
        ("optimizer.lrate=1", r"no key 'optimizer.lrate'. Closest: lr.*Keys of optimizer: name, lr, momentum"),
        ("supervise.probe.iteration=1", "Closest: iterations"),
        ("optimizer.lr=-1", "optimizer.lr cannot be -1: .*greater than 0"),
        ("optimizer.name=rmsprop", "optimizer.name cannot be 'rmsprop': .*'sgd', 'adam' or 'adamw'"),
        ("optimizer.schedule=linear(1)", "optimizer.schedule: cannot read the schedule"),
        ("supervise.weight={a: wobble(3)}", "no schedule is called 'wobble'"),
        ("supervise.at=3", "supervise.at cannot be 3: .*'auto'.*list"),
        ("supervise=[1]", r"supervise cannot be \[1\]"),
        ("epochs=many", "epochs cannot be 'many': .*integer"),
        ("engine.precision=8-mixed", "engine.precision cannot be '8-mixed'"),
        ("metric=acuracy", "no metric 'acuracy'. Closest: accuracy. It can be accuracy, or null"),
        ("epochs", "cannot read the override 'epochs'. Write key=value"),
        ("a..b=1", "cannot read the override"),
        ("data.size=[", "cannot read the value"),
        ("optimizer={nesterov: true, momentum: 0}", "nesterov: true needs a momentum"),
    ],
)
def test_errors_name_the_key_what_was_found_and_what_is_there(override: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load(None, [override])


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- 1", "must hold keys and values"), ("x: 1", "no key 'x'")]
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(file)
    assert "bad.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no configuration file at .*nowhere\.yaml"):
        load(tmp_path / "nowhere.yaml")


def test_yaml_cannot_run_code(tmp_path: Path):
    file = tmp_path / "evil.yaml"
    file.write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(file)


def test_a_models_name_in_place_of_a_file_is_answered_with_how_to_write_it():
    with pytest.raises(
        ConfigError, match=r"no configuration file at torchvision:resnet18.*Did you mean model=torchvision:resnet18\?"
    ):
        load("torchvision:resnet18")
