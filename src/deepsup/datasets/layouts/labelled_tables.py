"""Images with several labels, or with numbers, in a CSV file beside them."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Annotated, Any

import torch
from torch import Tensor

from deepsup.datasets.class_occurrence import AbsentClassWarning
from deepsup.datasets.csv_tables import Table, read_labels, read_values
from deepsup.datasets.folder_split import FolderSplit
from deepsup.datasets.found import Files
from deepsup.datasets.image_listing import listed
from deepsup.datasets.image_survey import ranges_of, survey
from deepsup.datasets.layouts import layout
from deepsup.datasets.request import Dataset, Request
from deepsup.datasets.splits import generator
from deepsup.errors import DatasetError, stacklevel
from deepsup.specs import Limit, is_number, require

_SHARE = Limit("a share between 0 and 1", lambda v: is_number(v) and 0 < v < 1)
HELD_OUT = 0.2
_FAR, _NEAR = 10.0, 0.01  # of a mean or deviation for which an untrained net is far off


@layout("labels")
def labels(request: Request, *, held_out: Annotated[float, _SHARE] = HELD_OUT) -> Dataset:
    """Images of one's own and `labels.csv`: a row an image, a column of 0 and 1 a label, or one called `labels` with names.

    A column `split` says train, val or test; without it a share of `held_out` is validation, the same for every seed.
    """
    return _dataset(request, "labels", held_out)


@layout("values")
def values(request: Request, *, held_out: Annotated[float, _SHARE] = HELD_OUT) -> Dataset:
    """Images of one's own and `values.csv`: a row an image, a column of numbers a value; split as `labels` is."""
    return _dataset(request, "values", held_out)


def _dataset(request: Request, task: str, held_out: float) -> Dataset:
    require("torchvision.datasets", purpose=f"the dataset {request.name}")
    if request.root is None:
        raise DatasetError(f"the dataset '{task}' needs root=..., a folder with images and {task}.csv.")
    table = (read_labels if task == "labels" else read_values)(request.root / f"{task}.csv")
    train, validation, others = _parts(table, held_out)
    notes = _checked(table, train, validation, task)
    rows = {"training": request.kept(train), "validation": validation}
    facts = survey((table.paths[row], "image") for part in rows.values() for row in part.tolist())
    shared: dict[str, Any] = {
        "class_names": table.names,
        "size": request.side or 224,
        "workers": request.workers,
        "ranges": ranges_of(facts.values()),
        "task": task,
    }
    splits = {
        part: FolderSplit(
            [(table.paths[row], table.targets[row].tolist()) for row in picked.tolist()],
            augment=request.augment if part == "training" else "none",
            **shared,
        )
        for part, picked in rows.items()
    }
    skipped = Counter({"test image": others, "image without a row": _unlisted(request, table)})
    return Dataset(request.name, splits["training"], splits["validation"], Files(facts, skipped, notes=tuple(notes)))


def _parts(table: Table, held_out: float) -> tuple[Tensor, Tensor, int]:
    """The rows of the training and of the validation split, and how many others there are."""
    if table.parts is None:
        if len(table.paths) < 2:
            raise DatasetError(f"{table.file} has one row, and training and validation need one each. Add some.")
        order = sorted(range(len(table.paths)), key=lambda row: str(table.paths[row]))  # of the lines nothing depends
        drawn = torch.tensor(order)[torch.randperm(len(order), generator=generator("held out"))]
        count = min(max(1, round(held_out * len(order))), len(order) - 1)
        return drawn[count:].sort().values, drawn[:count].sort().values, 0
    found = {part: torch.tensor([r for r, p in enumerate(table.parts) if p == part]) for part in ("train", "val")}
    for part, rows in found.items():
        if not len(rows):
            raise DatasetError(
                f"{table.file} has no row whose split is {part}. Say it of some, or take the column out: then a fifth is held "
                "out."
            )
    return found["train"], found["val"], len(table.parts) - sum(map(len, found.values()))


def _unlisted(request: Request, table: Table) -> int:
    """How many images lie in the folder that no row is about."""
    assert request.root is not None
    there = {path.resolve() for path in table.paths}
    return sum(path.resolve() not in there for path in listed(request.root, below=True).files)


def _checked(table: Table, learned: Tensor, scored: Tensor, task: str) -> list[str]:
    """What should make one doubt the columns; DatasetError for those of which nothing can be learned or scored."""
    train, validation = table.targets[learned], table.targets[scored]
    for part, targets in (("training", train), ("validation", validation)):
        empty = [n for n, column in zip(table.names, targets.T, strict=True) if bool(column.isnan().all())]
        if empty and (part == "training" or len(empty) == len(table.names)):
            raise DatasetError(
                f"{table.file}: {', '.join(map(repr, empty))} is empty in all {len(targets)} {part} rows. Fill it, or take the "
                "column out."
            )
    if task == "values":
        return _scales(table, train)
    never = [name for name, column in zip(table.names, train.T, strict=True) if not bool((column > 0.5).any())]
    if len(never) == len(table.names):
        raise DatasetError(
            f"{table.file}: no label occurs in the {len(train)} training rows: there is nothing to learn."
        )
    if never:
        warnings.warn(
            f"{table.file}: {', '.join(map(repr, never))} in no training row.",
            AbsentClassWarning,
            stacklevel=stacklevel(),
        )
    always = [n for n, column in zip(table.names, train.T, strict=True) if not bool((column <= 0.5).any())]
    return [f"{', '.join(map(repr, always))} in every training image that says so"] if always else []


def _scales(table: Table, train: Tensor) -> list[str]:
    """Of numbers that do not differ, or are far from the 0 that a net begins with."""
    notes = []
    for name, column in zip(table.names, train.T, strict=True):
        known = column[~column.isnan()].double()
        mean, deviation = float(known.mean()), float(known.std(correction=0))
        if not deviation:
            warnings.warn(
                f"{table.file}: {name!r} is {mean:g} in every training row.",
                AbsentClassWarning,
                stacklevel=stacklevel(),
            )
        elif abs(mean) > _FAR or not _NEAR <= deviation <= _FAR:
            notes.append(
                f"{name!r} is {mean:.3g} ± {deviation:.3g} in training, and nets begin near 0: in a unit in which it is a few "
                "ones it is learned faster"
            )
    return notes
