"""Tokens in two files: what was found, what does not fit, and runs that learn, predict, go on and are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepsup import datasets, reports
from deepsup.comparisons.compare import compare
from deepsup.errors import ConfigError, DatasetError
from deepsup.settings import configs, training
from deepsup.settings.comparison import ComparisonConfig
from deepsup.training import runs
from deepsup.training.journal import read
from tests.support.segmentation_runs import call
from tests.support.tiny_tokens import drawn, save, settings, write_sums, write_walks
from tests.support.training_runs import Interrupted, stop_at

SUPERVISED = {"method": "aux", "at": ["blocks.0"], "weight": 0.3}


def run_of(root: Path, output: Path, **changes: Any) -> training.TrainConfig:
    config = configs.parse(settings(root, output, **changes))
    assert isinstance(config, training.TrainConfig)
    return config


def test_what_was_found(tmp_path: Path) -> None:
    data = datasets.load("tokens", root=write_sums(tmp_path, train=5, val=2, mask=True))
    assert str(data) == "tokens: 5 training and 2 validation sequences of 8, 6 symbols, 4 classes"
    inputs, labels, mask = np.load(tmp_path / "train.npz").values()
    counted = labels[mask & (labels >= 0)]
    first = f"training: 5 sequences of 8 tokens; {100 * np.mean(counted == 0):.3g} % 0"
    assert data.found.lines[0].startswith(first)
    assert data.found.lines[0].endswith(
        f"; {100 * (1 - len(counted) / inputs.size):.3g} % of the tokens are not counted"
    )
    assert "6 symbols, sequences of 8" in data.found.lines
    json.dumps(data.found.to_dict())
    assert len(datasets.load("tokens", root=tmp_path, limit=3).train) == 3


def test_a_vocabulary_is_told_by_its_ends(tmp_path: Path) -> None:
    for part in ("train", "val"):
        save(tmp_path / f"{part}.npz", inputs=drawn(4, 0, length=40, symbols=1500))
    data = datasets.load("tokens(symbols=2000)", root=tmp_path)
    assert "; 2000 classes, from 0 % " in data.found.lines[0]
    assert len(data.found.training.shares or {}) == 2
    assert "note: no labels: each token's label is the one that follows, and the last has none" in data.found.lines
    assert "4 of 4 validation sequences are training sequences too" in str(data.found)


def test_what_should_make_one_doubt(tmp_path: Path) -> None:
    save(tmp_path / "train.npz", inputs=drawn(4, 0), labels=drawn(4, 0))
    save(tmp_path / "val.npz", inputs=np.full((1, 8), 7), labels=np.zeros((1, 8), int))
    found = str(datasets.load("tokens(symbols=8)", root=tmp_path).found)
    assert "100 % of the validation tokens are symbols that training has nowhere" in found
    assert "every label is the token itself" in found


UNFIT = [
    ({"inputs": drawn(2, 0, symbols=9), "labels": None}, r"train\.npz has labels, and .*val\.npz none"),
    ({"inputs": drawn(2, 0, length=5), "labels": drawn(2, 0, length=5)}, r"train\.npz have 8 tokens.*val\.npz 5"),
    ({"inputs": np.full((2, 8), 6)}, r"val\.npz: inputs has 6 \(row 0, place 0\), and training has.*symbols=.* 0 to 5"),
    ({"labels": np.full((2, 8), 4)}, r"val\.npz: labels has 4 .*classes=\.\.\.\) says, 0 to 3"),
]


@pytest.mark.parametrize(("flaw", "says"), UNFIT, ids=[says for _, says in UNFIT])
def test_two_files_that_do_not_go_together(tmp_path: Path, flaw: dict[str, Any], says: str) -> None:
    root = write_sums(tmp_path, train=20, val=2)
    given = dict(np.load(root / "val.npz")) | flaw
    save(root / "val.npz", **given)
    with pytest.raises(DatasetError, match=says):
        datasets.load("tokens", root=root)


def test_what_is_asked_for_and_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"'tokens' needs root=\.\.\."):
        datasets.load("tokens")
    with pytest.raises(ConfigError, match="symbols"):
        datasets.load("tokens(symbols=1)", root=tmp_path)
    write_walks(tmp_path)
    with pytest.raises(DatasetError, match=r"train\.npz has no labels, so that tokens are labels"):
        datasets.load("tokens(symbols=8, classes=9)", root=tmp_path)
    assert datasets.load("tokens(classes=9)", root=tmp_path).channels == 9
    given: dict[str, Any]
    for given in ({"size": 8}, {"crop": 8}, {"patches": 2}, {"prepare": "vessels"}, {"views": 2}, {"classes": 2}):
        with pytest.raises(ConfigError, match=f"{next(iter(given))}: not for tokens"):
            datasets.load("tokens", root=tmp_path, **given)
    for given in ({"augment": "flips"}, {"download": True}, {"workers": 1}):
        with pytest.raises(ConfigError, match=f"{next(iter(given))}: not for tokens"):
            datasets.load("tokens", root=tmp_path, **given)


def test_limit_that_leaves_no_label(tmp_path: Path) -> None:
    inputs, labels = drawn(30, 0), np.full((30, 8), -100)
    labels[7] = 1
    for part in ("train", "val"):
        save(tmp_path / f"{part}.npz", inputs=inputs, labels=labels)
    with pytest.raises(DatasetError, match=r"no label counts in the 1 sequences that data\.limit keeps"):
        datasets.load("tokens", root=tmp_path, limit=1)


@pytest.mark.parametrize(
    ("model", "at", "suffix"),
    [("deepsup:transformer-2", "blocks.0", ".npz"), ("tests.support.tiny_tokens:Convolved", "conv1", ".safetensors")],
)
def test_a_run_learns_sums_and_predicts_them(tmp_path: Path, model: str, at: str, suffix: str) -> None:
    root = write_sums(tmp_path / "data", train=400, suffix=suffix, mask=True)
    options = {"width": 32, "heads": 4} if model.startswith("deepsup:") else {}
    changes = {"model": model, "model_options": options, "supervise": {**SUPERVISED, "at": [at]}, "epochs": 12}
    config = run_of(root, tmp_path / "run", **changes)
    result = runs.train(config)
    assert result.score is not None
    assert result.score > 0.9
    text = call("predict", "--trust", "--branches", str(tmp_path / "run"), str(root))
    assert f"val{suffix}: val.labels.npz, val.{at}.labels.npz, val.ensemble.labels.npz" in text
    found = np.load(tmp_path / "run" / "predictions" / "val.labels.npz")
    tokens = datasets.load("tokens", root=root).validation.tokens
    counted = tokens.counted.numpy()
    right = found["labels"][counted] == tokens.labels.numpy()[counted]
    assert right.mean() == pytest.approx(result.score)
    assert found["probability"].shape == (24, 8)
    assert "outputs identical" in call("strip", "--verify", "--trust", str(tmp_path / "run"))
    assert "Token accuracy" in reports.write_html(tmp_path / "run", tmp_path / "report.html").read_text()


def test_a_plain_run_predicts_the_next_token(tmp_path: Path) -> None:
    root = write_walks(tmp_path / "data")
    result = runs.train(run_of(root, tmp_path / "run"))
    assert result.score == 1.0
    call("predict", str(tmp_path / "run"), str(root / "val.npz"))
    found = np.load(tmp_path / "run" / "predictions" / "val.labels.npz")["labels"]
    assert (found == (np.load(root / "val.npz")["inputs"] + 1) % 6).all()


def test_a_stopped_run_goes_on_exactly(tmp_path: Path) -> None:
    root = write_sums(tmp_path / "data", mask=True)
    changes = {"supervise": SUPERVISED, "epochs": 2, "model_options": {"width": 16, "heads": 2, "dropout": 0.1}}
    log, checkpoint = {"every": 1}, {"every_steps": 2}
    whole = runs.train(run_of(root, tmp_path / "whole", log=log, checkpoint=checkpoint, **changes))
    with pytest.raises(Interrupted):
        runs.train(run_of(root, tmp_path / "half", log=log, checkpoint=checkpoint, **changes), on_record=stop_at(9))
    again = runs.train(run_of(root, tmp_path / "half", log=log, checkpoint=checkpoint, **changes))
    assert (again.resumed, again.score) == (True, whole.score)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "half"))
    assert one == two


def test_what_was_found_is_said_before_the_first_step(tmp_path: Path) -> None:
    root = write_sums(tmp_path / "data")
    words = ["data.name=tokens", f"data.root={root}", "model=deepsup:transformer-1", "epochs=1", "engine.threads=1"]
    text = call("train", *words, f"output={tmp_path / 'run'}")
    assert text.index("training: 96 sequences of 8 tokens") < text.index("trains, epoch 1/1, token accuracy")
    (start,) = read(tmp_path / "run" / "journal.jsonl", "start")
    assert "6 symbols, sequences of 8" in start["data"]["lines"]


def test_arms_are_compared(tmp_path: Path) -> None:
    base = settings(write_sums(tmp_path / "data"), tmp_path, epochs=1)
    del base["output"], base["name"]
    arms = {
        "plain": {"supervise": None},
        "aux": {"supervise": SUPERVISED},
        "smooth": {"supervise": {"method": "label-smoothing"}},
    }
    config = configs.parse({"base": base, "arms": arms, "seeds": [0, 1], "output": str(tmp_path / "both")})
    assert isinstance(config, ComparisonConfig)
    result = compare(config)
    (group,) = result["groups"].values() if isinstance(result["groups"], dict) else result["groups"]
    assert all(proof["identical"] for proof in result["certificates"])
    assert len(result["certificates"]) == 2
    assert group


def test_a_net_of_images_is_refused_and_the_reverse(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"deepsup:plain-12 reads images, and tokens has tokens.*deepsup:transformer-4"
    ):
        configs.parse({"data": {"name": "tokens"}})
    with pytest.raises(ConfigError, match=r"deepsup:transformer-4 reads tokens, and digits has images"):
        configs.parse({"model": "deepsup:transformer-4"})
    configs.parse({"data": {"name": "tokens"}, "model": "mine:net"})
