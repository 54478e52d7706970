"""What is said of new images as a table: `predictions.csv`, a row an image, columns by output."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from deepsup import losses
from deepsup.tasks.outputs import with_ensemble
from deepsup.tasks.task import Said, Writer

FILE = "predictions.csv"


class Rows(Writer):
    """A table that is written anew with every row, so that what is there is whole wherever it is cut off."""

    rows: list[list[str]]

    def append(self, image: Path, cells: Mapping[str, Mapping[str, object]]) -> Path:
        """Add a row of cells by output and title; a title of another output than main has its name behind it."""
        titles = [
            title if output == "main" else f"{title} ({output})" for output, named in cells.items() for title in named
        ]
        if not hasattr(self, "rows"):
            self.rows = [["image", *titles]]
        self.rows.append([str(image), *(str(cell) for named in cells.values() for cell in named.values())])
        path = self.folder / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(self.rows)
        return path

    def said_of(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the outputs that are asked for say of one image, (C, *places): probabilities, or values as they are."""
        said = {}
        for output, scores in with_ensemble(dict(found), self.objective).items():
            if self.wanted(output):
                own = output in found  # the ensemble is one of probabilities already
                said[output] = (losses.probabilities(scores, self.objective.kind(output)) if own else scores)[0]
        return said


class NumberRows(Rows):
    """A column a label, with its probability, or a column a value, in the unit that was trained on."""

    def write(self, name: str, image: Path, original: Tensor, found: Mapping[str, Tensor]) -> Said:
        said = {output: self._named(numbers.tolist()) for output, numbers in self.said_of(found).items()}
        told = {output: ", ".join(f"{n} {v:.4g}" for n, v in named.items()) for output, named in said.items()}
        path = self.append(image, said)
        return Said(image, (path,), {}, told)

    def _named(self, numbers: Sequence[float]) -> dict[str, float]:
        return dict(zip(self.classes, numbers, strict=True))
