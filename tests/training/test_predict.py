"""Tests of predict."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import deepsup as ds
from deepsup import datasets
from deepsup.errors import ConfigError, DatasetError
from deepsup.training import runs
from deepsup.training.inputs import Inputs
from tests.support.segmentation_runs import call, pixels, probabilities, supervised
from tests.support.tiny_shapes import PALETTE, SIDE, config


def test_predictions_are_those_of_validation_in_the_size_of_the_image(trained: Path, shapes: Path, tmp_path: Path):
    with Image.open(shapes / "val" / "images" / "val0.png") as image:
        image.save(tmp_path / "same.png")
    text = call("predict", "--trust", str(trained), str(tmp_path), "--out", str(tmp_path / "out"), "--branches")
    assert "same.png: same.labels.png, same.overlay.png, same.stage1.labels.png" in text
    split = datasets.load("pairs", root=shapes).validation
    assert isinstance(split, datasets.MapSplit)
    x, _ = split.item(0)
    for name, found in probabilities(supervised(trained), x[None]).items():
        stem = "same" if name == "main" else f"same.{name}"
        with Image.open(tmp_path / "out" / f"{stem}.labels.png") as labels:
            assert labels.mode == "P"
            assert labels.getpalette()[:9] == [part for colour in PALETTE for part in colour]  # type: ignore[index]
            assert np.array_equal(np.array(labels), found[0].argmax(0).numpy())
    assert pixels(tmp_path / "out" / "same.overlay.png").shape == (SIDE, SIDE, 3)


def test_an_image_of_another_size_is_resized_as_in_validation_and_its_labels_are_enlarged(two: Path, tmp_path: Path):
    run = tmp_path / "run"
    runs.train(config(two, run, data={"size": [24, 40]}, loss="binary", epochs=1, supervise=None))
    Image.new("RGB", (50, 36), (220, 10, 10)).save(tmp_path / "wide.png")
    text = call("predict", "--trust", str(run), str(tmp_path / "wide.png"))
    assert f"written to {run / 'predictions'}" in text
    for kind in ("labels", "overlay", "probability"):
        assert pixels(run / "predictions" / f"wide.{kind}.png").shape[:2] == (36, 50)
    x, original = Inputs.load(run).read(tmp_path / "wide.png", config(two, run, data={"size": [24, 40]}).data)
    assert (tuple(x.shape), tuple(original.shape)) == ((1, 3, 24, 40), (36, 50, 3))
    net = runs.untouched_model(run, trust=True).eval()
    ds.load_weights(net, run / "model.safetensors")
    expected = F.interpolate(net(x), (36, 50), mode="bilinear", align_corners=False).sigmoid()[0, 0]
    found = torch.from_numpy(pixels(run / "predictions" / "wide.probability.png"))
    assert (found / 255 - expected).abs().max() < 0.5 / 255 + 1e-5


def test_predict_gives_one_label_an_image_as_a_table(tmp_path: Path):
    from tests.support.tiny_runs import config as digits

    run = tmp_path / "digits"
    runs.train(digits(run, epochs=1, data={"limit": 32}))
    data = datasets.load("digits", limit=32).validation
    x, _ = next(data.batches(2, seed=0, epoch=0, shuffle=False))
    for index, image in enumerate(x):
        pixels = (image[0] * data.std + data.mean).clamp(0, 1)  # type: ignore[attr-defined]
        Image.fromarray((255 * pixels).round().byte().numpy()).save(tmp_path / f"{index}.png")
    text = call("predict", "--trust", str(run), str(tmp_path / "0.png"), str(tmp_path / "1.png"), "--branches")
    rows = (run / "predictions" / "predictions.csv").read_text().splitlines()
    assert rows[0].startswith("image,class,probability,class (relu1),probability (relu1),")
    net = supervised(run)
    expected = net(x).softmax(1)
    for index, row in enumerate(rows[1:]):
        name, label, share, *_ = row.split(",")
        assert (name, label) == (str(tmp_path / f"{index}.png"), str(int(expected[index].argmax())))
        assert float(share) == pytest.approx(expected[index].max().item(), abs=0.01)
        assert f"{index}.png: {label} " in text


def test_predict_names_what_it_cannot_use(trained: Path, shapes: Path, tmp_path: Path):
    image = shapes / "val" / "images" / "val0.png"
    with pytest.raises(ConfigError, match=r"there is no run in .*no config\.yaml"):
        call("predict", "--trust", str(tmp_path), str(image))
    with pytest.raises(DatasetError, match=r"there is no image \(png.*in the folder"):
        call("predict", "--trust", str(trained), str(tmp_path))
    with pytest.raises(DatasetError, match=r"there is no image or folder .*nowhere\.png"):
        call("predict", "--trust", str(trained), str(tmp_path / "nowhere.png"))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    told = r"cannot read the image .*broken\.png: it is no image, or damaged at its beginning. Replace it by a file that opens.$"
    with pytest.raises(DatasetError, match=told):
        call("predict", "--trust", str(trained), str(tmp_path / "broken.png"), "--out", str(tmp_path / "out"))
    (tmp_path / "val0.png").write_bytes(image.read_bytes())
    with pytest.raises(ConfigError, match="are both called 'val0'"):
        call("predict", "--trust", str(trained), str(image), str(tmp_path / "val0.png"))
    with pytest.raises(ConfigError, match=r"--stride is the distance of tiles"):
        call("predict", "--trust", str(trained), str(image), "--stride", "4")


def test_a_supervised_run_without_its_plan_is_not_called_plain(trained: Path, shapes: Path, tmp_path: Path):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    (run / "plan.json").unlink()
    picture = str(shapes / "val" / "images" / "val0.png")
    with pytest.raises(ConfigError, match=r"was trained with branches, and its plan\.json, .* is missing"):
        call("predict", "--trust", str(run), picture, "--branches")
    assert "written to" in call("predict", "--trust", str(run), picture)
    (run / "journal.jsonl").unlink()  # from here on the weights are those of the checkpoint, with heads
    with pytest.raises(ConfigError, match=r"plan\.json, .* is missing"):
        call("predict", "--trust", str(run), picture)


def test_folders_are_walked_bad_files_named_and_all_probabilities_kept(tmp_path: Path):
    from tests.support.tiny_runs import config as digits

    run, photos = tmp_path / "run", tmp_path / "photos"
    runs.train(digits(run, epochs=1, data={"limit": 32}))
    for number, name in enumerate(["a.png", "b/a.png", "b/c/d.png"]):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 80 * number).save(photos / name)
    (photos / "b" / "torn.png").write_bytes((photos / "a.png").read_bytes()[:40])
    words = ["predict", "--trust", str(run), str(photos), "--out", str(photos / "out")]
    for _ in range(2):  # what was written the first time is no image to predict
        with pytest.raises(DatasetError, match="1 file could not be read"):
            call(*words)
        names = [str(photos / name) for name in ("a.png", "b/a.png", "b/c/d.png")]
        tables = [
            (photos / "out" / f"{name}.csv").read_text().splitlines() for name in ("predictions", "probabilities")
        ]
        assert [[row.split(",")[0] for row in table[1:]] for table in tables] == [names, names]
        assert tables[1][0] == "image,0,1,2,3,4,5,6,7,8,9"
        for said, row in zip(tables[0][1:], tables[1][1:], strict=True):
            shares = [float(cell) for cell in row.split(",")[1:]]
            assert sum(shares) == pytest.approx(1, abs=1e-5)
            assert said.split(",")[1:] == [str(int(np.argmax(shares))), str(max(shares))]


def test_predictions_of_a_walked_folder_lie_as_its_images_do(trained: Path, shapes: Path, tmp_path: Path):
    folder = Path(shutil.copytree(shapes / "val" / "images", tmp_path / "in" / "deep"))
    call("predict", "--trust", str(trained), str(folder.parent), "--out", str(tmp_path / "out"))
    made = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.labels.png")}
    assert made == {f"deep/{path.stem}.labels.png" for path in folder.iterdir()}
