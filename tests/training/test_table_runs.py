"""Runs on images with labels or numbers in a table: what is written, said, predicted and compared."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import deepsup as ds
from deepsup import reports
from deepsup.comparisons.compare import compare
from deepsup.settings import configs, training
from deepsup.settings.comparison import ComparisonConfig
from deepsup.training import runs
from deepsup.training.inputs import Inputs
from deepsup.training.journal import read
from tests.support.segmentation_runs import call
from tests.support.tiny_tables import draw, settings, write_colours

SUPERVISED = {"method": "aux", "at": ["relu1", "relu2"], "head": "pool", "weight": 0.3}


def trained(tmp_path: Path, name: str, **changes: Any) -> Path:
    config = configs.parse(settings(write_colours(tmp_path / "colours"), name, tmp_path / "run", **changes))
    assert isinstance(config, training.TrainConfig)
    runs.train(config)
    return tmp_path / "run"


@pytest.mark.parametrize(("name", "more"), [("values", {"MAE", "RMSE"}), ("labels", {"label F1", "label accuracy"})])
def test_a_journal_has_all_scores_and_the_report_shows_them(tmp_path: Path, name: str, more: set[str]) -> None:
    run = trained(tmp_path, name, supervise=SUPERVISED)
    (*_, last) = read(run / "journal.jsonl", "epoch")
    assert more <= set(last["validation"]["scores"]["main"])
    page = reports.write_html(run, tmp_path / "report.html").read_text()
    score = last["validation"]["score"]["main"]
    if name == "values":
        assert f"R² {score:.4g}.</" in page or f"R² {score:.4g}." in page
        assert f"{100 * score:.2f} %" not in page
        assert "in percent" not in page
    else:
        assert f"mAP {100 * score:.2f} %" in page
    assert all(f">{one}<" in page for one in more)


def test_the_best_of_an_error_is_the_lowest(tmp_path: Path) -> None:
    run = trained(tmp_path, "values", metric="MAE", epochs=4)
    every = [record["validation"]["score"]["main"] for record in read(run / "journal.jsonl", "epoch")]
    (end,) = read(run / "journal.jsonl", "end")
    assert (end["metric"], end["best_score"], end["score"]) == ("MAE", min(every), every[-1])
    assert max(every) > min(every)


@pytest.mark.parametrize("name", ["values", "labels"])
def test_predict_writes_what_the_net_says_of_the_whole_image(tmp_path: Path, name: str) -> None:
    run = trained(tmp_path, name, epochs=2)
    draw(tmp_path / "new.png", red=0.9, rest=0.1, shape=(10, 40))
    text = call("predict", "--trust", str(run), str(tmp_path / "new.png"))
    net = runs.untouched_model(run, trust=True).eval()
    ds.load_weights(net, run / "model.safetensors")
    x, _ = Inputs.load(run).read(tmp_path / "new.png", runs.configured(run, trust=True).data)
    assert x.shape == (1, 3, 16, 16)
    with torch.no_grad():
        wanted = net(x)[0] if name == "values" else net(x)[0].sigmoid()
    with (run / "predictions" / "predictions.csv").open() as file:
        head, row = csv.reader(file)
    assert head == ["image", "red", "rest"]
    assert [float(cell) for cell in row[1:]] == pytest.approx(wanted.tolist(), abs=1e-5)
    assert f"red {float(row[1]):.4g}, rest {float(row[2]):.4g}" in text


@pytest.mark.parametrize(("name", "said"), [("values", "of R² ("), ("labels", "points of mAP (")])
def test_arms_are_compared(tmp_path: Path, name: str, said: str) -> None:
    base = settings(write_colours(tmp_path / "colours"), name, tmp_path, epochs=2)
    del base["output"], base["name"]
    arms = {"plain": {"supervise": None}, "aux": {"supervise": SUPERVISED}}
    config = configs.parse({"base": base, "arms": arms, "seeds": [0, 1], "output": str(tmp_path / "both")})
    assert isinstance(config, ComparisonConfig)
    compare(config)
    told = json.loads((tmp_path / "both" / "compare.json").read_text())
    assert told["complete"]
    assert told["notes"] == []
    assert said in reports.write_html(tmp_path / "both", tmp_path / "report.html").read_text()


@pytest.mark.parametrize("name", ["values", "labels"])
def test_a_dry_run_and_the_doctor_say_what_would_be_trained(tmp_path: Path, name: str) -> None:
    root = write_colours(tmp_path / "colours", images=20)
    words = [f"data.name={name}", f"data.root={root}", "data.size=32", "data.batch_size=8", "supervise.at=[relu4]"]
    text = call("train", "--dry-run", *words)
    assert f"{'mse' if name == 'values' else 'binary'} of 2 {name}" in text
    assert "training: 16 images (RGB), 20x24" in text
    call("doctor", *words)
