"""Means over seeds and steps: what the figures draw is what the journals hold."""

from __future__ import annotations

import dataclasses
import math
import statistics
from pathlib import Path

import pytest

from deepsup import reports
from deepsup.reports import curves, sections
from deepsup.training import run_folders
from tests.support.synthetic_journals import LAYERS, conflicts, write


def test_curves_are_means_over_seeds(demo: Path) -> None:
    members = reports.evidence(demo).groups["sgd"]["supervised"]
    by_hand = statistics.fmean(run.gradients[4].layers["conv2"] for run in members)
    curve = curves.gradients(members)["conv2"]
    assert curve.x[4] == 4
    assert curve.mean[4] == pytest.approx(by_hand)
    assert curve.low[4] == min(run.gradients[4].layers["conv2"] for run in members)
    profile = curves.profile(members)
    assert profile.x == tuple(LAYERS)
    assert profile.mean[1] == pytest.approx(statistics.fmean(curve.mean))
    assert list(curves.weights(members)) == ["main", "conv3, conv6 and conv9"]
    assert curves.branch_layers(members) == ["conv3", "conv6", "conv9"]


def test_gradients_that_a_log_axis_cannot_show_are_left_out() -> None:
    curve = curves.Curve.of({0: [0.0], 1: [math.nan, 2e-9], 2: [math.inf], 3: [0.0, 2.0]})
    assert curve.x == (0, 1, 3)
    assert curve.positive() == curves.Curve(x=(1, 3), mean=(2e-9, 1.0), low=(2e-9, 1.0), high=(2e-9, 2.0))


def test_a_pull_counts_every_step_once(tmp_path: Path) -> None:
    nothing = (None, None, None, None)
    records = conflicts(
        (10, 0.2, {"conv3": (0.5, 4.0, 1.0, 0.0), "conv6": nothing}),
        (30, 0.8, {"conv3": (-0.1, 1.0, 0.6, 1.0), "conv6": nothing}),
        (60, 0.9, {"conv3": nothing, "conv6": nothing}),
    )
    run = run_folders.run(write(tmp_path, records))
    found = curves.pulls([run])
    assert list(found) == ["conv3"]
    whole, early, late = found["conv3"]
    assert whole is not None
    assert early is not None
    assert late is not None
    assert whole.cosine == pytest.approx(0.05)
    assert whole.ratio == pytest.approx(4 ** (1 / 4))
    assert whole.kept == pytest.approx(0.7)
    assert whole.share == pytest.approx(0.75)
    assert (whole.met, early.met, late.met, curves.looked_for([run])) == (40, 10, 30, 100)
    assert (early.share, late.share) == (0, 1)
    assert curves.conflicts([run], "kept")["conv3"].mean == (1.0, 0.6)
    assert curves.conflicts([run], "kept")["conv6"].x == ()
    assert reports.evidence(tmp_path).single
    assert sections.pulls(reports.evidence(tmp_path)) == [
        "For 75 % of the 40 steps in which both gradients reached the layer (of 100) (0 % in the first half of training, "
        "100 % in the second) the branch at conv3 pulled against what the layers above wanted. Its pull was 1.4 times as "
        "strong as theirs and, over these steps, left 70 % of what they asked for."
    ]


def test_arms_are_compared_over_as_many_iterations(demo: Path) -> None:
    plain, supervised = (reports.evidence(demo).groups["sgd"][arm] for arm in ("plain", "supervised"))
    short = tuple(dataclasses.replace(run, gradients=run.gradients[:3]) for run in plain)
    arms, n = curves.same_span({"plain": short, "supervised": supervised, "not begun": ()})
    assert n == 3
    assert {len(run.gradients) for runs in arms.values() for run in runs} == {3}
    assert curves.profile(arms["plain"]) == curves.profile(short)
    loud = [dataclasses.replace(g, layers={k: 1e9 for k in g.layers}) for g in supervised[0].gradients]
    later = dataclasses.replace(
        supervised[0], gradients=(*supervised[0].gradients[:3], *loud[3:])
    )  # beyond what plain has
    (*_, told) = sections.gradients({"": {"plain": short, "supervised": [later]}}, {"": "plain"})
    (*_, same) = sections.gradients({"": {"plain": short, "supervised": supervised[:1]}}, {"": "plain"})
    assert told == same
    assert "over the first 3 iterations of each)." in told


def test_many_losses_that_share_a_weight_are_not_all_named(demo: Path) -> None:
    run = run_folders.run(demo / "sgd/supervised/seed0")
    names = ["main", *(f"branch{i}<-main" for i in range(12))]
    steps = tuple(dataclasses.replace(step, weights=dict.fromkeys(names, 1.0)) for step in run.steps)
    assert list(curves.weights([dataclasses.replace(run, steps=steps)])) == ["main and 12 more"]


def test_of_many_records_evenly_many_are_drawn_and_always_the_first_and_the_last(demo: Path) -> None:
    run = run_folders.run(demo / "sgd/supervised/seed0")
    longer = tuple(dataclasses.replace(run.epochs[0], epoch=i) for i in range(1, 2 * curves.MOST + 2))
    runs = [dataclasses.replace(run, epochs=longer), dataclasses.replace(run, epochs=longer[:100])]
    assert curves.stride(runs, "epochs") == 3
    x = curves.scores(runs)["main"].x
    assert x[:3] == (1, 4, 7)
    assert x[-1] == longer[-1].epoch
    assert len(x) <= curves.MOST + 2  # and the last of the shorter run
    assert curves.stride([run], "epochs") == curves.stride([], "epochs") == 1
    assert curves.scores([run])["main"].x == tuple(range(1, len(run.epochs) + 1))
