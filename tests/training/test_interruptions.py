"""A run that is told to stop ends after the step it is in, with a checkpoint; told twice it ends at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import deepsup as ds
from deepsup.training import checkpoints, runs
from deepsup.training.interruptions import PutOff
from deepsup.training.journal import read
from tests.support.tiny_runs import config
from tests.support.training_runs import CPU, same_state, some_batches, supervised_net


class Stopped(BaseException):
    pass


def stop(number: int, frame: Any) -> None:
    raise Stopped(number)


@pytest.fixture(autouse=True)
def answered() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, stop)
    interrupted = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
    yield
    signal.signal(signal.SIGTERM, before)
    signal.signal(signal.SIGINT, interrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_waits_and_the_second_does_not(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with PutOff(wanted=True) as put_off:
        os.kill(os.getpid(), number)
        assert put_off.asked == number
        with pytest.raises((Stopped, KeyboardInterrupt)):
            os.kill(os.getpid(), number)
    with pytest.raises((Stopped, KeyboardInterrupt)):
        put_off.answer()
    put_off.answer()  # once
    assert signal.getsignal(number) is before


def test_what_is_not_answered_by_a_function_stays() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with PutOff(wanted=True) as put_off:
        os.kill(os.getpid(), signal.SIGTERM)
        assert put_off.asked is None
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_nothing_is_put_off_where_there_is_nothing_to_save() -> None:
    with PutOff(wanted=False), pytest.raises(Stopped):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("step", [4, 8, 12, 20])  # of 8 an epoch; 8 is the last one of the first
def test_a_run_that_is_stopped_loses_no_step(step: int, tmp_path: Path) -> None:
    def kill(record: dict[str, Any]) -> None:
        if record["kind"] == "step" and record["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    changes: dict[str, Any] = {"epochs": 3, "data": {"limit": 128}}
    runs.train(config(tmp_path / "whole", **changes))
    with pytest.raises(Stopped):
        runs.train(config(tmp_path / "stopped", **changes), on_record=kill)
    assert checkpoints.load(tmp_path / "stopped/checkpoint.ckpt").step == step
    assert runs.train(config(tmp_path / "stopped", **changes)).resumed
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "stopped"))
    assert one == other
    told = [[r["step"] for r in read(tmp_path / name / "journal.jsonl", "step")] for name in ("whole", "stopped")]
    assert told[0] == told[1]


def test_a_run_that_is_stopped_while_it_validates_keeps_the_steps_of_its_epoch(tmp_path: Path) -> None:
    stops: list[int] = []

    def validation(epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        torch.rand(3)  # as a source that draws would
        yield from some_batches(7)
        if stops and stops.pop() == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        elif stops:
            yield torch.zeros(1), torch.zeros(1)

    def fit(folder: Path) -> ds.FitResult:
        batches = [batch for epoch in range(3) for batch in some_batches(epoch)]
        how: dict[str, Any] = {"validation": validation, "epochs": 2, "engine": CPU, "folder": folder, "lr": 0.1}
        return ds.fit(supervised_net(), batches, **how)

    whole = fit(tmp_path / "whole")
    for at, (told, error) in enumerate([([0], Stopped), ([1, 1], Exception)]):
        stops[:] = told
        with pytest.raises(error):
            fit(tmp_path / f"{at}")
        found = checkpoints.load(tmp_path / f"{at}/checkpoint.ckpt")
        assert (found.epoch, found.batch, found.step) == (0, 3, 3)
        stops.clear()
        assert fit(tmp_path / f"{at}").score == whole.score
        one, other = (checkpoints.load(tmp_path / name / "checkpoint.ckpt") for name in ("whole", f"{at}"))
        assert same_state(one.net, other.net)
        epochs = [read(tmp_path / name / "journal.jsonl", "epoch") for name in ("whole", f"{at}")]
        ours, theirs = ([(e["epoch"], e["train"], e["validation"]) for e in run] for run in epochs)
        assert ours == theirs
