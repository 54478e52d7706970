"""Data sets with a label a pixel: where each keeps its files, and what its masks mean."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import torch

from deepsup import label_maps
from deepsup.datasets import preparation, published_classes
from deepsup.datasets.class_occurrence import check_occurrences
from deepsup.datasets.found import Files
from deepsup.datasets.image_listing import folders_in, listed
from deepsup.datasets.image_survey import Facts, raise_together, ranges_of, survey
from deepsup.datasets.label_map_split import MapSplit
from deepsup.datasets.layouts import layout
from deepsup.datasets.mask_classes import classes_of
from deepsup.datasets.mask_files import VOID, MaskReader
from deepsup.datasets.normalisation import IMAGENET_MEAN, IMAGENET_STD
from deepsup.datasets.pairs import Pair, PairReader, Pairs, matched, misfit, statistics
from deepsup.datasets.request import DEFAULT_ROOT, Dataset, Request
from deepsup.errors import DatasetError
from deepsup.specs import Limit, one_of, require

_NO_LABEL = Limit(
    "the number in the masks that does not count, or None", lambda v: v is None or (type(v) is int and 0 <= v <= 65535)
)


@dataclass(frozen=True)
class _Layout:
    """What a data set consists of; `masks` None stands for drawings in black and white."""

    train: list[Pair]
    validation: list[Pair]
    classes: published_classes.Named
    masks: MaskReader | None
    inside: bool = False
    hint: str = ""
    found: dict[Path, Facts] | None = None


@layout("segmentation")
def camvid(request: Request) -> Dataset:
    """Streets with eleven classes, in SegNet's layout."""
    root = _root(request, "CamVid", parts := ["train", "trainannot", "val", "valannot"])
    pairs = [matched(files_of(root / a), files_of(root / b), where=str(root / a)) for a, b in (parts[:2], parts[2:])]
    numbers = {label: label for label in range(len(published_classes.CAMVID))} | {len(published_classes.CAMVID): VOID}
    masks = MaskReader(numbers, classes=len(published_classes.CAMVID))
    return _dataset(request, _Layout(pairs[0], pairs[1], classes=published_classes.CAMVID, masks=masks))


@layout("segmentation")
def drive(request: Request, *, observer: Annotated[int, one_of(1, 2)] = 1) -> Dataset:
    """Vessels of the retina; validation is the published test set, by the first or second observer, training by the first."""
    drawn = {"training": "1st_manual", "test": "1st_manual" if observer == 1 else "2nd_manual"}
    needed = [f"{part}/{folder}" for part in drawn for folder in ("images", drawn[part], "mask")]
    root = _root(request, "DRIVE", needed)
    pairs = []
    for part, folder in drawn.items():
        images, masks, views = (files_of(root / part / name, _number) for name in ("images", folder, "mask"))
        pairs.append(matched(images, masks, views=views, where=str(root / part / "images")))
    return _dataset(request, _Layout(pairs[0], pairs[1], classes=published_classes.DRIVE, masks=None, inside=True))


@layout("segmentation")
def ade20k(request: Request) -> Dataset:
    """Scenes with 150 classes, as MIT hands them out."""
    parts = ("training", "validation")
    root = _root(
        request, "ADEChallengeData2016", [f"{kind}/{part}" for kind in ("images", "annotations") for part in parts]
    )
    pairs = [
        matched(files_of(root / "images" / p), files_of(root / "annotations" / p), where=str(root / "images" / p))
        for p in parts
    ]
    names = _ade20k_names(root / "objectInfo150.txt")
    masks = MaskReader({0: VOID} | {label + 1: label for label in range(len(names))}, classes=len(names))
    return _dataset(request, _Layout(pairs[0], pairs[1], classes=_named(names), masks=masks))


def _ade20k_names(path: Path) -> list[str]:
    """The first of each class's names; numbers where the table is not there."""
    if not path.is_file():
        return [str(number) for number in range(1, 151)]
    rows = [line.split("\t") for line in path.read_text("utf-8").splitlines()[1:] if line.strip()]
    if len(rows) != 150:
        raise DatasetError(
            f"{path} names {len(rows)} classes, not 150. Get it again, or delete it to do without names."
        )
    return [row[-1].split(",")[0].strip() for row in rows]


@layout("segmentation")
def cityscapes(request: Request) -> Dataset:
    """German streets with nineteen classes, `leftImg8bit` and `gtFine`."""
    parts = ("train", "val")
    root = _root(request, "cityscapes", [f"{kind}/{part}" for kind in ("leftImg8bit", "gtFine") for part in parts])
    own = all(_below(root / "gtFine" / part, "_gtFine_labelTrainIds.png") for part in parts)
    ending = f"_gtFine_label{'Train' if own else ''}Ids.png"
    pairs = [
        matched(
            _below(root / "leftImg8bit" / part, "_leftImg8bit.png"),
            _below(root / "gtFine" / part, ending),
            where=str(root / "leftImg8bit" / part),
        )
        for part in parts
    ]
    count = len(published_classes.CITYSCAPES)
    scored = range(count) if own else published_classes.CITYSCAPES_IDS
    unscored = {} if own else dict.fromkeys(range(published_classes.CITYSCAPES_NUMBERS), VOID)
    numbers = {**unscored, **{number: label for label, number in enumerate(scored)}, 255: VOID}
    return _dataset(
        request,
        _Layout(pairs[0], pairs[1], classes=published_classes.CITYSCAPES, masks=MaskReader(numbers, classes=count)),
    )


