"""Labelled data that a run has not seen, read as its validation was, and how good the run is on them.

found = evaluate_run("runs/flowers", "new-photos")      # new-photos/CLASS/*
found.score["main"], found.metrics["main"]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from deepsup.datasets import MapSplit
from deepsup.datasets.csv_tables import Table, read_labels, read_values
from deepsup.datasets.folder_split import class_folders, folder_samples
from deepsup.datasets.image_ranges import Ranges
from deepsup.datasets.layouts import LAYOUTS, is_map
from deepsup.datasets.layouts.labelled_pixels import files_of
from deepsup.datasets.layouts.mapped_values import pairs_in
from deepsup.datasets.mask_classes import VOID_NAME, Line, classes_of, lines_in
from deepsup.datasets.pairs import PairReader, Pairs, matched
from deepsup.datasets.preparation import get as preparation
from deepsup.datasets.splits import Split
from deepsup.datasets.token_files import check_range, read_tokens
from deepsup.datasets.token_split import TokenSplit
from deepsup.datasets.value_map_split import ValueMapSplit
from deepsup.datasets.value_maps import MapReader
from deepsup.errors import ConfigError, DatasetError
from deepsup.evaluation.evaluate import Evaluation, evaluate
from deepsup.evaluation.loaders import Batch
from deepsup.tasks import TASKS
from deepsup.training.predict import Predictor, forward_of, load
from deepsup.trust import Trust

Source: TypeAlias = Split | Callable[[int], Iterator[Batch]]


def evaluate_run(folder: str | Path, data: str | Path, *, branches: bool = False, trust: Trust = False) -> Evaluation:
    """Score a run's network, and with `branches` its heads, on labelled data of one's own; nothing is written.

    `data` is a folder: `CLASS/*` for one label an image, with the names of the run's classes; `labels.csv` or `values.csv` with
    its images; `images/` and `masks/` for a label a pixel, or `images/` and `maps/` for numbers, as in one part of the run's
    data; for tokens a file with `inputs` (N, L) and `labels`. Everything in it counts.

    Raises `ConfigError` for a folder without a run, `DatasetError` for data that are not labelled so, with the file's name.
    """
    predictor = load(folder, branches=branches, trust=trust)
    source = _source(predictor, Path(data))
    return evaluate(
        predictor.net,
        source,
        objective=predictor.objective,
        metric=predictor.config.score_name,
        batch_size=2 * predictor.config.data.batch_size if not TASKS[predictor.inputs.task].whole_images else 1,
        run=forward_of(predictor) if predictor.config.data.tile else None,
    )


def _source(predictor: Predictor, place: Path) -> Source:
    task = predictor.inputs.task
    readers: dict[str, Callable[[Predictor, Path], Source]] = {
        "classification": _classes,
        "labels": _table,
        "values": _maps if is_map(predictor.config.data.name) else _table,
        "segmentation": _masks,
        "tokens": _tokens,
    }
    if task not in readers:
        raise ConfigError(
            f"a run of task '{task}' is not evaluated on a folder: let `deepsup predict` write embeddings, and "
            "`deepsup score` score them."
        )
    if not place.exists():
        raise DatasetError(f"there is no {place}. Name the folder, or of tokens the file, with the labelled data.")
    return readers[task](predictor, place)


def _classes(predictor: Predictor, place: Path) -> Source:
    """`place/CLASS/*`, where each CLASS is one of the run's."""
    names, there = predictor.inputs.classes, class_folders(place) if place.is_dir() else []
    strange = [name for name in there if name not in names]
    if strange or not there:
        found = f"has the class folders {', '.join(strange[:5])}" if strange else "has no class folders"
        raise DatasetError(f"{place} {found}, and the run knows {', '.join(names[:10])}. Put images into CLASS/.")
    samples, _ = folder_samples(place, class_names=names)
    if not samples:
        raise DatasetError(f"{place} has no image file (png, jpg, webp, ...) in any class folder.")
    return _read(predictor, [path for path, _ in samples], torch.tensor([label for _, label in samples]))


