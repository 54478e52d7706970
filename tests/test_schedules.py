"""Schedules: their values, their printed form, and what is refused when it is read rather than in training."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

from deepsup.errors import ConfigError
from deepsup.schedules import (
    SCHEDULES,
    Schedule,
    adaptive,
    as_schedule,
    cnds,
    constant,
    cosine,
    dsn,
    linear,
    parse,
    poly,
    rampup,
    sdn,
    step,
    until,
    warmup,
)

EVERY: list[Schedule] = [
    constant(0.3),
    constant(1),
    linear(0.3, 0),
    cosine(1, 0.1),
    poly(1),
    poly(0.02, 0.001),
    poly(1, 0, 2),
    cnds(0.3, 40),
    cnds(0.3, 40, "linear"),
    dsn(1, 100),
    dsn(0.3, 40),
    dsn(0.001, 7, "linear"),
    sdn(0.15),
    sdn(1),
    rampup(1, 80 / 300),
    rampup(9.0, 1),
    adaptive(),
    adaptive(0.99),
    step(0.3, {0.8: 0, 0.5: 0.1}),
    step(0.3, {}),
    warmup(linear(0.3, 0.0), 0.1),
    until(warmup(step(0.3, {0.5: 0.1}), 0.1), 0.9),
    warmup(until(cnds(1e-05, epochs=7), 1 / 3), 0.25),
]


# Epoch, the iterated product, the linear reading, for alpha 0.3.
CNDS_100 = [
    (5, "0.257", "0.285"),
    (10, "0.170", "0.270"),
    (15, "0.084", "0.255"),
    (20, "0.031", "0.240"),
    (30, "1.6e-03", "0.210"),
    (40, "2.0e-05", "0.180"),
    (50, "4.6e-08", "0.150"),
]
CNDS_40 = [(5, "0.202"), (10, "0.066"), (15, "9.2e-03"), (20, "4.6e-04")]


def as_printed(value: float, text: str) -> str:
    return f"{value:.1e}" if "e" in text else f"{value:.3f}"


@pytest.mark.parametrize(("epoch", "iterated", "straight"), CNDS_100)
def test_cnds_over_100_epochs(epoch: int, iterated: str, straight: str) -> None:
    assert as_printed(cnds(0.3, 100)(epoch / 100), iterated) == iterated
    assert as_printed(cnds(0.3, 100, "linear")(epoch / 100), straight) == straight


@pytest.mark.parametrize(("epoch", "iterated"), CNDS_40)
def test_cnds_over_40_epochs(epoch: int, iterated: str) -> None:
    assert as_printed(cnds(0.3, 40)(epoch / 40), iterated) == iterated
    assert cnds(0.3, 40, "linear")(epoch / 40) == pytest.approx(0.3 * (1 - epoch / 40))


@pytest.mark.parametrize("epochs", [1, 3, 7, 10, 40, 49, 100, 333])
@pytest.mark.parametrize("steps", [1, 3, 391])
def test_cnds_changes_exactly_where_epochs_end(epochs: int, steps: int) -> None:
    alpha, schedule, straight = 0.3, cnds(0.3, epochs), cnds(0.3, epochs, "linear")
    for t in range(epochs):
        alpha *= 1 - t / epochs
        for done in {t * steps, t * steps + steps - 1}:  # the first and last step of the epoch
            assert schedule(done / (epochs * steps)) == pytest.approx(alpha)
            assert straight(done / (epochs * steps)) == pytest.approx(0.3 * (1 - t / epochs))
    assert schedule(1.0) == straight(1.0) == 0


# The multiplier with which an epoch of 100 begins, alpha <- alpha * 0.1 * (1 - t/N) read as it is written.
DSN_100 = [(0, "1.0e+00"), (1, "1.0e-01"), (2, "9.9e-03"), (3, "9.7e-04"), (4, "9.4e-05")]


@pytest.mark.parametrize(("epoch", "iterated"), DSN_100)
def test_dsn_read_literally_is_gone_after_three_epochs(epoch: int, iterated: str) -> None:
    assert f"{dsn(1, 100)(epoch / 100):.1e}" == iterated
    assert dsn(0.5, 100)(epoch / 100) == pytest.approx(0.5 * dsn(1, 100)(epoch / 100))
    assert dsn(0.5, 100, "linear")(epoch / 100) == pytest.approx(0.5 * (1 - epoch / 100))


@pytest.mark.parametrize("epochs", [1, 3, 40, 49])
@pytest.mark.parametrize("steps", [1, 3, 391])
def test_dsn_changes_exactly_where_epochs_end(epochs: int, steps: int) -> None:
    alpha, schedule, straight = 0.3, dsn(0.3, epochs), dsn(0.3, epochs, "linear")
    for t in range(epochs):
        for done in {t * steps, t * steps + steps - 1}:  # the first and last step of the epoch
            assert schedule(done / (epochs * steps)) == pytest.approx(alpha)
            assert straight(done / (epochs * steps)) == pytest.approx(0.3 * (1 - t / epochs))
        alpha *= 0.1 * (1 - t / epochs)  # the paper's assignment, when epoch t is over
    assert schedule(1.0) == pytest.approx(alpha)
    assert straight(1.0) == 0


@pytest.mark.parametrize("depth", [0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1])
def test_sdn_rises_from_a_hundredth_to_the_depth(depth: float) -> None:
    # The released code: np.minimum(max_coeffs, 0.01 + epoch * (max_coeffs / epochs)), epochs counted from 1.
    for epoch in range(101):
        assert sdn(depth)(epoch / 100) == pytest.approx(min(depth, 0.01 + epoch * (depth / 100)), rel=1e-12)
    assert sdn(depth)(0) == 0.01
    assert sdn(depth)(1 - 0.005 / depth) == sdn(depth)(1) == depth


def test_rampup_is_the_one_of_the_released_one() -> None:
    # exp(-5 (1 - epoch / 80)^2) over the first 80 of 300 epochs
    for epoch in (0, 1, 40, 79):
        assert rampup(1, 80 / 300)(epoch / 300) == pytest.approx(math.exp(-5 * (1 - epoch / 80) ** 2))
        assert rampup(9, 80 / 300)(epoch / 300) == pytest.approx(9 * math.exp(-5 * (1 - epoch / 80) ** 2))
    assert [rampup(1, 0.25)(p) for p in (0.25, 0.5, 1)] == [1, 1, 1]


def test_adaptive_is_a_mark_that_weighs_one() -> None:
    assert [adaptive()(p) for p in (0, 0.5, 1)] == [1, 1, 1]
    assert (adaptive().decay, parse("adaptive(0.5)").decay, repr(adaptive())) == (0.9, 0.5, "adaptive()")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sdn(0)", r"schedule 'sdn' needs depth to be a relative depth in \(0, 1\]; found 0\."),
        ("sdn(1.01)", r"schedule 'sdn' needs depth to be a relative depth in \(0, 1\]; found 1\.01"),
        ("sdn('half')", "schedule 'sdn' needs depth to be a relative depth"),
        ("adaptive(1)", r"schedule 'adaptive' needs decay to be a number in \[0, 1\); found 1\."),
        ("adaptive(-0.1)", r"schedule 'adaptive' needs decay to be a number in \[0, 1\); found -0\.1"),
        ("dsn(0.3, 0)", "schedule 'dsn' needs epochs to be a number of at least 1, the N of the paper; found 0"),
        ("dsn(0.3, 10, 'product')", "schedule 'dsn' needs reading to be 'iterated' or 'linear'; found 'product'"),
        ("poly(1, 0, 0)", r"schedule 'poly' needs power to be a finite number above 0; found 0\."),
        ("poly(1, 0, -1)", r"schedule 'poly' needs power to be a finite number above 0; found -1\."),
        ("poly(1, 0, 'a')", "schedule 'poly' needs power to be a finite number above 0; found 'a'"),
        ("rampup(1, 'a')", r"schedule 'rampup' needs until to be a share of training in \(0, 1\]; found 'a'"),
        ("rampup(1e999, 0.5)", "schedule 'rampup' needs value to be a finite number of at least 0; found inf"),
        ("-0.5", "schedule 'constant' needs value to be a finite number of at least 0; found -0.5"),
        ("True", "schedule 'constant' needs value to be a finite number of at least 0; found True"),
        ("linear(0.3, -0.1)", "schedule 'linear' needs end to be a finite number of at least 0; found -0.1"),
        ("linear(True, 0)", "schedule 'linear' needs start to be a finite number of at least 0; found True"),
        ("warmup(3, 0)", r"schedule 'warmup' needs until to be a share of training in \(0, 1\]; found 0"),
        ("warmup(3, 1.5)", r"schedule 'warmup' needs until to be a share of training in \(0, 1\]; found 1.5"),
        ("rampup(2, 0)", r"schedule 'rampup' needs until to be a share of training in \(0, 1\]; found 0"),
        ("until(1, 2)", r"schedule 'until' needs end to be a share of training in \[0, 1\]; found 2"),
        ("step(0.3, {0.5: -1})", "schedule 'step' needs drops to be a mapping from progress"),
        ("step(0.3, {2: 0.1})", "schedule 'step' needs drops to be a mapping from progress"),
        ("dsn(0.3, True)", "schedule 'dsn' needs epochs to be a number of at least 1"),
    ],
)
def test_a_value_outside_its_range_is_refused_when_it_is_read(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text)


def test_epochs_may_be_written_as_a_float() -> None:
    for p in range(11):
        assert cnds(0.3, 10.0)(p / 10) == cnds(0.3, 10)(p / 10)  # type: ignore[arg-type]
        assert dsn(0.3, 10.0)(p / 10) == dsn(0.3, 10)(p / 10)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", EVERY, ids=repr)
def test_a_schedule_prints_as_the_constructor_that_rebuilds_it(schedule: Schedule) -> None:
    again = parse(repr(schedule))
    assert again == schedule
    assert repr(again) == repr(schedule)
    assert eval(repr(schedule), dict(SCHEDULES)) == schedule
    assert [again(p / 20) for p in range(21)] == [schedule(p / 20) for p in range(21)]


@pytest.mark.parametrize("schedule", EVERY, ids=repr)
def test_schedules_pickle_compare_and_hash(schedule: Schedule) -> None:
    copy = pickle.loads(pickle.dumps(schedule))
    assert copy == schedule
    assert hash(copy) == hash(schedule)
    with pytest.raises(AttributeError):
        schedule.start = 2.0  # type: ignore[attr-defined]


def test_every_schedule_is_in_the_round_trip() -> None:
    assert {type(s) for s in EVERY} == set(SCHEDULES.values())


@pytest.mark.parametrize(
    ("schedule", "at_0", "at_half", "at_1"),
    [
        (constant(0.4), 0.4, 0.4, 0.4),
        (linear(0.3, 0.1), 0.3, 0.2, 0.1),
        (cosine(0.3, 0.1), 0.3, 0.2, 0.1),
        (poly(1, 0), 1, 0.5**0.9, 0),
        (poly(0.3, 0.1, 2), 0.3, 0.15, 0.1),
        (poly(0.1, 0.3, 1), 0.1, 0.2, 0.3),
        (cnds(0.3, 10), 0.3, 0.3 * 0.9 * 0.8 * 0.7 * 0.6 * 0.5, 0.0),
        (cnds(0.3, 10, "linear"), 0.3, 0.15, 0.0),
        (dsn(0.3, 4), 0.3, 0.3 * 0.1 * 0.1 * 0.75, 0.3 * 1e-4 * 0.75 * 0.5 * 0.25),
        (dsn(0.3, 10, "linear"), 0.3, 0.15, 0.0),
        (sdn(0.6), 0.01, 0.31, 0.6),
        (rampup(2, 1), 2 * math.exp(-5), 2 * math.exp(-1.25), 2.0),
        (adaptive(), 1.0, 1.0, 1.0),
        (step(0.3, {0.5: 0.1, 1.0: 0.05}), 0.3, 0.1, 0.05),
        (step(0.3, {0: 0.2}), 0.2, 0.2, 0.2),
        (step(0.3, {}), 0.3, 0.3, 0.3),
        (warmup(constant(0.4), 1), 0.0, 0.2, 0.4),
        (warmup(constant(0.4), 0.25), 0.0, 0.4, 0.4),
        (until(constant(0.4), 0.5), 0.4, 0.0, 0.0),
        (until(constant(0.4), 0), 0.0, 0.0, 0.0),
        (until(constant(0.4), 1), 0.4, 0.4, 0.0),
    ],
    ids=repr,
)
def test_values_at_the_ends_and_in_the_middle(schedule: Schedule, at_0: float, at_half: float, at_1: float) -> None:
    assert [schedule(0), schedule(0.5), schedule(1)] == pytest.approx([at_0, at_half, at_1], abs=1e-12)


def test_until_and_step_hold_just_below_their_bound() -> None:
    below = math.nextafter(0.5, 0)
    assert until(constant(0.4), 0.5)(below) == 0.4
    assert step(0.3, {0.5: 0.1})(below) == 0.3


def test_the_order_in_which_drops_are_written_does_not_matter() -> None:
    one, other = step(0.3, {0.8: 0.0, 0.2: 0.2, 0.5: 0.1}), step(0.3, {0.2: 0.2, 0.5: 0.1, 0.8: 0.0})
    for p in range(101):
        assert one(p / 100) == other(p / 100)
    assert one(0.6) == 0.1
    assert one == other
    assert hash(one) == hash(other)


def test_cosine_falls_slowly_at_both_ends() -> None:
    assert cosine(1, 0)(0.25) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert cosine(1, 0)(0.75) == pytest.approx((1 - math.sqrt(0.5)) / 2)


def test_poly_is_pytorchs_polynomial_decay_iteration_by_iteration() -> None:
    steps, rate = 37, 0.01
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    reference = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=steps, power=0.9)
    for step_ in range(steps + 1):
        assert rate * poly(1, 0)(step_ / steps) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-15)
        optimizer.step()
        reference.step()
    assert poly(1, 0)(1 + 1e-12) == 0.0  # and no complex number


@pytest.mark.parametrize(("text", "expected"), [("0.3", constant(0.3)), (" 1 ", constant(1))])
def test_a_number_is_a_constant(text: str, expected: Schedule) -> None:
    assert parse(text) == expected
    assert parse(float(text)) == expected


def test_options_may_be_written_by_name() -> None:
    assert parse("cnds(0.3, epochs=40, reading='linear')") == cnds(0.3, 40, "linear")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "nonsense",
        "linear",
        "linear(0.3)",
        "linear(0.3, 0, 1)",
        "linear(0.3, stop=0)",
        "lineal(0.3, 0)",
        "linear(0.3, 0",
        "linear(0.3; 0)",
        "schedules.linear(0.3, 0)",
        "linear(x, 0)",
        "linear(*[0.3, 0])",
        "(lambda: 0)()",
        "__import__('os').getcwd()",
        "until(__import__('os'), 0.5)",
        "linear(0.3, 0) if True else 0",
        "[0.3]",
        "0.3j",
        "until(linear(0.3), 0.5)",
        "linear(0.3, 0, **{'end': 1})",
        "'0.3'",
        "1" + "0" * 400,
        "-" * 5000 + "1",
        "until(" * 600 + "1" + ", 0.5)" * 600,
    ],
    ids=range(25),
)
def test_a_text_that_is_no_schedule_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert "cannot read the schedule" in str(caught.value)
    assert repr(text) in str(caught.value)
    for known in ("constant(value)", "linear(start, end)", "cnds(start, epochs, reading)", "until(schedule, end)"):
        assert known in str(caught.value)


@pytest.mark.parametrize("text", ["cnds(0.3, 0)", "cnds(0.3, 10, 'product')"])
def test_cnds_refuses_what_the_paper_has_no_reading_for(text: str) -> None:
    with pytest.raises(ConfigError, match="cnds"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "constant('x')",
        "linear('a', 0)",
        "step(0.3, 5)",
        "step(0.3, {'a': 0})",
        "warmup(constant(1), 'a')",
        "until(None, 0.5)",
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_when_it_is_read(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


@pytest.mark.parametrize("text", ["until(0.4, 0.5)", "warmup(0.4, 0.1)"])
def test_a_number_inside_a_schedule_is_a_constant_too(text: str) -> None:
    assert parse(text)(0.2) == 0.4


def test_a_very_long_text_is_not_parsed() -> None:
    with pytest.raises(ConfigError, match="a weight is a number, a schedule or its text"):
        parse("(" * 10_001)


@pytest.mark.parametrize("value", [None, [0.3], {"a": 1}])
def test_a_weight_of_another_kind_is_a_config_error(value: object) -> None:
    with pytest.raises(ConfigError):
        as_schedule(value)  # type: ignore[arg-type]


def test_any_callable_is_a_schedule() -> None:
    def own(progress: float) -> float:
        return 1 - progress

    assert as_schedule(own) is own
    assert as_schedule(0.3) == constant(0.3)
    assert as_schedule("linear(0.3, 0)") == linear(0.3, 0)
    assert as_schedule(linear(0.3, 0)) == linear(0.3, 0)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "constant(1e999)", -1, True, 10**400])
def test_a_weight_is_finite(weight: object) -> None:
    with pytest.raises(ConfigError, match="to be a finite number of at least 0"):
        parse(weight)


def test_a_ramp_may_stay_as_it_is_within_an_epoch() -> None:
    schedule, ramp = parse("rampup(1, 0.5, 10)"), rampup(1, 0.5)
    assert [schedule(p) for p in (0.0, 0.05, 0.0999)] == [ramp(0.0)] * 3
    assert [schedule(p) for p in (0.3, 0.35)] == [ramp(0.3)] * 2
    assert schedule(1.0) == 1
    assert repr(schedule) == "rampup(1, 0.5, 10)"
    assert repr(parse("rampup(1, 0.5, 0)")) == repr(ramp) == "rampup(1, 0.5)"
