"""Add seeds until it is decided, and look after each: verdicts that hold however early one stops.

The chance of a false verdict is spent in equal parts on the looks that there may be. So the intervals of all looks hold
together, by the union bound, and so does what is common to them: it only shrinks, and a verdict once reached stays.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from deepsup.comparisons.statistics import Difference, Verdict, judged, percent
from deepsup.settings.comparison import ComparisonConfig

K = TypeVar("K", bound=Hashable)


class Looks(NamedTuple):
    """After how many seeds is the first look, and after how many the last."""

    first: int
    most: int

    @property
    def number(self) -> int:
        """How many looks there may be."""
        return self.most - self.first + 1

    def level(self, confidence: float) -> float:
        """The confidence of each look, for all of them to hold together with `confidence`."""
        return 1 - (1 - confidence) / self.number

    def rule(self, confidence: float) -> str:
        """The sentence on them in the rule of a comparison."""
        return (
            f"Seeds are added until every arm is decided or there are {self.most}; after each from {self.first} on is a look, at "
            f"{percent(self.level(confidence))} for all {self.number} to hold together with {percent(confidence)}, and the "
            "interval is what those of all looks have in common. "
        )


def looks_of(config: ComparisonConfig) -> Looks | None:
    """The looks of a comparison that adds seeds to those that it is set to; None of another."""
    return (
        None if config.max_seeds is None else Looks(min(max(2, len(config.seeds)), config.max_seeds), config.max_seeds)
    )


def with_another_seed(config: ComparisonConfig) -> ComparisonConfig:
    """The same comparison with one seed more, the next whole number."""
    return config.model_copy(update={"seeds": [*config.seeds, max(config.seeds) + 1]})


def judged_in_turn(
    looks: Sequence[Mapping[K, Difference]], *, plan: Looks, confidence: float, correction: str
) -> dict[K, tuple[Verdict, list[dict[str, Any]]]]:
    """The verdicts by the looks so far, from `plan.first` seeds on, with the history of their intervals.

    `looks` are the differences after each. An interval is what the intervals of all looks so far have in common.
    """
    each = [judged(found, confidence=plan.level(confidence), correction=correction) for found in looks]
    return {key: _together([look[key] for look in each], plan) for key in (each[0] if each else ())}


def unlooked(difference: Difference, plan: Looks, confidence: float) -> Verdict:
    """The verdict before the first look."""
    verdict, why = difference.verdict(confidence), f"the first look is after {plan.first} seeds"
    return verdict._replace(verdict="no evidence", ci_low=None, ci_high=None, p=1.0, reason=why)


def _together(seen: Sequence[Verdict], plan: Looks) -> tuple[Verdict, list[dict[str, Any]]]:
    low, high, history = -math.inf, math.inf, list[dict[str, Any]]()
    for seeds, one in enumerate(seen, start=plan.first):
        low = low if one.ci_low is None else max(low, one.ci_low)
        high = high if one.ci_high is None else min(high, one.ci_high)
        ends = {"ci_low": low, "ci_high": high} if low > -math.inf else {"ci_low": None, "ci_high": None}
        history.append({"seeds": seeds, "mean_difference": one.mean_difference, **ends})
    last, left = seen[-1], plan.number - len(seen)
    word = "no evidence" if low > high else "helps" if low > 0 else "hurts" if high < 0 else "no evidence"
    when = next((look["seeds"] for look in history if (look["ci_low"] or 0) > 0 or (look["ci_high"] or 0) < 0), None)
    reason = (
        f"decided after {when} seeds"
        if when
        else f"undecided after {history[-1]['seeds']} of at most {plan.most} seeds"
    )
    missed = sum(1 - one.confidence for one in seen) + left * (1 - last.confidence)
    together = last._replace(
        verdict=word,
        ci_low=history[-1]["ci_low"],
        ci_high=history[-1]["ci_high"],
        confidence=1 - missed,
        reason="looks after different seeds contradict one another" if low > high else reason,
        p=min(1.0, plan.number * min(one.p for one in seen)),
    )
    return together, history
