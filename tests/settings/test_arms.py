"""Tests of arms."""

from __future__ import annotations

import re
from typing import Any

import pytest

from deepsup.errors import ConfigError
from deepsup.settings import configs
from deepsup.settings.arms import arm_name
from deepsup.settings.comparison import ComparisonConfig
from deepsup.settings.configs import parse
from tests.support.comparison_settings import METHODS


def test_methods_in_short_are_arms_with_the_plain_model_as_baseline():
    config = parse({"base": {"supervise": {"at": ["relu1"]}}, "methods": METHODS, "seeds": [0, 5]})
    assert isinstance(config, ComparisonConfig)
    assert config.baseline == "none"
    assert config.candidates == ("aux", "cnds", "label-smoothing")
    cells = config.expand()
    assert [(c.seed, c.arm) for c in cells] == [(seed, arm) for seed in (0, 5) for arm in METHODS]
    assert [c.config.supervise and c.config.supervise.method for c in cells[:4]] == [None, *METHODS[1:]]
    assert cells[1].config.supervise is not None
    assert cells[1].config.supervise.at == ["relu1"]
    written_out = {arm: {"supervise": None if arm == "none" else {"method": arm}} for arm in METHODS}
    assert config == parse({"base": {"supervise": {"at": ["relu1"]}}, "arms": written_out, "seeds": [0, 5]})
    assert configs.differences(config, parse(config.model_dump(mode="json"))) == {}


def test_methods_by_name_take_settings_and_arms_are_laid_over_them():
    config = parse(
        {
            "methods": {
                "plain": None,
                "aux": {"at": ["relu1"]},
                "early": {"method": "aux", "at": ["relu2"]},
                "c": "cnds",
            },
            "arms": {"aux": {"supervise": {"head": "linear"}, "epochs": 7}, "last": {"supervise": {"method": "dsn"}}},
        }
    )
    assert isinstance(config, ComparisonConfig)
    assert config.baseline == "plain"
    assert list(config.arms) == ["plain", "aux", "early", "c", "last"]
    assert config.arms["aux"] == {"supervise": {"method": "aux", "at": ["relu1"], "head": "linear"}, "epochs": 7}
    assert config.arms["early"]["supervise"] == {"method": "aux", "at": ["relu2"]}
    assert config.arms["c"] == {"supervise": {"method": "cnds"}}


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("label-smoothing", "label-smoothing"),
        ("dhm(temperature=2)", "dhm-temperature=2"),
        ("dhm( temperature = 2, squared=True )", "dhm-temperature=2-squared=True"),
        ("x(weight='linear(0.3, 0)')", "x-weight=linear-0.3-0"),
        ("x(a=-0.5)", "x-a=-0.5"),
        ("../up", "up"),
    ],
)
def test_an_arm_is_named_after_its_method_so_that_it_can_be_a_folder(method: str, name: str):
    assert arm_name(method) == name


def test_a_control_follows_another_arm_and_knows_its_settings_by_itself():
    data: dict[str, Any] = {
        "base": {"supervise": {"at": ["relu1"], "head": "linear"}},
        "groups": {"a": {}, "b": {"supervise": {"at": ["relu2"]}}},
        "methods": ["none", "aux"],
        "arms": {"compute": {"supervise": {"method": "equal-compute", "like": "aux"}}},
        "seeds": [0],
    }
    config = parse(data)
    assert isinstance(config, ComparisonConfig)
    by_run = {c.run: c.config.supervise for c in config.expand()}
    for group, at in (("a", "relu1"), ("b", "relu2")):
        control = by_run[f"{group}/compute/seed0"]
        assert control is not None
        assert control.method == "equal-compute"
        assert control.like == {"method": "aux", "at": [at], "head": "linear"}
        assert (control.at, control.head) == (None, None)  # branches of `base` are not for a control
    for like, message in [
        ("axu", "'axu', and there is no such arm. It can be like: aux."),
        ("none", "'none', and it trains no branches of its own"),
        ("compute", "'compute', and it trains no branches of its own"),
    ]:
        data["arms"]["compute"]["supervise"]["like"] = like
        with pytest.raises(ConfigError, match=re.escape(message)):
            parse(data)
