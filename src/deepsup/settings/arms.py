"""The arms of a comparison in short: methods by name, and controls that follow another arm.

methods: [none, label-smoothing, dsl, dhm(temperature=2)]
arms: {compute: {supervise: {method: equal-compute, like: dsl}}}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from deepsup import methods
from deepsup.errors import ConfigError
from deepsup.settings.section import flattened, merge, nested

PLAIN = "none"
OF_THE_COMPARISON = ("seed", "name", "output")  # keys of a run that a comparison sets for each


def arms_of(listed: Any, arms: Any) -> dict[str, Any]:
    """The arms that `listed` methods stand for, with what `arms` says laid over them.

    `listed` is a list of methods, or a mapping from an arm's name to a method or to settings of `supervise`, whose
    method is that of the name if they have none. `none` is the plain model. Raises `ConfigError` for anything else.
    """
    found = {name: {"supervise": _supervise(name, value)} for name, value in _named(listed).items()}
    return merge(found, arms or {})


def completed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a comparison with output, arms and baseline where they follow from the rest.

    `methods` is no more once it has become arms, and is read back as such.
    """
    found = {
        **data,
        "output": f"runs/{data.get('name', 'comparison')}" if data.get("output") in (None, "") else data["output"],
    }
    arms = data.get("arms") or {}
    if data.get("methods") is not None and isinstance(arms, Mapping):
        arms = arms_of(data["methods"], arms)
        found |= {"methods": None, "arms": arms}
    if data.get("vary") is not None and isinstance(arms, Mapping):
        variation = varied(data["vary"])
        arms = merge(variation.arms, arms)
        found |= {"vary": {variation.key: list(variation.values.values())}, "arms": arms}
    names = list(arms) if isinstance(arms, Mapping) else []
    usual = [name for name in ("plain", "none") if name in names]
    first = names[:1] if data.get("vary") is not None else ["none"]
    return {
        **found,
        "baseline": [*usual, *first, "none"][0] if data.get("baseline") in (None, "") else data["baseline"],
    }


def check_parts(
    base: Mapping[str, Any],
    groups: Mapping[str, Mapping[str, Any]],
    arms: Mapping[str, Mapping[str, Any]],
    *,
    baseline: str,
) -> None:
    """Raise `ConfigError` for a comparison without two arms, names that are no folders, and keys that it sets itself."""
    if len(arms) < 2 or baseline not in arms:
        raise ConfigError(
            f"a comparison has two arms or more, one of them the baseline {baseline!r}; "
            f"found {', '.join(arms) or 'none'}. List them: methods: [none, aux], or arms: by name."
        )
    for name in (*groups, *arms):
        if not name or not all(c.isalnum() or c in "-_.+=" for c in name) or name.startswith("."):
            raise ConfigError(f"{name!r} names a folder: write a group or arm with letters, digits, - _ . + = only.")
    for where, own in (("base", base), *groups.items(), *arms.items()):
        if kept := [key for key in OF_THE_COMPARISON if key in own]:
            raise ConfigError(
                f"{where}: {', '.join(kept)} is set by the comparison for each run. Take it out; seeds: lists the seeds."
            )


def check_seeds(seeds: Sequence[int], *, until: str | None, most: int | None) -> None:
    """Raise `ConfigError` for a seed that is listed twice, and unless `until` and `max_seeds` are both there or neither."""
    if len(set(seeds)) != len(seeds):
        raise ConfigError(f"each seed counts once; found {list(seeds)}.")
    if (until is None) != (most is None) or (most or len(seeds)) < len(seeds):
        raise ConfigError(
            f"until: decided goes with max_seeds, {len(seeds)} or more; found until: {until} and max_seeds: {most}. "
            "Write both, such as until: decided, max_seeds: 10, or neither."
        )


class Variation(NamedTuple):
    """One key of a run, the arms in which it varies, and its value in each."""

    key: str
    arms: dict[str, Any]
    values: dict[str, Any]


