"""The settings of a run or a comparison, read from YAML and from dotted overrides, and written.

    config = load("digits.yaml", ["optimizer.lr=0.1", "supervise.at=[stage2]"])

A file with `groups`, `arms`, `methods` or `vary` describes a comparison, any other file a single run. Settings are frozen; a
key that does not exist is an error that names the closest one that does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from deepsup.settings import foreign
from deepsup.settings.comparison import ComparisonConfig
from deepsup.settings.section import check, flattened, override, read
from deepsup.settings.training import TrainConfig
from deepsup.trust import Asked, Trust
from deepsup.trust import check as check_trust

Config = TrainConfig | ComparisonConfig


def load(path: str | Path | None = None, overrides: Iterable[str] = (), *, trust: Trust = False) -> Config:
    """The settings of a YAML file (or the defaults) with dotted overrides such as `optimizer.lr=0.1` laid over them.

    The value of an override is read as YAML: `supervise.at=[stage1, stage2]`, `supervise=null`.
    Raises `ConfigError` that names the key, what was found and the closest key that exists; `TrustError` where the file
    names a network that would be imported from elsewhere, unless an override names it too or `trust` allows it.
    """
    typed = tuple(overrides)
    data = {} if path is None else read(Path(path))
    for text in typed:
        data = override(data, text)
    config = parse(data, where="the defaults" if path is None else str(path))
    if path is not None:
        check_trust(asks(config), where=str(path), trust=trust if trust is True else (*(trust or ()), *typed))
    return config


def asks(config: Config) -> list[Asked]:
    """What settings ask for that a file may not, see `foreign`."""
    runs = [config] if isinstance(config, TrainConfig) else [cell.config for cell in config.expand()]
    return [one for run in runs for one in foreign.asks(run.model_dump())]


def asked_names(config: Config) -> tuple[str, ...]:
    """The names of what settings ask for: who has these settings at hand, and no file, has been told of them."""
    return tuple(dict.fromkeys(one.name for one in asks(config)))


def parse(data: Mapping[str, Any], *, where: str = "the configuration") -> Config:
    """A plain mapping, checked: a comparison if it has `groups`, `arms`, `methods` or `vary`, else one run."""
    if {"groups", "arms", "methods", "vary"} & data.keys():
        return check(ComparisonConfig, dict(data), where=where)
    return check(TrainConfig, dict(data), where=where)


def save(config: Config, path: str | Path) -> None:
    """Write the full settings, defaults included, as YAML that `load` reads back."""
    Path(path).write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True), "utf-8")


def differences(one: Config, other: Config, *, ignore: Iterable[str] = ("output",)) -> dict[str, tuple[Any, Any]]:
    """The dotted keys in which two configurations differ, with both values."""
    left, right = (dict(flattened(c.model_dump(mode="json"))) for c in (one, other))
    keys = [k for k in {**left, **right} if k.split(".")[0] not in set(ignore)]
    return {
        k: (left.get(k), right.get(k)) for k in keys if left.get(k) != right.get(k) or _is_only_in_one(k, left, right)
    }


def _is_only_in_one(key: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Whether one has the key, as null, and the other neither it nor anything below it: an arm's null overrides `base`."""
    other = right if key in left else left
    return not any(k == key or k.startswith(f"{key}.") for k in other)
