"""Signals that ask a process to stop interrupt it once, and those that are ignored stay ignored."""

from __future__ import annotations

import os
import signal
import sys
import time
import weakref
from collections.abc import Iterator

import pytest

from deepsup.cli import signals
from deepsup.cli.signals import stopped_by_signals

BOTH = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (*BOTH, signal.SIGINT)}
    hook = sys.unraisablehook
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
    for number in BOTH:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    sys.unraisablehook = hook


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_interrupts_and_is_told(number: signal.Signals) -> None:
    told = stopped_by_signals()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)
    assert told == [number]
    assert {signal.getsignal(one) for one in BOTH} == {signal.SIG_DFL}  # the next one ends it


def test_nohup_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    told = stopped_by_signals()
    os.kill(os.getpid(), signal.SIGHUP)
    assert told == []


class Object:
    pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_python_would_lose_comes_again(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    told = stopped_by_signals()
    thing = Object()
    seen = weakref.ref(thing, lambda _: os.kill(os.getpid(), number))  # errors in here are printed and forgotten
    del thing
    with pytest.raises(KeyboardInterrupt):
        time.sleep(10)
    assert seen() is None
    assert told == [number][: number != signal.SIGINT]
    assert capsys.readouterr().err == ""


def test_other_errors_that_nobody_can_raise_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    stopped_by_signals()
    thing = Object()
    seen = weakref.ref(thing, lambda _: 1 / 0)
    del thing
    assert seen() is None
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_command_that_is_done_is_ended_at_once() -> None:
    stopped_by_signals()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signals.done()
    found = [signal.getsignal(number) for number in (signal.SIGINT, *BOTH)]
    assert found == [signal.SIG_DFL, signal.SIG_DFL, signal.SIG_IGN]
