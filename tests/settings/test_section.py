"""docs/settings.md says what the settings' classes say, and its names are those that exist."""

from __future__ import annotations

import math
import os
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from deepsup import datasets, heads, losses, methods, schedules
from deepsup.errors import ConfigError
from deepsup.settings import configs
from deepsup.settings.comparison import ComparisonConfig
from deepsup.settings.section import Settings, merge, nested, override, read
from deepsup.settings.training import TrainConfig

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "settings.md").read_text("utf-8")


@pytest.fixture(scope="module")
def maker() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "make_settings.py"))


def test_the_tables_are_up_to_date(maker: dict[str, Any]):
    assert maker["render"](PAGE) == PAGE, "docs/settings.md is out of date: run `python docs/make_settings.py`."


def test_a_table_that_is_out_of_date_is_noticed_and_made_anew(maker: dict[str, Any]):
    stale = PAGE.replace("| `optimizer.momentum` | `0.9` |", "| `optimizer.momentum` | `0.5` |")
    assert stale != PAGE
    assert maker["render"](stale) == PAGE


def test_every_section_has_its_table_and_every_key_its_meaning(maker: dict[str, Any]):
    assert re.findall(r"<!-- table (\S+) -->", PAGE) == list(maker["sections"]())
    models = {model for model in Settings.__subclasses__() if model.__module__.startswith("deepsup.")}
    assert models == set(maker["sections"]().values())
    for section, model in maker["sections"]().items():
        for key, field in model.model_fields.items():
            assert field.description or key in ("probe", *TrainConfig.model_fields), f"{section}.{key}"
    assert not re.search(r"\| None \|", PAGE)


def test_the_names_in_the_page_are_those_that_exist():
    known = [*datasets.names(), *methods.METHODS, *heads.HEADS, *losses.LOSSES]
    assert not [name for name in known if f"`{name}`" not in PAGE]
    assert not [name for name in schedules.SCHEDULES if f"`{name}(" not in PAGE]
    assert {"`num_classes`", "`in_channels`", "`size`"} <= set(re.findall(r"^\| (`\w+`) \|", PAGE, flags=re.M))


def test_the_overrides_in_the_page_are_read():
    commands = re.findall(r"^deepsup train (.*?)(?: +#.*)?$", PAGE, flags=re.M)
    assert len(commands) == 3
    for command in commands:
        words = re.findall(r'"[^"]*"|\S+', command)
        overrides = [word.strip('"') for word in words if "=" in word]
        files = [DOCS.parent / word for word in words if "=" not in word]
        configs.load(*files, overrides=overrides)


def test_the_two_ways_to_write_methods_say_the_same():
    short, named = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(methods:.*?)```", PAGE, flags=re.S))
    one, other = configs.parse(short), configs.parse(named)
    assert isinstance(one, ComparisonConfig)
    assert isinstance(other, ComparisonConfig)
    assert list(one.arms.values()) == list(other.arms.values())
    assert (one.baseline, list(one.arms)) == ("none", ["none", "label-smoothing", "dsl", "dhm-temperature=2"])
    assert f"`{one.candidates[-1]}`" in PAGE


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epochs: 1\nname: a\nepochs: 2\n", "the key 'epochs' stands twice.*line 3"),
        ("data: {name: digits, name: cifar10}\n", "the key 'name' stands twice"),
        ("arms:\n  - {a: {lr: 1, lr: 2}}\n", "the key 'lr' stands twice"),
        ("name: 2001-99-99\n", "ValueError"),
        ("name: !!bool abc\n", "KeyError"),
        ("name: " + "1" * 4301 + "\n", "ValueError"),
        ("name: " + "[" * 3000, "RecursionError"),
    ],
)
def test_what_yaml_cannot_mean_is_refused_by_file(tmp_path: Path, text: str, says: str):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"(?s)a\.yaml is not valid YAML: .*{says}"):
        read(tmp_path / "a.yaml")
    with pytest.raises(ConfigError, match="cannot read the value in"):
        override({}, "key=" + text.partition(": ")[2]) if says[0] in "VKR" else override({}, "k={a: 1, a: 2}")


def test_a_key_laid_over_a_merged_one_stands_there_once(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("deep: {x: &b {<<: &a {lr: 1, n: 2}, lr: 3}}\narm: {<<: *b, n: 4}\n")
    assert read(tmp_path / "a.yaml") == {"deep": {"x": {"lr": 3, "n": 2}}, "arm": {"lr": 3, "n": 4}}


BOMB = "a: &a [1, 2]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefghij", "bcdefghijk", strict=True)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "more than 20000 values, its aliases written out"),
        ("a: &a [*a]", "more than"),
        ("a: &a {b: *a}", "more than"),
        ("a: " + "[" * 60 + "]" * 60, "more than 40 levels"),
        ("a: " + "[" * 60_000, "is not valid YAML"),
        ("- 1\n" * 20_001, "more than 20000 values"),
        ("a: " + "x" * 2**20, "1048579 characters"),
    ],
)
def test_bombs_are_refused_in_a_sentence(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=says) as caught:
        read(tmp_path / "c.yaml")
    assert len(str(caught.value)) < 600
    with pytest.raises(ConfigError, match="cannot read the value"):
        override({}, f"a={text}")


def test_an_alias_is_no_bomb(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("base: &b {lr: 1}\none: *b\ntwo: {<<: *b, momentum: 2}\n")
    assert read(tmp_path / "c.yaml") == {"base": {"lr": 1}, "one": {"lr": 1}, "two": {"lr": 1, "momentum": 2}}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="no regular file"):
        read(tmp_path / "c.yaml")


def leaves(model: type[Settings], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key that is no section, and its annotation."""
    for name, field in model.model_fields.items():
        kinds = [k for k in (field.annotation, *get_args(field.annotation)) if isinstance(k, type)]
        inner = next((kind for kind in kinds if issubclass(kind, Settings)), None)
        if inner is None:
            yield prefix + name, field.annotation
        else:
            yield from leaves(inner, f"{prefix}{name}.")


NO_NUMBERS = [
    math.nan,
    math.inf,
    -math.inf,
    -1,
    -0.5,
    10**30,
    -(2**63),
    "\0",
    "a\nb",
    "\udcff",
    [math.nan],
    {"x": math.nan},
]
BASES = {
    TrainConfig: {},
    ComparisonConfig: {"arms": {"plain": {"supervise": None}, "aux": {"supervise": {"at": ["a"]}}}},
}


@pytest.mark.parametrize("kind", BASES)
def test_no_key_takes_what_is_no_value_of_any(kind: type[Settings]):
    for key, annotation in leaves(kind):
        switch = "bool" in str(annotation) or "Any" in str(annotation)
        for value in [*NO_NUMBERS, *([] if switch else [True, False])]:
            with pytest.raises(ConfigError) as told:
                configs.parse(merge(BASES[kind], nested(key, value)))
            assert key.rpartition(".")[2] in str(told.value) or key in ("methods", "vary"), (
                key,
                value,
                str(told.value),
            )
