from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from deepsup.errors import ConfigError
from deepsup.settings import training
from deepsup.settings.training import ComparisonConfig, TrainConfig, load, parse
from tests.support.comparison_settings import ARMS


def test_defaults_are_a_single_run_of_the_plain_model():
    config = load()
    assert isinstance(config, TrainConfig)
    assert config.supervise is None
    assert config.output == "runs/run"
    assert load(None, ["name=other"]).output == "runs/other"


def test_what_is_saved_loads_as_the_same(tmp_path: Path):
    config = load(None, ["supervise.at=[relu1]", "supervise.weight={relu1: 0.3}", "optimizer.lr=1e-3", "seed=3"])
    training.save(config, tmp_path / "config.yaml")
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
        ("engine.precision=16-mixed", "engine.precision cannot be '16-mixed'"),
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


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load().name = "other"  # type: ignore[misc]


def test_a_comparison_lays_groups_and_arms_over_its_base():
    config = parse(
        {
            "name": "demo",
            "base": {"epochs": 3, "optimizer": {"momentum": 0.5}},
            "groups": {"sgd": {}, "adam": {"optimizer": {"name": "adam", "lr": 0.001}}},
            "arms": ARMS,
            "seeds": [0, 7],
        }
    )
    assert isinstance(config, ComparisonConfig)
    cells = config.expand()
    assert [c.run for c in cells][:4] == ["sgd/plain/seed0", "sgd/aux/seed0", "adam/plain/seed0", "adam/aux/seed0"]
    assert len(cells) == 8
    last = cells[-1]
    assert last.run == last.config.name == "adam/aux/seed7"
    assert last.config.output == str(Path("runs/demo/adam/aux/seed7"))
    assert (last.config.seed, last.config.epochs, last.config.optimizer.name) == (7, 3, "adam")
    assert last.config.optimizer.momentum == 0.5
    assert last.config.supervise is not None
    assert cells[0].config.supervise is None


def test_pairs_differ_only_in_what_their_arms_say():
    cells = parse({"base": {"epochs": 2}, "arms": ARMS}).expand()  # type: ignore[union-attr]
    changed = training.differences(cells[0].config, cells[1].config, ignore=("output", "name"))
    assert {key.split(".")[0] for key in changed} == {"supervise"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"arms": {"plain": {}}}, "two arms or more.*found plain"),
        ({"arms": ARMS, "baseline": "none"}, "one of them the baseline 'none'; found plain, aux"),
        ({"arms": ARMS, "seeds": [1, 1]}, "each seed counts once"),
        ({"arms": ARMS, "seeds": []}, "seeds"),
        ({"arms": {**ARMS, "a/b": {}}}, "'a/b' names a folder"),
        ({"arms": ARMS, "groups": {"../up": {}}}, "names a folder"),
        ({"arms": ARMS, "groups": {"g": {"epoch": 1}}}, r"groups\.g.*no key 'epoch'. Closest: epochs"),
        ({"groups": {"g": {}}}, "two arms or more.*found none.*methods: "),
        ({"arms": ARMS, "minutes": 0}, "minutes cannot be 0"),
        ({"arms": ARMS, "correction": "fisher"}, "correction cannot be 'fisher'"),
        (
            {"arms": ARMS, "until": "decided"},
            "goes with max_seeds, 3 or more; found until: decided and max_seeds: None",
        ),
        ({"arms": ARMS, "max_seeds": 5}, "found until: None and max_seeds: 5"),
        ({"arms": ARMS, "until": "decided", "max_seeds": 2}, "goes with max_seeds, 3 or more"),
        ({"arms": ARMS, "until": "bored", "max_seeds": 9}, "until cannot be 'bored'"),
        ({"vary": {"seed": [1, 2]}}, "vary: 'seed' is set by the comparison itself.*Write seeds: "),
        ({"vary": {"name": ["a", "b"]}}, "vary: 'name' is set by the comparison itself"),
        ({"vary": {"output": ["a", "b"]}}, "vary: 'output' is set by the comparison itself"),
        ({"arms": {"a": {"seed": 1}, "none": {"seed": 2}}}, "a: seed is set by the comparison for each run"),
        ({"arms": ARMS, "base": {"seed": 1}}, "base: seed is set by the comparison for each run"),
        ({"arms": ARMS, "groups": {"g": {"seed": 1, "name": "x"}}}, "g: seed, name is set by the comparison"),
        ({"methods": ["none", "axu"]}, r"no method is called 'axu'\. Closest: aux"),
        ({"methods": ["none", "aux", "aux"]}, "'aux' and 'aux' would both be the arm 'aux'"),
        ({"methods": ["aux(a=1)", "aux(a='1')"]}, "would both be the arm"),
        ({"methods": 3}, r"write a list of methods, such as \[none, dsl, dhm\]"),
        ({"methods": ["none", 3]}, r"found \['none', 3\]"),
        ({"methods": {"none": None, "x": 3}}, "methods.x is a method, null, or settings of supervise; found 3"),
        ({"methods": {"none": None, "x": {}}}, "no method is called 'x'"),
    ],
)
def test_a_comparison_that_cannot_run_is_refused_before_anything_runs(data: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        parse(data)


def test_the_example_in_the_module_is_valid_yaml_for_both_kinds():
    text = yaml.safe_dump(parse({"arms": ARMS}).model_dump(mode="json"))
    assert isinstance(parse(yaml.safe_load(text)), ComparisonConfig)


def test_a_models_name_in_place_of_a_file_is_answered_with_how_to_write_it():
    with pytest.raises(
        ConfigError, match=r"no configuration file at torchvision:resnet18.*Did you mean model=torchvision:resnet18\?"
    ):
        load("torchvision:resnet18")
