"""The rules that read a probe, and recommendations that give their reason."""

from __future__ import annotations

import re

import pytest

from deepsup.errors import ConfigError, HeadError
from deepsup.heads.cost import price
from deepsup.probes import LayerGradient, Probe
from deepsup.probes.magnitudes import Magnitudes
from deepsup.probes.placement import RULES, Candidate, Point
from tests.support.probing import FEATURE, hand_made


@pytest.mark.parametrize(
    ("means", "threshold", "found"),
    [
        ((1e-9, 1e-8, 5e-8, 1e-3, 1e-2), 1e-7, ["tap_c"]),  # the deepest that vanished
        ((1e-9, 1e-3, 1e-9, 1e-3, 1e-2), 1e-7, ["tap_a"]),  # the signal gets past c
        ((1e-2, 0.0, 1e-9, 1e-3, 1e-2), 1e-7, []),
        ((1e-9, 1e-3, 1e-2), 1e-7, ["tap_a"]),
        ((1e-7, 1e-3, 1e-2), 1e-7, []),  # under, not at
        ((1e-6, 1e-3, 1e-2), 1e-7, []),
        ((1e-6, 1e-3, 1e-2), 1e-2, ["tap_b"]),
        ((1.0, 1.0, 1e-9), 1e-7, []),  # after the classifier there is nothing to supervise
    ],
)
def test_the_papers_rule(means: tuple[float, ...], threshold: float, found: list[str]) -> None:
    assert hand_made(*means).recommend("threshold", threshold=threshold) == found
    if threshold == 1e-7:
        assert hand_made(*means).recommend() == found


@pytest.mark.parametrize(
    ("means", "factor", "found"),
    [
        ((1 / 512, 1 / 64, 1 / 8, 1.0, 2.0), 8, ["tap_b"]),  # below 1/8, not at it; then below 1/8 of that
        ((9e-7, 1e-5, 9e-5, 1e-3, 1e-2), 10, ["tap_a", "tap_c"]),
        ((1e-8, 1e-5, 1e-5, 1e-5, 1e-2), 10, ["tap_a"]),
        ((1e-4, 2e-4, 3e-4, 1e-3, 1e-2), 10, []),
        ((1e-4, 2e-4, 3e-4, 1e-3, 1e-2), 2, ["tap_a", "tap_c"]),
        ((0.0, 0.0, 1.0, 1.0), 10, ["tap_b"]),
        ((1e-2, 1e-9, 0.0, 1e-2, 1e-2), 10, []),  # residual branches that start at zero, the signal goes past them
        ((1e-2, 1e-2, 0.0, 1e-2), 10, []),
        ((1e-9, 1e-2, 0.0, 1e-2), 10, ["tap_a"]),
        ((1.0, 1e-9), 10, []),
        ((1.0,), 10, []),
    ],
)
def test_the_relative_rule(means: tuple[float, ...], factor: float, found: list[str]) -> None:
    assert hand_made(*means).recommend("drop", factor=factor) == found


@pytest.mark.parametrize(
    ("count", "found"),
    [
        (1, ["tap_d"]),  # depths are 1/8 to 7/8
        (2, ["tap_c", "tap_e"]),
        (3, ["tap_b", "tap_d", "tap_f"]),
        (7, [f"tap_{n}" for n in "abcdefg"]),
    ],
)
def test_the_even_rule_looks_at_depth_alone(count: int, found: list[str]) -> None:
    assert hand_made(*[1.0] * 8).recommend("evenly", count=count) == found
    assert hand_made(*[1e-9] * 8).recommend("evenly", count=count) == found


@pytest.mark.parametrize("count", [0, -1, 3])
def test_no_more_branches_than_places(count: int) -> None:
    with pytest.raises(ConfigError, match=rf"rule 'evenly' puts 1 to 2 branches here.*count={count}"):
        hand_made(1.0, 1.0, 1.0).recommend("evenly", count=count)


def test_rules_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"the probe has no rule 'median'\. Rules: 'threshold' \(after the deepest"):
        hand_made(1.0, 1.0).recommend("median")
    for factor in (1.0, 0.0, float("nan")):
        with pytest.raises(ConfigError, match=r"needs a factor above 1|factor must be a finite number"):
            hand_made(1.0, 1.0).recommend("drop", factor=factor)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("means", [(5e-9, 2e-6, 1e-2, 2e-2), (1.0, 1.0, 1.0, 1.0)])
def test_a_recommendation_says_what_recommend_says(rule: str, means: tuple[float, ...]) -> None:
    found = hand_made(*means)
    advice = found.recommendation(rule, count=1)
    assert (advice.rule, advice.at) == (rule, found.recommend(rule, count=1))
    assert [r.layer for r in advice.rows if r.chosen] == sorted(advice.at, key=lambda tap: means["abcd".index(tap[-1])])
    assert sorted(r.layer for r in advice.rows) == ["tap_a", "tap_b", "tap_c"]
    assert re.fullmatch(r"[^.].*[^.]\.", advice.reason)  # one sentence


