"""Tables of what is said of new images."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from deepsup.errors import ConfigError
from deepsup.predictions import Prediction
from deepsup.supervision.objectives import Objective
from deepsup.tasks.prediction_tables import NumberRows, ValueFiles


@pytest.mark.parametrize(("loss", "scale"), [("mse", lambda t: t), ("binary", torch.sigmoid)])
def test_numbers_by_output_and_column(tmp_path: Path, loss: str, scale) -> None:
    kept = {"classes": ("a", "b"), "palette": None}
    main, other = torch.tensor([[0.5, -2.0]]), torch.tensor([[1.5, 3.0]])
    objective = Objective(loss=loss)
    objective.predictions["main"] = Prediction("values" if loss == "mse" else "labels", 1, 2, 0, "the task")
    writer = NumberRows(tmp_path, objective, branches=True, **kept)
    for name in ("one.png", "two.png"):
        said = writer.write(name, Path(name), torch.zeros(4, 4, 3), {"main": main, "side": other})
    writer.flush()
    assert said.files == (tmp_path / "predictions.csv",)
    with (tmp_path / "predictions.csv").open() as file:
        head, *rows = csv.reader(file)
    assert head == ["image", "a", "b", "a (side)", "b (side)", "a (ensemble)", "b (ensemble)"]
    assert [row[0] for row in rows] == ["one.png", "two.png"]
    wanted = torch.cat([scale(main), scale(other), (scale(main) + scale(other)) / 2], 1)[0]
    assert [float(cell) for cell in rows[1][1:]] == pytest.approx(wanted.tolist(), abs=1e-6)
    alone = NumberRows(tmp_path / "alone", objective, branches=False, **kept)
    assert list(alone.write("one", Path("one.png"), torch.zeros(4, 4, 3), {"main": main, "side": other}).told) == [
        "main"
    ]


def test_maps_are_files_in_the_size_of_the_image(tmp_path: Path) -> None:
    objective = Objective(loss="mse")
    objective.predictions["main"] = Prediction("values", 1, 1, 2, "the task")
    writer = ValueFiles(tmp_path, objective, branches=True, classes=("value",), palette=None)
    found = {"main": torch.full((1, 1, 2, 2), 3.0), "side/1": torch.full((1, 1, 4, 4), 5.0)}
    said = writer.write("one", Path("one.png"), torch.zeros(6, 8, 3), found)
    writer.flush()
    assert [file.name for file in said.files] == ["one.values.npy", "one.side_1.values.npy", "one.ensemble.values.npy"]
    for file, value in zip(said.files, (3, 5, 4), strict=True):
        np.testing.assert_allclose(np.load(file), np.full((1, 6, 8), value, np.float32), rtol=1e-6)


def test_a_table_of_somebody_else_stays(tmp_path: Path) -> None:
    (tmp_path / "predictions.csv").write_text("mine")
    objective = Objective(loss="mse")
    objective.predictions["main"] = Prediction("values", 1, 2, 0, "the task")

    def write() -> None:
        writer = NumberRows(tmp_path, objective, branches=False, classes=("a", "b"), palette=None)
        writer.write("one", Path("one.png"), torch.zeros(4, 4, 3), {"main": torch.zeros(1, 2)})
        writer.flush()

    with pytest.raises(ConfigError, match=r"did not write.*predictions\.csv"):
        write()
    assert (tmp_path / "predictions.csv").read_text() == "mine"
    (tmp_path / "predictions.csv").unlink()
    for _ in range(2):  # its own is written over
        write()
    assert (tmp_path / "predictions.csv").read_text().splitlines() == ["image,a,b", "one.png,0.0,0.0"]
