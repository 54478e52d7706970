"""What stays beside a run's checkpoint, when patience is at its end, and a finished run that goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import deepsup as ds
from deepsup.errors import ConfigError
from deepsup.evaluation.evaluate import evaluate
from deepsup.settings import configs
from deepsup.training import checkpoints, owned_folders
from deepsup.training.fit import fit
from deepsup.training.journal import read
from deepsup.training.keeping import out_of_patience
from deepsup.training.runs import train
from tests.support.tiny_runs import config
from tests.support.training_runs import CPU, Interrupted, blobs, same_state, state_bytes, stop_at


def zigzag(progress: float) -> float:
    """A rate that is far too high from half of training on, so that the best epoch is not the last."""
    return 1.0 if progress < 0.5 else 300.0


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 3))


def spoiled(folder: Path | None, **options: Any) -> tuple[nn.Module, ds.training.FitResult]:
    net = small_net()
    options = {"epochs": 8, "schedule": zigzag, "checkpoint": {"best": True, "every_steps": 3}} | options
    return net, fit(net, blobs(), validation=blobs(), folder=folder, engine=CPU, log={"every": 1}, **options)


def test_the_best_epoch_is_kept_also_by_a_run_that_was_stopped(tmp_path: Path) -> None:
    net, result = spoiled(tmp_path / "whole")
    scores = [r["validation"]["score"]["main"] for r in result.history]
    assert (result.best_epoch, result.best_score) == (scores.index(max(scores)) + 1, max(scores))
    assert result.best_epoch < 8
    for step in (7, 25, 32):
        with pytest.raises(Interrupted):
            spoiled(tmp_path / str(step), on_record=stop_at(step))
        assert spoiled(tmp_path / str(step))[1].best_epoch == result.best_epoch
        assert (tmp_path / str(step) / "best.safetensors").read_bytes() == (
            tmp_path / "whole" / "best.safetensors"
        ).read_bytes()
    last = state_bytes(net)
    ds.load_weights(net, tmp_path / "whole" / "best.safetensors")
    assert not same_state(state_bytes(net), last)
    assert evaluate(net, blobs()).score["main"] == max(scores)


def test_a_run_keeps_the_heads_of_its_best_epoch_too(tmp_path: Path) -> None:
    result = train(config(tmp_path, checkpoint={"best": True}))
    assert result.best_score == result.score  # of these two epochs the last is best
    assert (tmp_path / "best.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()
    assert (tmp_path / "best_heads.safetensors").read_bytes() == (tmp_path / "heads.safetensors").read_bytes()


def test_of_the_last_epochs_the_checkpoints_stay_and_training_can_go_back_to_one(tmp_path: Path) -> None:
    keep = {"checkpoint": {"last": 3}, "epochs": 5, "data": {"limit": 32}, "supervise": None}
    with pytest.raises(Interrupted):
        train(config(tmp_path, **keep), on_record=stop_at(8))
    (tmp_path / "checkpoints" / "mine.ckpt").write_text("of somebody else")
    train(config(tmp_path, **keep))
    names = [f"epoch-{n:04d}.ckpt" for n in (3, 4, 5)]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [*names, "mine.ckpt"]
    assert [checkpoints.load(tmp_path / "checkpoints" / name).epoch for name in names] == [3, 4, 5]
    weights = (tmp_path / "model.safetensors").read_bytes()
    shutil.copy(tmp_path / "checkpoints" / names[0], tmp_path / "checkpoint.ckpt")
    (tmp_path / "model.safetensors").unlink()
    train(config(tmp_path, **keep))
    assert [r["epoch"] for r in read(tmp_path / "journal.jsonl", "resume")] == [4]
    assert (tmp_path / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    ("epoch", "best", "patience", "every", "over"),
    [(5, 3, 2, 1, True), (4, 3, 2, 1, False), (9, None, 1, 1, False), (9, 1, None, 1, False),
     (7, 5, 1, 5, False), (10, 5, 1, 5, True), (14, 10, 4, 5, False), (15, 10, 4, 5, True)],
)  # fmt: skip
def test_patience_counts_epochs_and_ends_at_a_validation(
    epoch: int, best: int | None, patience: int | None, every: int, over: bool
) -> None:
    assert out_of_patience(epoch, best, patience, every=every) is over


def test_training_stops_early_and_after_a_kill_at_the_same_epoch(tmp_path: Path) -> None:
    whole, result = spoiled(tmp_path / "whole", patience=2)
    assert result.epochs == result.best_epoch + 2 < 8
    scores = [r["validation"]["score"]["main"] for r in spoiled(None, checkpoint=None)[1].history]
    stale = 0
    for by_hand, score in enumerate(scores, 1):  # a slow loop over the scores of a run that never stops
        stale = 0 if score > max([-1.0, *scores[: by_hand - 1]]) else stale + 1
        if stale == 2:
            break
    assert result.epochs == by_hand
    with pytest.raises(Interrupted):
        spoiled(tmp_path / "half", patience=2, on_record=stop_at(4 * result.epochs - 1))
    half, again = spoiled(tmp_path / "half", patience=2)
    assert (again.epochs, again.best_epoch) == (result.epochs, result.best_epoch)
    assert same_state(state_bytes(half), state_bytes(whole))


def test_what_would_do_nothing_is_refused(tmp_path: Path) -> None:
    for options, message in (
        ({"patience": 2}, "patience= follows the score of validation"),
        ({"checkpoint": {"best": True}, "folder": tmp_path}, r"'best': True.* follows the score"),
        ({"checkpoint": {"last": 3}}, "checkpoint= needs a place"),
        ({"checkpoint": {"every_steps": 3}, "checkpoint_every": 3, "folder": tmp_path}, "Give one of them"),
        ({"patience": 0}, "patience must be a whole number of at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            fit(small_net(), blobs(), engine=CPU, **options)
    with pytest.raises(ConfigError, match=r"validation\.rerank is of the last epoch.*patience"):
        configs.parse({"validation": {"patience": 3, "rerank": True}, "data": {"name": "drawn-figures"}})


def test_a_finished_run_goes_on_longer_and_is_the_long_run(tmp_path: Path) -> None:
    train(config(tmp_path / "long", epochs=3, supervise=None))
    train(config(tmp_path / "short", supervise=None))
    with pytest.raises(ConfigError, match=r"epochs was 2, now 3.*--longer"):
        train(config(tmp_path / "short", epochs=3, supervise=None))
    longer = config(tmp_path / "short", epochs=3, supervise=None)
    with pytest.raises(Interrupted):
        train(longer, longer=True, on_record=stop_at(28))
    assert train(longer).resumed  # what is longer now is known to the folder
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("long", "short"))
    assert one == other
    end = read(tmp_path / "short" / "journal.jsonl", "end")
    assert [r["epochs"] for r in end] == [3]
    assert train(longer, longer=True).already_done
    with pytest.raises(ConfigError, match="epochs was 3, now 2"):
        train(config(tmp_path / "short", supervise=None), longer=True)
    with pytest.raises(ConfigError, match="seed was 0, now 1"):
        train(config(tmp_path / "short", epochs=5, seed=1, supervise=None), longer=True)


def test_fit_goes_on_longer_and_with_more_patience(tmp_path: Path) -> None:
    def run(name: str, **options: Any) -> nn.Module:
        net = small_net()
        fit(net, blobs(), validation=blobs(), folder=tmp_path / name, engine=CPU, lr=1e-9, **options)
        return net

    whole = run("whole", epochs=6)
    run("stepwise", epochs=2, patience=1)  # at this rate no epoch is better than the first
    with pytest.raises(ConfigError, match=r"patience was 1, now 9.*longer=True"):
        run("stepwise", epochs=6, patience=9)
    net = run("stepwise", epochs=6, patience=9, longer=True)
    assert same_state(state_bytes(net), state_bytes(whole))


@pytest.mark.parametrize("name", owned_folders.BEST)
def test_somebody_elses_best_weights_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ConfigError, match="did not write"):
        spoiled(tmp_path)
    assert (tmp_path / name).read_bytes() == b"mine"
