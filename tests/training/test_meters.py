"""Sums over steps whose parts may come and go."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from deepsup.errors import NonFiniteError
from deepsup.evaluation import devices
from deepsup.settings.training import EngineConfig
from deepsup.supervision.loss_terms import Terms
from deepsup.training.meters import LossMeter


@pytest.fixture(scope="module")
def fabric() -> Any:
    return devices.start(EngineConfig(accelerator="cpu", threads=1))


def terms(**parts: float) -> Terms:
    named = {name.replace("__", "<-"): torch.tensor(value) for name, value in parts.items()}
    return Terms(torch.tensor(sum(parts.values())), named, dict.fromkeys(named, 1.0))


STEPS = [
    (terms(main=1.0), 4),
    (terms(main=2.0, late__main=8.0), 4),
    (terms(late__main=2.0, main=3.0), 2),
    (terms(main=5.0, early=0.5), 1),
]


def test_a_part_counts_over_the_samples_for_which_it_was_there(fabric: Any) -> None:
    meter = LossMeter(fabric)
    assert meter.means() == {"total": None, "parts": {}}
    for step, (found, samples) in enumerate(STEPS, start=1):
        values = meter.add(found, samples, step=step)
        assert values.tolist() == [float(found.total), *map(float, found.parts.values())]
    means = meter.means()
    assert means["parts"] == {
        "main": pytest.approx((1 * 4 + 2 * 4 + 3 * 2 + 5 * 1) / 11),
        "late<-main": pytest.approx((8 * 4 + 2 * 2) / 6),
        "early": 0.5,
    }
    assert means["total"] == pytest.approx((1 * 4 + 10 * 4 + 5 * 2 + 5.5) / 11)
    meter.reset()
    meter.add(terms(main=7.0), 3, step=5)
    assert meter.means() == {"total": 7.0, "parts": {"main": 7.0}}


def test_sums_go_on_where_they_were(fabric: Any) -> None:
    whole, first = LossMeter(fabric), LossMeter(fabric)
    for step, (found, samples) in enumerate(STEPS, start=1):
        whole.add(found, samples, step=step)
        if step <= 2:
            first.add(found, samples, step=step)
    second = LossMeter(fabric)
    second.load(first.state())
    for step, (found, samples) in enumerate(STEPS[2:], start=3):
        second.add(found, samples, step=step)
    assert second.state() == whole.state()
    assert second.means() == whole.means()


@pytest.mark.parametrize(
    ("part", "where"),
    [("main", "the main loss"), ("late__main", "the term 'late<-main'"), ("early", "branch 'early'")],
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_was_first_not_finite_is_named(fabric: Any, part: str, where: str, value: float) -> None:
    meter = LossMeter(fabric)
    meter.add(terms(main=1.0, early=1.0), 2, step=1)
    bad = {"main": 1.0, "late__main": 1.0, "early": 1.0} | {part: value}
    with pytest.raises(NonFiniteError, match=rf"at step 2, first in {where}\. Lower"):
        meter.add(terms(**bad), 2, step=2)