def _table(predictor: Predictor, place: Path) -> Source:
    """`place/labels.csv` or `place/values.csv`, with the run's columns in any order."""
    task, names = predictor.inputs.task, list(predictor.inputs.classes)
    table: Table = read_values(place / "values.csv") if task == "values" else read_labels(place / "labels.csv", names)
    if sorted(table.names) != sorted(names):
        raise DatasetError(
            f"{table.file} has the columns {', '.join(table.names)}, and the run learned {', '.join(names)}. Name them alike."
        )
    return _read(predictor, table.paths, table.targets[:, [table.names.index(name) for name in names]])


def _read(predictor: Predictor, paths: Sequence[Path], targets: Tensor) -> Callable[[int], Iterator[Batch]]:
    """Batches of images as validation sees them, read as they are needed."""
    size = 2 * predictor.config.data.batch_size

    def batches(epoch: int) -> Iterator[Batch]:
        for at in range(0, len(paths), size):
            images = [predictor.inputs.read(path, predictor.config.data)[0] for path in paths[at : at + size]]
            yield torch.cat(images), targets[at : at + size]

    return batches


def _masks(predictor: Predictor, place: Path) -> Split:
    """`place/images` and `place/masks`, by the numbers or colours of the run's classes."""
    inputs, settings = predictor.inputs, predictor.config.data
    pairs = matched(files_of(place / "images"), files_of(place / "masks"), where=str(place / "images"))
    void: Any = LAYOUTS.read(settings.name)[1].get("void", 255)
    files = [place / "classes.txt", *([Path(settings.root) / "classes.txt"] if settings.root else [])]
    file = next((one for one in files if one.is_file()), files[0])
    lines = lines_in(file) if file.is_file() else _counted(inputs.classes, file, void=void)
    names, _, masks = classes_of([pair.mask for pair in pairs], file, void=void, lines=lines)
    if names != inputs.classes:
        raise DatasetError(f"{file} names {', '.join(names)}, and the run learned {', '.join(inputs.classes)}.")
    reader = PairReader(masks, preparation(settings.prepare), settings.size, Ranges(*inputs.ranges))
    mean, std = torch.tensor(inputs.mean), torch.tensor(inputs.std)
    return MapSplit(Pairs(pairs, reader), class_names=names, palette=inputs.palette, mean=mean, std=std)


def _counted(names: Sequence[str], file: Path, *, void: int | None) -> list[Line]:
    """The lines of classes that were called by their numbers."""
    if not all(name.isdecimal() for name in names):
        raise DatasetError(f"{file} is not there, and nothing else says which numbers the run's classes have. Copy it.")
    return [Line(VOID_NAME if n == void else str(n)) for n in range(max(map(int, names)) + 1)]


def _maps(predictor: Predictor, place: Path) -> Split:
    size, ranges = predictor.config.data.size, Ranges(*predictor.inputs.ranges)
    pages = LAYOUTS.read(predictor.config.data.name)[1].get("pages") == "channels"
    reader = MapReader((size, size) if isinstance(size, int) else size, ranges, pages=pages)
    split = ValueMapSplit(pairs_in(place, Counter()), reader)
    if split.classes != len(predictor.inputs.classes):
        raise DatasetError(
            f"{place / 'maps'} has {split.classes} channels, and the run learned {len(predictor.inputs.classes)}."
        )
    return split


def _tokens(predictor: Predictor, place: Path) -> Split:
    tokens, symbols, classes = read_tokens(place), predictor.inputs.channels, len(predictor.inputs.classes)
    check_range(tokens.inputs, place, "inputs", symbols, "the run knows")
    check_range(tokens.labels, place, "labels", classes, "the run knows")
    if tokens.inputs.shape[1] > predictor.inputs.length:
        raise DatasetError(
            f"{place} has sequences of {tokens.inputs.shape[1]} tokens; the run learned up to {predictor.inputs.length}."
        )
    return TokenSplit(tokens, symbols=symbols, classes=classes)
