"""Images with a number, or several, for every pixel: depth, distances, densities."""

from __future__ import annotations

import unicodedata
import warnings
from collections import Counter
from pathlib import Path
from typing import Annotated

import torch

from deepsup.datasets.class_occurrence import AbsentClassWarning
from deepsup.datasets.found import Files
from deepsup.datasets.image_listing import is_hidden, listed
from deepsup.datasets.image_survey import ranges_of, survey
from deepsup.datasets.layouts import layout
from deepsup.datasets.pairs import Pair, matched
from deepsup.datasets.request import Dataset, Request
from deepsup.datasets.value_map_split import ValueMapSplit
from deepsup.datasets.value_maps import SUFFIXES, MapReader
from deepsup.errors import DatasetError, stacklevel
from deepsup.specs import Limit, require

_PAGES = Limit("'channels', or None", lambda v: v in ("channels", None))


@layout("values")
def value_maps(request: Request, *, pages: Annotated[str | None, _PAGES] = None) -> Dataset:
    """Images and maps of numbers of one's own in `train/` and `val/`, each with `images/` and `maps/`, matched by stem.

    A map is `.npy`, (H, W) or (C, H, W), or a TIFF or PNG with a number a pixel, of which with `pages='channels'` every page
    is a channel. NaN does not count.
    """
    require("torchvision.transforms.v2", purpose=f"the dataset {request.name}")
    if request.root is None:
        raise DatasetError(
            "the dataset 'value-maps' needs root=..., a folder with train/ and val/, in each images/ and maps/."
        )
    skipped: Counter[str] = Counter()
    train, validation = (pairs_in(request.root / part, skipped) for part in ("train", "val"))
    facts = survey((pair.image, "image") for pair in (*train, *validation))
    size = (request.size, request.size) if isinstance(request.size, int) else request.size
    reader = MapReader(size, ranges_of(facts.values()), pages=pages == "channels")
    kept = [train[row] for row in request.kept(torch.arange(len(train))).tolist()]
    splits = (
        ValueMapSplit(kept, reader, augment=request.augment, workers=request.workers),
        ValueMapSplit(validation, reader, workers=request.workers),
    )
    _check(*splits)
    return Dataset(request.name, *splits, Files(facts, skipped))


def _check(train: ValueMapSplit, validation: ValueMapSplit) -> None:
    """DatasetError where nothing can be learned, or scored; a warning of values that are all the same."""
    if train.classes != validation.classes:
        raise DatasetError(
            f"training maps have {train.classes} channels, and those of validation {validation.classes}. Take maps of one kind."
        )
    for name, split in (("training", train), ("validation", validation)):
        if not bool(split.known.all()):
            empty = [n for n, known in zip(split.class_names, split.known.tolist(), strict=True) if not known]
            raise DatasetError(
                f"{', '.join(map(repr, empty))} is NaN in all {len(split)} {name} maps. Correct the maps."
            )
    if bool((train.low == train.high).any()):
        same = [n for n, low, high in zip(train.class_names, train.low, train.high, strict=True) if low == high]
        warnings.warn(
            f"{', '.join(map(repr, same))} is the same in all places of the training maps.",
            AbsentClassWarning,
            stacklevel=stacklevel(),
        )


def pairs_in(place: Path, skipped: Counter[str]) -> list[Pair]:
    """The images of `place/images` with their `place/maps`; files that are neither are counted in `skipped`."""
    for folder in (place / "images", place / "maps"):
        if not folder.is_dir():
            raise DatasetError(
                f"{folder} is not a folder. value-maps has train/ and val/, each with images/ and maps/."
            )
    images = listed(place / "images")
    skipped += images.skipped
    found = [path for path in sorted((place / "maps").iterdir()) if not is_hidden(path.name)]
    maps = [path for path in found if path.suffix.lower() in SUFFIXES]
    skipped += Counter(f"*{path.suffix}" for path in found if path not in maps)
    return matched(_by_stem(images.files), _by_stem(maps), where=str(place / "images"), what="map")


def _by_stem(paths: list[Path] | tuple[Path, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        name = unicodedata.normalize("NFC", path.stem)  # macOS writes accents as letters of their own
        if name in found:
            raise DatasetError(f"{found[name]} and {path} are both called {name!r}. Keep one of them.")
        found[name] = path
    return found
