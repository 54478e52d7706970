from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from deepsup.errors import ConfigError
from deepsup.settings import configs
from deepsup.settings.comparison import ComparisonConfig
from deepsup.settings.configs import parse
from tests.support.comparison_settings import ARMS


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
    changed = configs.differences(cells[0].config, cells[1].config, ignore=("output", "name"))
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