def varied(vary: Any) -> Variation:
    """The arms that differ in the value of one dotted key: `{"supervise.weight": [0, 0.2]}`.

    Each is named by key and value, `weight=0.2`; a weight of 0 for all branches is the plain network and called `none`.
    Raises `ConfigError` unless there is one key with two different values or more.
    """
    found = list(flattened(vary)) if isinstance(vary, Mapping) else []
    if len(found) != 1 or not isinstance(found[0][1], list) or len(found[0][1]) < 2:
        raise ConfigError(
            f"vary: write one key and its values, two or more, such as vary: {{supervise.weight: [0, 0.2]}}; found {vary!r}."
        )
    (key, listed), arms, values = found[0], dict[str, Any](), dict[str, Any]()
    if key in OF_THE_COMPARISON:
        raise ConfigError(
            f"vary: {key!r} is set by the comparison itself, so that all values would be one and the same arm. "
            "Write seeds: [0, 1, 2] for the seeds of every arm; vary something that the arms are to differ in."
        )
    for value in listed:
        plain = key == "supervise.weight" and type(value) in (int, float) and value == 0
        name = PLAIN if plain else arm_name(f"{key.rpartition('.')[2]}={value}")
        if name in arms:
            raise ConfigError(
                f"vary: {values[name]!r} and {value!r} would both be the arm {name!r}. Each value counts once."
            )
        arms[name], values[name] = {"supervise": None} if plain else nested(key, value), value
    return Variation(key, arms, values)


def arm_name(method: str) -> str:
    """A method as the name of an arm, and so of a folder: `dhm(temperature=2)` is `dhm-temperature=2`."""
    return re.sub(r"[^\w.+=]+", "-", re.sub(r"[\s'\"]+", "", method)).strip("-.")


def settings_of(arm: str, arms: Mapping[str, Mapping[str, Any]], shared: Mapping[str, Any]) -> dict[str, Any]:
    """What the runs of an arm are set to: `shared`, and over it what the arm says, key by key.

    Branches that are set for all arms are not for one whose method attaches none. One that is `like` another arm gets the
    settings of that arm in place of its name, and so knows by itself what it follows. Raises `ConfigError` for an arm
    that is not there or has no branches.
    """
    data = merge(shared, arms[arm])
    own = arms[arm].get("supervise")
    if not isinstance(own, Mapping) or not _bare(own):
        return data
    named = own.get("like")
    if not isinstance(named, str):
        return {**data, "supervise": own}
    others = {other: merge(shared, arms[other]).get("supervise") for other in arms if other != arm}
    leading = {other: found for other, found in others.items() if isinstance(found, Mapping) and not _bare(found)}
    if named not in leading:
        why = "there is no such arm" if named not in arms else "it trains no branches of its own"
        raise ConfigError(
            f"arms.{arm}.supervise.like names the arm {named!r}, and {why}. It can be like: {', '.join(leading) or 'none'}."
        )
    return {**data, "supervise": {**own, "like": leading[named]}}


def _bare(supervise: Mapping[str, Any]) -> bool:
    """Whether these settings name a method that attaches nothing, such as a control."""
    try:
        return methods.get(str(supervise.get("method", ""))).bare
    except ConfigError:  # said where the settings are checked
        return False


def _named(listed: Any) -> dict[str, Any]:
    if isinstance(listed, Mapping):
        return {str(name): value for name, value in listed.items()}
    listed = [listed] if isinstance(listed, str) else listed
    if not isinstance(listed, Sequence) or not all(isinstance(method, (str, type(None))) for method in listed):
        raise ConfigError(
            f"methods: write a list of methods, such as [none, dsl, dhm], or arms by name; found {listed!r}. In YAML, quote "
            "a method whose options have a comma: 'dhm(temperature=2, dynamic=True)'."
        )
    found: dict[str, str] = {}
    for method in (PLAIN if method is None else method for method in listed):
        name = arm_name(method)
        if name in found:
            raise ConfigError(
                f"methods: {found[name]!r} and {method!r} would both be the arm {name!r}. Name them: "
                f"methods: {{first: {found[name]!r}, second: {method!r}}}."
            )
        found[name] = method
    return found


def _supervise(name: str, value: Any) -> dict[str, Any] | None:
    if value is None or value == PLAIN:
        return None
    if isinstance(value, str):
        return {"method": value}
    if isinstance(value, Mapping):
        return {"method": name, **value}
    raise ConfigError(f"methods.{name} is a method, null, or settings of supervise; found {value!r}.")