@layout("segmentation")
def pairs(request: Request, *, void: Annotated[int | None, _NO_LABEL] = 255) -> Dataset:
    """Images and masks of one's own in `train/` and `val/`, each with `images/` and `masks/`.

    `void` is the number of what does not count, None where everything does; `mask_classes` says what numbers and colours mean.
    """
    if request.root is None:
        raise DatasetError(
            "the dataset 'pairs' needs root=..., a folder with train/ and val/, in each images/ and masks/."
        )
    root = _root(request, "", [f"{part}/{kind}" for part in ("train", "val") for kind in ("images", "masks")])
    train, validation = (
        matched(files_of(root / p / "images"), files_of(root / p / "masks"), where=str(root / p / "images"))
        for p in ("train", "val")
    )
    found = _surveyed((*train, *validation))
    names, colours, masks = classes_of([p.mask for p in (*train, *validation)], root / "classes.txt", void=void)
    classes = dict(zip(names, colours, strict=True)) if colours else _named(names)
    hint = _black_and_white(names) if void == 255 and colours is None else ""
    return _dataset(request, _Layout(train, validation, classes=classes, masks=masks, hint=hint, found=found))


def _black_and_white(names: Sequence[str]) -> str:
    """What helps two classes whose masks were saved as black and white, so that white is taken for void."""
    if len(names) != 2:
        return ""
    lines = f"'{names[0]} 0 0 0' and '{names[1]} 255 255 255'"
    return f"255 is void: if the masks were saved as 0 and 255, write the colours into classes.txt, the lines {lines}."


def _surveyed(pairs: Sequence[Pair]) -> dict[Path, Facts]:
    return survey(file for pair in pairs for file in pair.files)


def _dataset(request: Request, layout: _Layout) -> Dataset:
    require("torchvision.transforms.v2", purpose=f"the dataset {request.name}")
    pairs = (*layout.train, *layout.validation)
    found = layout.found or _surveyed(pairs)
    raise_together([error for pair in pairs if (error := misfit(pair, found))], of=len(pairs), what="images")
    ranges = ranges_of(found[pair.image] for pair in pairs)
    reader = PairReader(layout.masks, preparation.get(request.prepare), request.size, ranges)
    if reader.prepare is None:
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    else:  # of everything: a quick run normalises as the full run does
        mean, std = statistics(layout.train, reader)
    shared: dict[str, Any] = {
        "class_names": tuple(layout.classes),
        "palette": tuple(layout.classes.values()),
        "mean": mean,
        "std": std,
        "workers": request.workers,
    }
    train = [layout.train[row] for row in request.kept(torch.arange(len(layout.train))).tolist()]
    patches: dict[str, Any] = {
        "crop": request.crop,
        "patches": request.patches,
        "inside": layout.inside,
        "augment": request.augment,
    }
    training, validation = Pairs(train, reader), Pairs(layout.validation, reader)
    whole = len(train) == len(layout.train)
    check_occurrences(training, validation, tuple(layout.classes), hint=layout.hint, whole=whole)
    files = Files(found, _skipped(pairs), layout.masks.said(tuple(layout.classes)) if layout.masks else "")
    return Dataset(request.name, MapSplit(training, **shared, **patches), MapSplit(validation, **shared), files)


def _skipped(pairs: Sequence[Pair]) -> Counter[str]:
    """What lies beside the images and masks, and is none."""
    folders = sorted({path.parent for pair in pairs for path, _ in pair.files})
    return sum((listed(folder).skipped for folder in folders), Counter())


def _named(names: Sequence[str]) -> published_classes.Named:
    """Names with colours of our own; a name that comes twice gets its number."""
    unique = [name if names.count(name) == 1 else f"{name} {number}" for number, name in enumerate(names, 1)]
    return dict(zip(unique, label_maps.palette(len(names)), strict=True))


def _root(request: Request, folder: str, needed: Sequence[str]) -> Path:
    """`root`, or the folder of that name in it: the first with all that is needed."""
    root = request.root or DEFAULT_ROOT
    places = [root, root / folder] if folder else [root]
    for place in places:
        if all((place / part).is_dir() for part in needed):
            return place
    best = max(places, key=lambda place: sum((place / part).is_dir() for part in needed))
    absent = [part for part in needed if not (best / part).is_dir()]
    raise DatasetError(
        f"{request.name} is not complete in {' or '.join(map(str, places))}. Missing: {', '.join(absent)}. Pass root=... "
        "(the folder that holds them)."
    )


def files_of(folder: Path, key: Callable[[str], str] = str) -> dict[str, Path]:
    """Image files by `key` of their stem; hidden ones do not count."""
    found: dict[str, Path] = {}
    for path in listed(folder).files:
        name = unicodedata.normalize("NFC", key(path.stem))  # macOS writes accents as letters of their own
        if name in found:
            raise DatasetError(f"{found[name]} and {path} are both called {name!r}. Keep one of them.")
        found[name] = path
    return found


def _number(stem: str) -> str:
    """`21_training` and `21_manual1` belong together."""
    return stem.partition("_")[0]


def _below(folder: Path, ending: str) -> dict[str, Path]:
    """`CITY/NAME` + ending, by CITY/NAME."""
    every = chain.from_iterable(listed(city).files for city in folders_in(folder))
    found = (path for path in every if path.name.endswith(ending))
    return {f"{path.parent.name}/{path.name.removesuffix(ending)}": path for path in found}
