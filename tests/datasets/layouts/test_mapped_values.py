"""Images with maps of numbers: what is served and said, and runs that learn, predict and are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import deepsup as ds
from deepsup import datasets
from deepsup.datasets import AbsentClassWarning
from deepsup.errors import ConfigError, DatasetError
from deepsup.settings import configs, training
from deepsup.training import runs
from deepsup.training.inputs import Inputs
from deepsup.training.journal import read
from tests.support.drawn_images import write_pages
from tests.support.segmentation_runs import call
from tests.support.tiny_tables import draw, settings, write_maps


def test_what_was_found(tmp_path: Path) -> None:
    root = write_maps(tmp_path, train=3, val=2, channels=2)
    (root / "train" / "maps" / "notes.txt").touch()
    data = datasets.load("value-maps", root=root)
    assert str(data) == "value-maps: 3 training and 2 validation images, 3x16x24, 2 values"
    every = np.stack([np.load(root / "train" / "maps" / f"{n}.npy") for n in range(3)])
    assert f"; value 1 {np.nanmin(every[:, 0]):.4g} to {np.nanmax(every[:, 0]):.4g}" in data.found.lines[0]
    assert "; 4.17 % of the values are not known" in data.found.lines[0]
    assert "not read: 1 *.txt" in data.found.lines
    assert datasets.load("value-maps", root=root, size=8, limit=2).train.shape == (8, 8)
    assert datasets.load("value-maps", root=root, size=(8, 10)).train.shape == (8, 10)


def test_pages_of_a_tiff_are_channels_where_that_is_said(tmp_path: Path) -> None:
    root = write_maps(tmp_path, train=2, val=1, channels=2)
    for path in root.glob("*/maps/*.npy"):
        write_pages(path.with_suffix(".tif"), list(np.load(path)))
        path.unlink()
    assert datasets.load("value-maps(pages='channels')", root=root).classes == 2
    with pytest.raises(DatasetError, match=r"holds 2 images.*set data\.name=value-maps\(pages='channels'\)"):
        datasets.load("value-maps", root=root)
    with pytest.raises(ConfigError, match=r"pages.*'channels', or None"):
        datasets.load("value-maps(pages='samples')", root=root)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"'value-maps' needs root=\.\.\."):
        datasets.load("value-maps")
    with pytest.raises(DatasetError, match=r"train/images is not a folder"):
        datasets.load("value-maps", root=tmp_path)
    root = write_maps(tmp_path, train=2, val=2)
    (root / "val" / "maps" / "1.npy").rename(root / "val" / "maps" / "2.npy")
    with pytest.raises(DatasetError, match=r"the image .*val/images/1.png has no map: looked for '1'"):
        datasets.load("value-maps", root=root)
    draw(root / "val" / "images" / "2.png", shape=(16, 24))
    (root / "val" / "images" / "1.png").unlink()
    datasets.load("value-maps", root=root)
    draw(root / "val" / "maps" / "2.png")
    with pytest.raises(DatasetError, match="are both called '2'"):
        datasets.load("value-maps", root=root)


def test_maps_of_which_nothing_can_be_learned(tmp_path: Path) -> None:
    root = write_maps(tmp_path, train=1, val=1)
    np.save(root / "val" / "maps" / "0.npy", np.full((16, 24), np.nan))
    with pytest.raises(DatasetError, match="'value' is NaN in all 1 validation maps"):
        datasets.load("value-maps", root=root)
    np.save(root / "val" / "maps" / "0.npy", np.zeros((2, 16, 24)))
    with pytest.raises(DatasetError, match="training maps have 1 channels, and those of validation 2"):
        datasets.load("value-maps", root=root)
    for part in ("train", "val"):
        np.save(root / part / "maps" / "0.npy", np.ones((16, 24)))
    with pytest.warns(AbsentClassWarning, match="'value' is the same in all places"):
        datasets.load("value-maps", root=root)


@pytest.mark.parametrize(
    "given", [{"crop": 8}, {"patches": 2}, {"prepare": "vessels"}, {"views": 2}, {"classes": 2}, {"download": True}]
)
def test_what_does_not_fit_is_refused_by_name(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(given))}.*value-maps"):
        datasets.load("value-maps", root=tmp_path, **given)
    with pytest.raises(ConfigError, match="Augmentations: none, flips"):
        datasets.load("value-maps", root=tmp_path, augment="standard")


@pytest.mark.parametrize("supervise", [None, {"at": ["stage1"], "weight": 0.3}], ids=["plain", "aux"])
def test_a_run_learns_and_predicts_maps_in_the_size_of_the_image(tmp_path: Path, supervise: Any) -> None:
    root = write_maps(tmp_path / "maps", channels=2)
    model = {"model": "tests.support.tiny_shapes:map_net", "supervise": supervise, "epochs": 25}
    plain = settings(root, "value-maps", tmp_path / "run", **model)
    plain["data"] = {"name": "value-maps", "root": str(root), "batch_size": 8, "augment": "flips"}
    config = configs.parse(plain)
    assert isinstance(config, training.TrainConfig)
    end = runs.train(config)
    assert end.score is not None
    assert end.score > 0.5
    (start,) = read(tmp_path / "run" / "journal.jsonl", "start")
    assert start["metric"] == "R²"
    draw(tmp_path / "new.png", red=0.9, rest=0.1, shape=(20, 28))
    words = ["--branches"] if supervise else []
    text = call("predict", "--trust", str(tmp_path / "run"), str(tmp_path / "new.png"), *words)
    assert "new.values.npy" in text
    found = np.load(tmp_path / "run" / "predictions" / "new.values.npy")
    net = runs.untouched_model(tmp_path / "run", trust=True).eval()
    ds.load_weights(net, tmp_path / "run" / "model.safetensors")
    x, _ = Inputs.load(tmp_path / "run").read(tmp_path / "new.png", config.data)
    with torch.no_grad():
        wanted = F.interpolate(net(x), (20, 28), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(torch.from_numpy(found), wanted, atol=1e-4, rtol=1e-4)
    assert (tmp_path / "run" / "predictions" / "new.stage1.values.npy").exists() == bool(supervise)
