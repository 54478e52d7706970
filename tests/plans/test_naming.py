"""Names of branches and of outputs in terms: what means something else, is there twice or is not there is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import deepsup as ds
from deepsup.errors import BranchNameError, ConfigError, DeepsupError, HeadError
from deepsup.plans.naming import RESERVED, check_name, check_outputs, check_terms
from deepsup.terms import Edge
from tests.support.small_nets import Plain, images


@pytest.mark.parametrize("name", ["", "a/b", "a<-b", "two\nlines", "\ud800", *RESERVED])
def test_a_name_that_means_something_else_is_refused_here_and_by_plan(name: str) -> None:
    with pytest.raises(BranchNameError, match=r"name|no branch may be called"):
        check_name(name, "relu1")
    with pytest.raises(DeepsupError):
        ds.plan(Plain(), images(), {name: "relu1"})


def test_dots_and_signs_are_fine() -> None:
    for name in ("layer1.0", "at 50%", "früh", "block@1"):
        check_name(name, "relu1")


def test_no_two_outputs_have_one_name() -> None:
    check_outputs(("a", "a/feature", "b"))
    with pytest.raises(BranchNameError, match="two outputs are called 'b'"):
        check_outputs(("a", "b", "b"))


@pytest.mark.parametrize(
    ("edge", "error", "message"),
    [
        (Edge("main", "lat", "kl"), BranchNameError, "names the output 'lat', which is not there. Closest: late. Outputs:"),
        (Edge("earlie", "late", "kl"), BranchNameError, "Closest: early"),
        (Edge("late", "late", "kl"), BranchNameError, "has nothing that could learn"),
        (Edge("y", "late", "kl"), BranchNameError, "has nothing that could learn"),
        (Edge("previous", "late", "kl"), BranchNameError, "has nothing that could learn"),
        (Edge("main"), BranchNameError, "two terms are called 'main'"),
        (Edge("early", loss="dice"), BranchNameError, "two terms are called 'early'"),
        (Edge("early", "late", "cross_entropy"), HeadError, "against another output, and its loss compares with the labels"),
        (Edge("ensemble", loss="kl"), HeadError, "against the labels, and its loss compares with another output"),
    ],
)  # fmt: skip
def test_a_term_holds_outputs_that_are_there_against_what_its_loss_reads(
    edge: Edge, error: type[DeepsupError], message: str
) -> None:
    own: dict[str, Any] = {"main": "cross_entropy", "early": "cross_entropy"}
    good = [Edge("early", "late", "kl"), Edge("late/feature", "early", "hint"), Edge("ensemble"), Edge("late")]
    outputs = ("early", "late", "late/feature")
    check_terms(good, own=own, outputs=outputs)
    with pytest.raises(error, match=message):
        check_terms([edge], own=own, outputs=outputs)
    with pytest.raises(DeepsupError):
        check_terms([good[0], good[0]], own=own, outputs=outputs)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"weight": -1}, ConfigError, "needs value to be a finite number of at least 0; found -1"),
        ({"weight": float("nan")}, ConfigError, "finite number of at least 0; found nan"),
        ({"weight": True}, ConfigError, "found True"),
        ({"weight": "warmup(3, 0)"}, ConfigError, r"needs until to be a share of training in \(0, 1\]; found 0"),
        ({"gradient": "scale(-1)"}, ConfigError, "scale takes a finite number of at least 0"),
        ({"gradient": ds.gradients.warmup(0.5), "weight": 10**400}, ConfigError, "finite number of at least 0"),
        ({"branch_loss": "kl"}, HeadError, "its loss compares with another output"),
    ],
)
def test_a_plan_made_in_python_is_held_to_the_same(options: Any, error: type[DeepsupError], message: str) -> None:
    with pytest.raises(error, match=message):
        ds.plan(Plain(), images(), ["relu1"], **options)


def test_a_plan_that_is_changed_in_python_is_checked_again() -> None:
    plan = ds.plan(Plain(), images(), ["relu1", "relu2"])
    first, second = plan.branches
    for change in (
        {"branches": (first, first)},
        {"edges": (Edge("relu1", "relu3", "kl"),)},
        {"main_weight": float("nan")},
        {"main_loss": "kl"},
        {"main_loss": "balanced"},
    ):
        with pytest.raises(DeepsupError):
            dataclasses.replace(plan, **change)  # type: ignore[arg-type]
    for part in ({"name": "main"}, {"head": "embed"}, {"read_inside": True, "gradient": ds.gradients.parse("project")}):
        with pytest.raises(DeepsupError):
            dataclasses.replace(second, **part)  # type: ignore[arg-type]
