"""What is said of new images as tables: `predictions.csv`, a row an image, columns by output."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from torch import Tensor

from deepsup import losses
from deepsup.losses.full_size import enlarged
from deepsup.tasks.outputs import loss_of, with_ensemble
from deepsup.tasks.segmentation import safe
from deepsup.tasks.task import Said, Writer

FILE = "predictions.csv"


class Rows(Writer):
    """Tables that are written anew with every `flush`, so that what is there is whole wherever it is cut off."""

    def append(self, image: Path, cells: Mapping[str, Mapping[str, object]], *, file: str = FILE) -> Path:
        """Add a row of cells by output and title; a title of another output than main has its name behind it."""
        titles = [
            title if output == "main" else f"{title} ({output})" for output, named in cells.items() for title in named
        ]
        rows = self._rows.setdefault(file, [["image", *titles]])
        rows.append([str(image), *(str(cell) for named in cells.values() for cell in named.values())])
        return self.folder / file

    def flush(self) -> None:
        for file, rows in self._rows.items():
            text = io.StringIO(newline="")
            csv.writer(text).writerows(rows)
            self.put(file, text.getvalue().encode("utf-8"))
        super().flush()

    @cached_property
    def _rows(self) -> dict[str, list[list[str]]]:
        return {}

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


class ValueFiles(NumberRows):
    """The same; of maps NAME.values.npy, and NAME.BRANCH.values.npy, (C, H, W) in the size of the image."""

    def write(self, name: str, image: Path, original: Tensor, found: Mapping[str, Tensor]) -> Said:
        if found["main"].ndim == 2:
            return super().write(name, image, original, found)
        numpy = importlib.import_module("numpy")
        size, files = tuple(original.shape[:2]), []
        wide = {n: enlarged(values, size, loss_of(n, self.objective)) for n, values in found.items()}
        for output, values in self.said_of(wide).items():
            stem = name if output == "main" else f"{name}.{safe(output)}"
            buffer = io.BytesIO()
            numpy.save(buffer, values.float().cpu().numpy())
            files.append(self.put(f"{stem}.values.npy", buffer.getvalue()))
        return Said(image, tuple(files), {})
