"""Training, scoring and predicting label maps: from the command line to a loop of one's own, against slow arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn import metrics
from torch import nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import datasets
from deepsup.comparisons import results
from deepsup.errors import ConfigError, DeepsupError
from deepsup.evaluation.evaluate import evaluate
from deepsup.evaluation.sliding_window import in_tiles
from deepsup.settings import configs, training
from deepsup.settings.comparison import ComparisonConfig
from deepsup.settings.section import check
from deepsup.supervision.objectives import Objective
from deepsup.training import runs
from deepsup.training.journal import read
from deepsup.training.loggers import LeftOutWarning
from tests.support.segmentation_runs import VARIED, Stopped, call, matrices, pixels, probabilities, supervised
from tests.support.tiny_shapes import PALETTE, SIDE, MapNet, batches, config, settings


def test_a_run_tells_mean_iou_of_every_output_as_counted_by_hand(trained: Path, shapes: Path):
    journal = read(trained / "journal.jsonl")
    start, end = journal[0], journal[-1]
    validation = read(trained / "journal.jsonl", "epoch")[-1]["validation"]
    assert start["metric"] == end["metric"] == "mean IoU"
    assert end["score"] == validation["score"]["main"]
    split = datasets.load("pairs", root=shapes).validation
    x, y = next(split.batches(8, seed=0, epoch=0, shuffle=False))
    for name, found in probabilities(supervised(trained), x).items():
        said, truth = found.argmax(1)[y >= 0], y[y >= 0]
        expected = {"mean IoU": metrics.jaccard_score(truth, said, average="macro")}
        expected |= {"pixel accuracy": metrics.accuracy_score(truth, said)}
        expected |= {"mean Dice": metrics.f1_score(truth, said, average="macro")}
        assert validation["scores"][name] == pytest.approx(expected, abs=1e-6), name
        assert validation["iou"][name] == pytest.approx(metrics.jaccard_score(truth, said, average=None).tolist())
        assert validation["score"][name] == validation["scores"][name]["mean IoU"]
    loss = F.nll_loss(probabilities(supervised(trained), x)["main"].log(), y, ignore_index=-100)
    raw = F.cross_entropy(
        F.interpolate(supervised(trained).model(x), (SIDE, SIDE), mode="bilinear", align_corners=False), y
    )
    assert loss == pytest.approx(raw.item(), rel=1e-4)
    assert validation["loss"]["main"] == pytest.approx(raw.item(), rel=1e-4)


def test_two_classes_through_a_sigmoid_have_one_channel_and_the_list_of_the_vessels(vessels: Path, two: Path):
    assert ds.Plan.load(vessels / "plan.json").classes == 1
    validation = read(vessels / "journal.jsonl", "epoch")[-1]["validation"]
    assert validation["threshold"] == 0.5
    x, y = next(datasets.load("pairs", root=two).validation.batches(8, seed=0, epoch=0, shuffle=False))
    for name, found in probabilities(supervised(vessels), x, sigmoid=True).items():
        share, truth = found[:, 0][y >= 0], y[y >= 0]
        said = (share >= 0.5).long()
        assert validation["confusion"][name] == metrics.confusion_matrix(truth, said, labels=[0, 1]).tolist()
        told = validation["scores"][name]
        assert told["ROC-AUC"] == pytest.approx(metrics.roc_auc_score(truth, share), abs=1e-4)
        assert told["PR-AUC"] == pytest.approx(metrics.average_precision_score(truth, share), abs=1e-3)
        assert told["Jaccard"] == pytest.approx(metrics.jaccard_score(truth, said), abs=1e-6)
        assert validation["score"][name] == told["ROC-AUC"]


def test_a_finished_run_leaves_pictures_that_say_what_was_scored(trained: Path, vessels: Path, shapes: Path):
    told = json.loads((trained / "maps" / "maps.json").read_text())
    assert (told["classes"], told["ignore"], told["metric"]) == (["ground", "red", "green"], 255, "mean IoU")
    assert told["palette"] == [list(colour) for colour in PALETTE]
    assert [sample["name"] for sample in told["samples"]] == ["val0", "val1", "val2"]
    split = datasets.load("pairs", root=shapes).validation
    assert isinstance(split, datasets.MapSplit)
    for index, sample in enumerate(told["samples"]):
        picture = pixels(trained / "maps" / sample["image"])
        assert np.array_equal(picture, split.picture(index).permute(1, 2, 0).numpy())
        x, y = split.item(index)
        with Image.open(trained / "maps" / sample["truth"]) as image:
            assert image.mode == "L"
            assert np.array_equal(np.array(image), y.masked_fill(y < 0, 255).numpy())
        for name, found in probabilities(supervised(trained), x[None]).items():
            output = sample["outputs"][name]
            said = pixels(trained / "maps" / output["file"])
            assert np.array_equal(said, found[0].argmax(0).numpy())
            valid = y.numpy() >= 0
            labels = sorted({*y.numpy()[valid].tolist(), *said[valid].tolist()})
            expected = metrics.jaccard_score(y.numpy()[valid], said[valid], average="macro", labels=labels)
            assert output["score"] == pytest.approx(expected)
            assert "probability" not in output
    assert all((vessels / "maps" / s["outputs"]["main"]["probability"]).exists() for s in
               json.loads((vessels / "maps" / "maps.json").read_text())["samples"])  # fmt: skip


def test_what_a_user_keeps_beside_the_maps_stays_there(shapes: Path, tmp_path: Path):
    """Files of other names are left alone; one of a name that is needed costs the pictures, not the run."""
    run = tmp_path / "run"
    (run / "maps" / "old").mkdir(parents=True)
    (run / "maps" / "berlin.tif").write_bytes(b"mine")
    runs.train(config(shapes, run, epochs=1))
    assert (run / "maps" / "berlin.tif").read_bytes() == b"mine"
    assert (run / "maps" / "old").is_dir()
    assert (run / "maps" / "maps.json").exists()
    (picture,) = (tmp_path / "other" / "maps" / name for name in ["0-val0.image.png"])
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"mine")
    with pytest.warns(LeftOutWarning, match=r"maps/0-val0\.image\.png"):
        runs.train(config(shapes, tmp_path / "other", epochs=1))
    assert picture.read_bytes() == b"mine"
    assert runs.finished(tmp_path / "other") is not None


def test_the_command_line_trains_and_says_the_name_of_the_score(shapes: Path, tmp_path: Path):
    file = tmp_path / "maps.yaml"
    file.write_text(yaml.safe_dump(settings(shapes, tmp_path / "run", epochs=1)))
    text = call("train", str(file), "--trust")
    assert "epoch 1/1, mIoU " in text
    assert "mean IoU" in text
    assert "accuracy" not in text


def test_tiles_as_large_as_the_image_change_nothing_and_small_ones_cover_it(trained: Path, shapes: Path):
    net, split = supervised(trained), datasets.load("pairs", root=shapes).validation
    objective = Objective(net.plan)
    whole = evaluate(net, split)
    same = evaluate(net, split, objective=objective, run=in_tiles(objective, side=SIDE))
    assert same.metrics == whole.metrics
    assert same.loss == pytest.approx(whole.loss, rel=1e-4)
    small = evaluate(net, split, objective=objective, run=in_tiles(objective, side=(16, 8), stride=8))
    assert {n: int(c.matrix.sum()) for n, c in small.counts.items()} == dict.fromkeys(whole.score, 3 * 30 * SIDE)
    assert small.metrics != whole.metrics


def test_a_loop_of_ones_own_goes_by_the_shape_of_its_targets(tmp_path: Path):
    torch.manual_seed(0)
    data = batches(2, classes=2)
    net = ds.attach(MapNet(2), ds.plan(MapNet(2), data[0][0], at=["stage1"]))
    result = ds.fit(net, data, validation=data, epochs=1, folder=tmp_path / "a", metric="F1")
    assert result.metric == "F1"
    validation = result.history[-1]["validation"]
    assert result.score == validation["score"]["main"] == validation["scores"]["main"]["F1"]
    assert "F1" in str(result)
    again = ds.fit(net, data, validation=data, epochs=1, folder=tmp_path / "a", metric="F1")  # goes on from its end
    assert (again.metric, again.score) == ("F1", result.score)
    plain = ds.fit(MapNet(2), data, validation=data, epochs=1)
    assert plain.metric == "mean IoU"
    assert 0 < (plain.score or 0) < 1
    with pytest.raises(ConfigError, match="label maps of 2 classes have no metric 'accuracy'"):
        ds.fit(MapNet(2), data, validation=data, epochs=1, metric="accuracy")
    with pytest.raises(ConfigError, match=r"no metric 'F1'.*'F1' is of label maps"):
        evaluate(nn.Linear(4, 2), [(torch.randn(3, 4), torch.tensor([0, 1, 0]))], metric="F1")


def test_what_does_not_fit_is_an_error_that_says_so():
    x, y = batches(1)[0]
    with pytest.raises(DeepsupError, match="2"):
        evaluate(MapNet(2), [(x, y)])
    good = torch.zeros_like(y)
    with pytest.raises(DeepsupError, match=r"3 and up|class of 3 or more|label"):
        evaluate(MapNet(3), [(x, good), (x, y + 5)])
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 3))
    with pytest.raises(DeepsupError, match=r"\(2, 32, 32\)"):
        evaluate(flat, [(x, y)])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data": {"views": 2, "augment": "standard"}}, "views: not for pairs"),
        ({"data": {"overlap": True}}, "overlap: not for pairs"),
        ({"data": {"stride": 8}}, "set data.tile as well"),
        ({"metric": "accuracy"}, "pairs has no metric 'accuracy'.*mean IoU"),
        ({"loss": "kl"}, "does not compare class scores with labels"),
        ({"data": {"name": "digits", "crop": 16}}, "crop: not for digits"),
        ({"data": {"name": "digits", "tile": 16}}, "tile: not for digits"),
        ({"data": {"name": "digits"}, "metric": "F1"}, "digits has no metric 'F1'.*accuracy"),
    ],
)
def test_options_that_mean_nothing_for_the_task_are_refused(changes: dict[str, Any], says: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=says):
        config(tmp_path, tmp_path / "run", **changes)


def test_a_score_of_two_classes_is_refused_for_three_before_anything_is_trained(shapes: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="label maps of 3 classes have no metric 'ROC-AUC'"):
        runs.train(config(shapes, tmp_path / "run", metric="ROC-AUC"))
    assert not (tmp_path / "run" / "journal.jsonl").exists()


def test_one_key_is_varied_by_one_command_and_the_result_says_which(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm_workers: None
):
    monkeypatch.setattr(results, "TIMING_SECONDS", 0.01)
    base = settings(shapes, tmp_path / "unused", epochs=1)
    del base["output"], base["name"], base["supervise"]["weight"]
    file = tmp_path / "weights.yaml"
    file.write_text(yaml.safe_dump({"name": "weights", "base": base, "output": str(tmp_path / "out"), **VARIED}))
    text = call("compare", str(file), "--trust")
    result = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert result["metric"] == "mean IoU"
    assert result["vary"] == {"key": "supervise.weight", "values": {"none": 0, "weight=0.4": 0.4}}
    assert "in final mean IoU" in result["rule"]
    assert "points of mean IoU" in text
    (group,) = result["groups"]
    assert group["baseline"] == "none"
    assert set(group["arms"]) == {"none", "weight=0.4"}
    ends = [read(tmp_path / "out" / run / "journal.jsonl", "end")[0]["score"] for run in group["arms"]["none"]["runs"]]
    assert group["arms"]["none"]["final"] == ends
    assert set(group["arms"]["weight=0.4"]["outputs"]) == {"stage1", "main", "ensemble"}
    again = configs.load(tmp_path / "out" / "config.yaml", trust=True)
    assert again == configs.load(file, trust=True)


def test_a_key_is_varied_as_if_its_arms_were_written_out():
    short = configs.parse({"vary": {"optimizer": {"lr": [0.1, 0.2]}}})
    assert isinstance(short, ComparisonConfig)
    assert short.baseline == "lr=0.1"
    long = configs.parse(
        {"arms": {"lr=0.1": {"optimizer": {"lr": 0.1}}, "lr=0.2": {"optimizer": {"lr": 0.2}}}, "baseline": "lr=0.1"}
    )
    assert isinstance(long, ComparisonConfig)
    assert [cell.config for cell in short.expand()] == [cell.config for cell in long.expand()]
    both = configs.parse({"vary": {"supervise.weight": [0.1, 0.2]}, "methods": ["none"]})
    assert isinstance(both, ComparisonConfig)
    assert (both.baseline, set(both.arms)) == ("none", {"none", "weight=0.1", "weight=0.2"})
    for wrong in ({"a": [1, 2], "b": [1, 2]}, {"epochs": 3}, {"epochs": [3]}, [1, 2]):
        with pytest.raises(ConfigError, match="write one key and its values"):
            configs.parse({"vary": wrong})
    with pytest.raises(ConfigError, match="Each value counts once"):
        configs.parse({"vary": {"epochs": [3, 3]}})
    with pytest.raises(ConfigError, match="judged by one score; these have mean Dice and mean IoU"):
        configs.parse({"base": {"data": {"name": "camvid"}}, "vary": {"metric": [None, "mean Dice"]}})


def test_a_stopped_run_on_maps_goes_on_as_if_nothing_had_happened(shapes: Path, tmp_path: Path):
    changes = {"checkpoint": {"every_steps": 1}, "log": {"every": 1, "conflict": False, "gradients": 0}, "epochs": 2}

    def config(name: str) -> training.TrainConfig:
        made = settings(shapes, tmp_path / name, **changes)
        made["data"] = {**made["data"], "augment": "standard", "crop": 24, "patches": 2}
        return check(training.TrainConfig, made, where="test")

    def cut(record: dict[str, Any]) -> None:
        if record["kind"] == "step" and record["step"] == 3:
            raise Stopped

    runs.train(config("whole"))
    with pytest.raises(Stopped):
        runs.train(config("cut"), on_record=cut)
    assert runs.train(config("cut")).resumed
    for file in ("model.safetensors", "heads.safetensors"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes()


@pytest.mark.parametrize("loss", ["dice_cross_entropy", "dice", "binary"])
def test_tiles_put_one_channel_through_a_sigmoid_whatever_its_loss_is_called(loss: str):
    torch.manual_seed(0)
    net, data = MapNet(1), batches(classes=2)
    objective = Objective(loss=loss)
    whole = evaluate(net, data, objective=objective)
    tiled = evaluate(net, data, objective=objective, run=in_tiles(objective, side=SIDE, stride=SIDE))
    assert matrices(tiled) == matrices(whole)
    assert tiled.loss["main"] == pytest.approx(whole.loss["main"], rel=1e-4)
    assert tiled.metrics["main"]["ROC-AUC"] == pytest.approx(whole.metrics["main"]["ROC-AUC"], abs=1e-4)


def test_tiles_take_each_output_by_its_own_loss():
    torch.manual_seed(0)
    net, data = MapNet(2), batches(classes=2)
    plan = ds.plan(net, data[0][0], "stage1", head="conv1x1", branch_loss="binary")
    supervised, objective = ds.attach(net, plan), Objective(plan)
    whole = evaluate(supervised, data, objective=objective)
    tiled = evaluate(supervised, data, objective=objective, run=in_tiles(objective, side=SIDE, stride=SIDE))
    assert matrices(tiled) == matrices(whole)
    assert tiled.loss == pytest.approx(whole.loss, rel=1e-4)


def test_outputs_that_are_no_maps_are_not_put_together_from_tiles():
    net, data = MapNet(2), batches(classes=2)
    plan = ds.plan(net, data[0][0], "stage1", head="mean", branch_loss="none")
    supervised, objective = ds.attach(net, plan), Objective(plan)
    with pytest.raises(
        ConfigError, match=r"the output 'stage1' is none: \(8, 8\)\. Score whole images: data\.tile=null"
    ):
        evaluate(supervised, data, objective=objective, run=in_tiles(objective, side=16, stride=16))