def test_rows_are_the_chosen_ones_first_each_group_from_the_weakest_gradient_up() -> None:
    advice = hand_made(5e-8, 5e-9, 2e-8, 1e-8, 1e-2, 1.0).recommendation("threshold")
    assert [(r.layer, r.chosen) for r in advice.rows] == [
        ("tap_d", True),
        ("tap_b", False),
        ("tap_c", False),
        ("tap_a", False),
        ("tap_e", False),
    ]
    cost = price("tap_d", "pool", FEATURE, 10)
    assert advice.rows[0] == Candidate("tap_d", True, 8, 2, 4 / 6, 1e-8, cost.params, cost.flops, "pool")


def test_of_the_layers_in_front_of_one_tap_the_weakest_counts() -> None:
    rows = tuple(LayerGradient(n, "tap", 0.5, Magnitudes((m,))) for n, m in (("a", 3.0), ("b", 1.0), ("c", 2.0)))
    found = Probe("Net", rows, 1, points=(Point("tap", 0.5, None, FEATURE),), classes=10)
    assert found.recommendation("evenly", count=1).rows[0].gradient == 1.0


def test_reasons_are_for_people_who_never_read_the_papers() -> None:
    found = hand_made(5e-9, 2e-8, 1e-2, 2e-2)
    assert found.recommendation("threshold").reason == (
        "the training signal fades on its way down from the output: at b (50% of the way from the input) the mean gradient is "
        "2.0e-08, under 1e-07, as it is at every layer before it, so the network hardly learns there, and a branch at tap_b "
        "gives it a loss close by."
    )
    assert "(33% of the way from the input) the mean gradient is 5.0e-09, under 1e-07, so" in (
        hand_made(5e-9, 1e-2, 2e-2).recommendation("threshold").reason
    )
    drop = found.recommendation("drop").reason
    assert "output: it starts with 1.0e-02 at c, the last layer before the classifier, and once it falls" in drop
    middle = hand_made(1e-6, 3e-2, 1e-2, 2e-2).recommendation("drop").reason
    assert (
        "output: on the way down from c, the last layer before the classifier, its strongest is 3.0e-02, and once"
        in middle
    )
    assert "once it falls below 1/10 of what it was, so a branch at the place" in drop
    assert "twice it falls below 1/3" in found.recommendation("drop", factor=3).reason
    assert "does not look at the gradients" in found.recommendation("evenly").reason
    healthy = hand_made(1e-2, 2e-2, 1e-2, 2e-2)
    for rule in ("threshold", "drop"):
        reason = healthy.recommendation(rule).reason
        assert reason.startswith(
            "no layer needs help by this rule: the signal arrives at the first layer, a, with a mean gradient of 1.0e-02"
        )
        assert "weakest" not in reason


@pytest.mark.parametrize("rule", ["threshold", "drop"])
def test_a_reason_says_that_a_weak_gradient_above_a_healthy_one_is_no_fading(rule: str) -> None:
    reason = hand_made(3e-2, 2e-2, 1e-12, 2e-2).recommendation(rule).reason
    assert "the first layer, a, with a mean gradient of 3.0e-02" in reason
    assert "the weakest, 1.0e-12 at c, is no fading, as layers before it get more" in reason
    if rule == "drop":
        assert (
            "not below 1/10 of the strongest on the way down from c, the last layer before the classifier (3.0e-02)"
            in reason
        )


def test_the_head_that_is_asked_for_is_priced_at_each_place() -> None:
    found = hand_made(5e-9, 1e-2, 2e-2)
    for head in ("linear", "cnds(hidden=16)"):
        cost = price("tap_a", head, FEATURE, 10)
        for row in found.recommendation(head=head).rows:
            assert (row.head, row.params, row.flops) == (head, cost.params, cost.flops)
    rows = {r.layer: r.head for r in found.recommendation(head={"tap_b": "linear"}).rows}
    assert rows == {"tap_a": "pool", "tap_b": "linear"}
    unreadable = found.recommendation(head="token").rows[0]
    assert (unreadable.head, unreadable.params, unreadable.flops) == ("token", None, None)
    with pytest.raises(HeadError, match="no head is called 'tokne'"):
        found.recommendation(head="tokne")


def test_a_recommendation_prints_as_a_table_that_ends_in_a_line_to_paste() -> None:
    advice = hand_made(5e-9, 2e-6, 1e-2, 2e-2).recommendation("drop")
    lines = [" ".join(line.split()) for line in str(advice).splitlines()]
    assert lines == [
        "Net: where to put branches, by rule 'drop'",
        advice.reason,
        "layer chan. stride depth gradient head params FLOPs",
        "* tap_a 8 2 25% 5.0e-09 pool 90 160",
        "* tap_b 8 2 50% 2.0e-06 pool 90 160",
        "tap_c 8 2 75% 1.0e-02 pool 90 160",
        'at=["tap_a", "tap_b"]',
    ]
    assert eval(f"dict({lines[-1]})") == {"at": advice.at}
    assert str(hand_made(*[1.0] * 12).recommendation()).splitlines()[-2:] == [
        "  and 6 more with stronger gradients",
        "nothing to paste: no layer was chosen; rule 'evenly' chooses by depth alone",
    ]


def test_a_model_without_an_axis_for_classes_has_no_prices() -> None:
    advice = hand_made(5e-9, 1.0, 1.0, classes=None).recommendation()
    assert (advice.rows[0].params, advice.rows[0].flops) == (None, None)
    assert str(advice).splitlines()[3].split() == ["*", "tap_a", "8", "2", "33%", "5.0e-09", "pool"]
