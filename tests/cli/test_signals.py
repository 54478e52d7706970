"""Signals that ask a process to stop interrupt it once, and those that are ignored stay ignored."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from deepsup.cli.signals import stopped_by_signals

BOTH = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in BOTH}
    for number in BOTH:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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
