"""A run evaluated on its own validation data, laid out as new data are, scores as it did in training."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepsup.errors import ConfigError, DatasetError
from deepsup.settings import configs, training
from deepsup.training import runs
from deepsup.training.journal import read
from deepsup.training.labelled_data import evaluate_run
from tests.support import tiny_tables, tiny_tokens
from tests.support.segmentation_runs import call
from tests.support.tiny_runs import config as tiny
from tests.support.tiny_tables import draw, write_colours, write_maps

NET = "tests.support.tiny_runs:dropout_net"
SUPERVISED = {"method": "aux", "at": ["relu1", "relu2"], "head": "pool", "weight": 0.3}


def train(settings: dict[str, Any]) -> Path:
    checked = configs.parse(settings)
    assert isinstance(checked, training.TrainConfig)
    runs.train(checked)
    return Path(checked.output)


def same(run: Path, data: Path, *, branches: bool = True) -> None:
    """What is found on `data` is what the run's journal says of its last epoch."""
    (*_, last) = read(run / "journal.jsonl", "epoch")
    found = evaluate_run(run, data, branches=branches, trust=True).record()
    expected = last["validation"]
    assert found["score"] == pytest.approx(expected["score"], abs=1e-6)
    assert found.keys() == expected.keys()
    for name, loss in found["loss"].items():
        assert loss == pytest.approx(expected["loss"][name], rel=1e-4)


def write_classes(root: Path, counts: dict[str, int]) -> Path:
    for shade, (name, count) in enumerate(counts.items()):
        for number in range(count):
            draw(root / name / f"{number}.png", red=(shade + 1) / 4, rest=number / 10)
    return root


def folder_run(tmp_path: Path) -> Path:
    for part in ("train", "val"):
        write_classes(tmp_path / "data" / part, {"ant": 6, "bee": 4, "cow": 5})
    data = {"name": "folder", "root": str(tmp_path / "data"), "size": 16, "batch_size": 4}
    return train(tiny_tables.settings(tmp_path, "folder", tmp_path / "run", data=data, supervise=SUPERVISED, epochs=1))


def test_images_in_class_folders(tmp_path: Path) -> None:
    run = folder_run(tmp_path)
    same(run, tmp_path / "data" / "val")
    some = write_classes(tmp_path / "some", {"bee": 3})
    before = sorted(path.name for path in run.iterdir())
    told = json.loads(call("evaluate", str(run), str(some), "--trust", "--json"))
    assert (told["samples"], told["metric"], set(told["score"])) == (3, "accuracy", {"main"})
    assert "main: accuracy " in call("evaluate", str(run), str(some), "--trust")
    assert sorted(path.name for path in run.iterdir()) == before
    write_classes(some, {"bee": 1, "dog": 1})
    with pytest.raises(DatasetError, match=r"class folders dog, and the run knows ant, bee, cow"):
        evaluate_run(run, some, trust=True)
    with pytest.raises(DatasetError, match="has no class folders"):
        evaluate_run(run, tmp_path / "run", trust=True)
    with pytest.raises(DatasetError, match=r"there is no .*nowhere"):
        evaluate_run(run, tmp_path / "nowhere", trust=True)
    with pytest.raises(ConfigError, match="there is no run in"):
        evaluate_run(some, some)


@pytest.mark.parametrize("name", ["labels", "values"])
def test_images_with_a_row_each(tmp_path: Path, name: str) -> None:
    root = write_colours(tmp_path / "data", images=24)
    lines = (root / f"{name}.csv").read_text().splitlines()
    parts = ["split", *(["val"] * 8), *(["train"] * 16)]
    (root / f"{name}.csv").write_text("\n".join(f"{a},{b}" for a, b in zip(lines, parts, strict=True)))
    run = train(tiny_tables.settings(root, name, tmp_path / "run", supervise=SUPERVISED, epochs=1))
    turned = [[row[0], row[2], row[1]] for row in csv.reader(lines[:9])]  # the columns in another order
    (root / f"{name}.csv").write_text("\n".join(",".join(row) for row in turned))
    same(run, root)
    (root / f"{name}.csv").write_text("image,red\nshots/0.png,1")
    with pytest.raises(DatasetError, match="has the columns red, and the run learned red, rest"):
        evaluate_run(run, root, trust=True)


def test_names_of_labels_that_do_not_occur_are_not_there(tmp_path: Path) -> None:
    root = write_colours(tmp_path / "data", images=12)
    names = ["image,labels,split", *(f"shots/{n}.png,{'red;rest' if n % 2 else 'red'},train" for n in range(10))]
    (root / "labels.csv").write_text("\n".join([*names, "shots/10.png,rest,val", "shots/11.png,red,val"]))
    run = train(tiny_tables.settings(root, "labels", tmp_path / "run", epochs=1))
    (root / "labels.csv").write_text("image,labels\nshots/10.png,rest\nshots/11.png,")
    assert evaluate_run(run, root, trust=True).samples == 2
    (root / "labels.csv").write_text("image,labels\nshots/10.png,blue")
    with pytest.raises(DatasetError, match="has the columns blue, red, rest, and the run learned red, rest"):
        evaluate_run(run, root, trust=True)


def test_images_with_masks_or_maps(trained: Path, shapes: Path, vessels: Path, two: Path, tmp_path: Path) -> None:
    same(trained, shapes / "val")
    same(vessels, two / "val")
    part = tmp_path / "part"
    shutil.copytree(shapes / "val", part)
    mask = next((part / "masks").iterdir())
    Image.fromarray(np.full_like(np.array(Image.open(mask)), 77)).save(mask)
    with pytest.raises(DatasetError, match=str(mask.name)):
        evaluate_run(trained, part, trust=True)
    root = write_maps(tmp_path / "maps")
    changes: dict[str, Any] = {"data": {"name": "value-maps", "root": str(root), "batch_size": 4}, "epochs": 1}
    run = train(
        tiny_tables.settings(root, "value-maps", tmp_path / "run", model="tests.support.tiny_shapes:map_net", **changes)
    )
    same(run, root / "val", branches=False)
    write_maps(tmp_path / "both", channels=2)
    with pytest.raises(DatasetError, match="has 2 channels, and the run learned 1"):
        evaluate_run(run, tmp_path / "both" / "val", trust=True)


def test_a_run_without_branches_needs_its_own_data_no_longer(tmp_path: Path) -> None:
    root = write_colours(tmp_path / "data", images=12)
    run = train(tiny_tables.settings(root, "values", tmp_path / "run", epochs=1))
    new = write_colours(tmp_path / "new", images=5)
    shutil.rmtree(root)
    assert evaluate_run(run, new, trust=True).samples == 5


def test_tokens_and_digits(tmp_path: Path) -> None:
    root = tiny_tokens.write_walks(tmp_path / "data")
    run = train(tiny_tokens.settings(root, tmp_path / "run", epochs=1))
    same(run, root / "val.npz", branches=False)
    tiny_tokens.save(tmp_path / "large.npz", inputs=np.full((2, 4), 10**6))
    with pytest.raises(DatasetError, match="inputs has 1000000"):
        evaluate_run(run, tmp_path / "large.npz", trust=True)
    runs.train(tiny(tmp_path / "digits", epochs=1, data={"limit": 32}))
    draw(tmp_path / "new" / "3" / "a.png", shape=(8, 8))
    assert evaluate_run(tmp_path / "digits", tmp_path / "new", trust=True).samples == 1
