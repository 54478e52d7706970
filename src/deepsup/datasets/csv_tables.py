"""Targets in a CSV file: a row an image, its path first; whatever is wrong is said with the file and the line.

    image,age,height,split          image,labels               image,cat,dog
    a.png,41,1.73,train             a.png,cat;dog              a.png,1,0
    b/c.png,,1.80,val               b.png,                     b.png,0,NaN

A cell that is empty or NaN does not count, but for a column of label names, where an empty one is an image without any.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from torch import Tensor

from deepsup.datasets.image_files import SUFFIXES
from deepsup.datasets.image_survey import gathered
from deepsup.errors import DatasetError

NAMES = "labels"
"""What the column is called that holds names of labels."""
_SPLIT = "split"
_PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_UNKNOWN = {"", "nan", "na"}
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
_LARGEST = torch.finfo(torch.float32).max


class Table(NamedTuple):
    """What a file says: a row an image."""

    file: Path
    names: tuple[str, ...]  # of the columns of `targets`
    paths: tuple[Path, ...]
    parts: tuple[str, ...] | None  # "train", "val" or "test"; None where there is no such column
    targets: Tensor  # (N, C), float32, NaN where it does not count


class _Row(NamedTuple):
    line: int
    image: str
    path: Path
    part: str
    cells: list[str]


def read_values(file: Path) -> Table:
    """A column of numbers a value. Raises DatasetError, with the lines, for what is none."""
    names, rows, parts = _rows(file)
    return _table(file, names, rows, parts, lambda row: _cells(file, row, names, _value))


def read_labels(file: Path, learned: Sequence[str] = ()) -> Table:
    """A column of 0 and 1 a label, or one column `labels` of names, with semicolons or spaces between them, some of which may
    not occur where they were `learned` before.
    """
    names, rows, parts = _rows(file)
    if [name.lower() for name in names] != [NAMES]:
        return _table(file, names, rows, parts, lambda row: _cells(file, row, names, _label))
    said = gathered(lambda row: _named(file, row, _separator(rows)), rows, what="rows")
    known = sorted({name for found in said for name in found or ()} | set(learned))
    if not known:
        raise DatasetError(f"{file} names no label in any row: the column {names[0]!r} is empty. Fill it.")
    by_line = dict(zip((row.line for row in rows), said, strict=True))

    def hot(row: _Row) -> list[float]:
        found = by_line[row.line]
        return [math.nan if found is None else float(name in found) for name in known]

    return _table(file, known, rows, parts, hot)


def _table(
    file: Path, names: Sequence[str], rows: Sequence[_Row], parts: bool, read: Callable[[_Row], list[float]]
) -> Table:
    targets = torch.tensor(gathered(read, rows, what="rows"), dtype=torch.float32)
    return Table(
        file, tuple(names), tuple(row.path for row in rows), tuple(r.part for r in rows) if parts else None, targets
    )


def _cells(file: Path, row: _Row, names: Sequence[str], read: Callable[[str], float]) -> list[float]:
    found = []
    for name, cell in zip(names, row.cells, strict=True):
        if cell.lower() in _UNKNOWN:
            found.append(math.nan)
            continue
        try:
            found.append(read(cell))
        except ValueError as error:
            raise DatasetError(f"{file}, line {row.line}: {name!r} of {row.image} is {cell!r}{error}") from None
    return found


def _value(cell: str) -> float:
    try:
        number = float("_" if "_" in cell else cell)
    except ValueError:
        comma = " Write decimals with a point." if "," in cell else " Leave the cell empty where nothing is known."
        raise ValueError(f", which is no number.{comma}") from None
    if not abs(number) <= _LARGEST:
        raise ValueError(", which is no finite number of 32 bits. Leave the cell empty where nothing is known.")
    return number


def _label(cell: str) -> float:
    if cell not in ("0", "1", "0.0", "1.0"):
        raise ValueError(
            f", and a label is there (1) or not (0), or not known (empty). Numbers are for data.name=values; a column of "
            f"names is called {NAMES!r}."
        )
    return float(cell)


def _separator(rows: Sequence[_Row]) -> str | None:
    """What stands between names in a cell: semicolons if there are any, else spaces."""
    return ";" if any(";" in row.cells[0] for row in rows) else None


def _named(file: Path, row: _Row, separator: str | None) -> set[str] | None:
    """The labels of a row; None where nothing is known."""
    (cell,) = row.cells
    if "," in cell or "|" in cell:
        raise DatasetError(
            f"{file}, line {row.line}: the labels of {row.image} are {cell!r}. Write semicolons between names, or spaces."
        )
    if cell.lower() in _UNKNOWN - {""}:
        return None
    return {name.strip() for name in cell.split(separator)} - {""}


def _rows(file: Path) -> tuple[list[str], list[_Row], bool]:
    """The names of the columns of targets, all rows, and whether they say which split they are of."""
    (_, head), *lines = _lines(file)
    columns = [cell.strip() for cell in head]
    _check_head(file, columns)
    splits = [place for place, name in enumerate(columns) if name.lower() == _SPLIT]
    names = [name for place, name in enumerate(columns) if place and place not in splits]
    if not names or not lines:
        wanted = "column of targets" if not names else "row below its header"
        raise DatasetError(f"{file} has no {wanted}. Its columns: {', '.join(columns)}.")
    rows = gathered(lambda line: _row(file, *line, columns, splits), lines, what="rows")
    first: dict[str, int] = {}
    for row in rows:
        name = os.path.normpath(row.path)
        if first.setdefault(name, row.line) != row.line:
            raise DatasetError(
                f"{file}, lines {first[name]} and {row.line} are both about {row.image}. Keep one of them."
            )
    return names, rows, bool(splits)


def _lines(file: Path) -> list[tuple[int, list[str]]]:
    """The lines that are not blank, each with its number."""
    if not file.is_file():
        raise DatasetError(
            f"{file} is not there. It has a header and a row an image: its path in the folder, then its targets, with commas "
            "between them."
        )
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file} is not UTF-8 ({error}). Save it as UTF-8.") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        found = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DatasetError(f"{file}, line {reader.line_num} is no CSV: {error}.") from None
    if not found:
        raise DatasetError(f"{file} is empty. Write a header and a row an image.")
    return found


def _check_head(file: Path, columns: Sequence[str]) -> None:
    alone = columns[0] if len(columns) == 1 else ""
    other = next((said for sign, said in _OTHER_SEPARATORS.items() if sign in alone), None)
    if other:
        raise DatasetError(
            f"{file} has {other} between its columns: {alone!r}. Write commas, and decimals with a point."
        )
    if PurePosixPath(columns[0]).suffix.lower() in SUFFIXES:
        raise DatasetError(
            f"{file} has no header: its first line begins with {columns[0]!r}. Put the names of the columns above it, such "
            "as image,NAME."
        )
    for place, name in enumerate(columns, 1):
        if not name:
            raise DatasetError(f"{file}: column {place} has no name in the header. Give it one, or take it out.")
        if name.lower() in (other.lower() for other in columns[: place - 1]):
            raise DatasetError(f"{file} has two columns {name!r}. Give each a name of its own.")


def _row(file: Path, line: int, cells: list[str], columns: Sequence[str], splits: Sequence[int]) -> _Row:
    at, cells = f"{file}, line {line}", [cell.strip() for cell in cells]
    if len(cells) != len(columns):
        raise DatasetError(
            f"{at} has {len(cells)} cells, and the header {len(columns)} columns. Write decimals with a point, and texts with "
            "commas in quotes."
        )
    path = file.parent / cells[0]
    if not cells[0] or PurePosixPath(cells[0]).is_absolute() or ".." in path.parts[len(file.parent.parts) :]:
        raise DatasetError(f"{at}: {cells[0]!r} is no path in {file.parent}. Write it from there on.")
    if not path.is_file():
        slashes = " Write / between folders." if "\\" in cells[0] else ""
        raise DatasetError(f"{at}: there is no image {path}.{slashes} Add it, or take the line out.")
    part = _PARTS.get(cells[splits[0]].lower(), "") if splits else ""
    if splits and not part:
        raise DatasetError(f"{at}: split is {cells[splits[0]]!r}. Write train, val or test.")
    return _Row(line, cells[0], path, part, [c for place, c in enumerate(cells) if place and place not in splits])
