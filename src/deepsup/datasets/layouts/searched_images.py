"""Images of people or vehicles to be found again: identities of training, queries, and a gallery to search."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from deepsup.datasets import identity_names, stick_figures
from deepsup.datasets.found import Files
from deepsup.datasets.identity_counts import check_searchable
from deepsup.datasets.identity_names import USUAL, Marked, Marks, by_file, by_folder, pattern_of
from deepsup.datasets.identity_split import IdentitySplit
from deepsup.datasets.image_listing import folders_in
from deepsup.datasets.image_survey import Facts, ranges_of, survey
from deepsup.datasets.layouts import layout
from deepsup.datasets.request import DEFAULT_ROOT, Dataset, Request
from deepsup.datasets.splits import derived_seed
from deepsup.datasets.stick_figures import Figures
from deepsup.errors import DatasetError
from deepsup.specs import FLAG, WHOLE, Limit, counted, one_of, require

_MARKET = ("bounding_box_train", "query", "bounding_box_test")
_UPRIGHT, _SQUARE = (256, 128), (256, 256)
_TEXT = Limit("a text, or None", lambda v: v is None or isinstance(v, str))
_SOME = Limit("a whole number of at least 2", lambda v: WHOLE.fits(v) and v >= 2)
_NUMBER = Limit("a whole number of at least 0", lambda v: WHOLE.fits(v) and v >= 0)


class _Rows(NamedTuple):
    """What a split is made of."""

    pictures: Sequence[Path] | Tensor
    identities: Tensor
    cameras: Tensor | None
    names: Sequence[str]


class _Parts(NamedTuple):
    """What is trained on, what is looked for, and where; more images of what is looked for."""

    train: Marks
    query: Marks
    gallery: Marks
    more: Marks = Marks((), Counter())


@layout("re-identification")
def market1501(request: Request, *, multi_query: Annotated[bool, FLAG] = False) -> Dataset:
    """Market-1501: 751 people to train on, 750 to find, 6 cameras; for `multi_query` with all images of the queries."""
    folders = (*_MARKET, "gt_bbox") if multi_query else _MARKET
    parts = _flat(request, folders, "Market-1501-v15.09.15", "Market-1501", "market1501")
    sought = {(image.identity, image.camera) for image in parts.query.images}  # the same person on the same camera
    more = tuple(image for image in parts.more.images if (image.identity, image.camera) in sought)
    return _dataset(request, parts._replace(more=Marks(more, parts.more.skipped)), _UPRIGHT)


@layout("re-identification")
def dukemtmc(request: Request) -> Dataset:
    """DukeMTMC-reID: 702 people to train on, 702 to find, 8 cameras."""
    return _dataset(request, _flat(request, _MARKET, "DukeMTMC-reID", "dukemtmc-reid"), _UPRIGHT)


@layout("re-identification")
def veri776(request: Request) -> Dataset:
    """VeRi-776: vehicles, 20 cameras."""
    return _dataset(request, _flat(request, ("image_train", "image_query", "image_test"), "VeRi", "veri"), _SQUARE)


@layout("re-identification")
def cuhk03(request: Request, *, boxes: Annotated[str, one_of("detected", "labeled")] = "detected") -> Dataset:
    """CUHK03 by the new protocol (767 / 700 people), as its `.mat` file tells it, or exported in the folders of Market-1501."""
    config, images = f"cuhk03_new_protocol_config_{boxes}.mat", f"images_{boxes}"
    root = request.root or DEFAULT_ROOT
    for place in (root, root / "cuhk03", root / "CUHK03"):
        if (place / config).is_file() and (place / images).is_dir():
            return _dataset(request, _told(place, config, images), _UPRIGHT)
    return _dataset(request, _flat(request, _MARKET, "cuhk03", "CUHK03"), _UPRIGHT)


@layout("re-identification")
def msmt17(request: Request, *, val: Annotated[bool, FLAG] = True) -> Dataset:
    """MSMT17, v1 or v2, by its lists: 1,041 people to train on, 3,060 to find, 15 cameras; `val` are 2,373 images of training
    that some leave out.
    """
    known = ("train", "test"), ("mask_train_v2", "mask_test_v2")
    root, (trained, tested) = _home(request, ("MSMT17", "MSMT17_V1", "MSMT17_V2", "msmt17"), *known)
    train = _listed(root, trained, "train") + (_listed(root, trained, "val") if val else ())
    parts = (train, *(_listed(root, tested, part) for part in ("query", "gallery")))
    return _dataset(request, _Parts(*(Marks(images, Counter()) for images in parts)), _UPRIGHT, alike=False)


@layout("re-identification")
def vehicleid(
    request: Request,
    *,
    test: Annotated[int, one_of(800, 1600, 2400)] = 800,
    draw: Annotated[int, _NUMBER] = 0,
) -> Dataset:
    """VehicleID: 13,164 vehicles to train on, 800, 1,600 or 2,400 to find, no cameras. One image of each, drawn at random, is
    the gallery, and the others are queries; scores are published as means over ten values of `draw`.
    """
    root, _ = _home(request, ("VehicleID_V1.0", "VehicleID"), ("image", "train_test_split"))
    lists = root / "train_test_split"
    train, tested = (_numbered(root, lists / f"{name}.txt") for name in ("train_list", f"test_list_{test}"))
    searched = _one_each(tested, draw)
    query = [mark for mark in tested if mark.name not in searched]
    gallery = [mark for mark in tested if mark.name in searched]
    return _dataset(request, _Parts(*(Marks(tuple(images), Counter()) for images in (train, query, gallery))), _SQUARE)


@layout("re-identification")
def identities(
    request: Request, *, pattern: Annotated[str | None, _TEXT] = None, cameras: Annotated[bool, FLAG] = True
) -> Dataset:
    """Images of one's own in `train/`, `query/` and `gallery/`, in a folder an identity, or with identity and camera in their
    names: by `pattern`, or as in `0002_c1...`. With `cameras=False` what the query's camera took counts, too.
    """
    if request.root is None:
        raise DatasetError("the dataset 'identities' needs root=..., a folder with train/, query/ and gallery/.")
    root, parts = _home(request, (), ("train", "query", "gallery"))
    marks = []
    for part in parts:
        if folders_in(root / part):
            made = pattern_of(pattern or identity_names.CAMERA)
            seen = made if cameras and "camera" in made.groupindex else None
            marks.append(by_folder(root / part, root, seen, asked=pattern is not None))
        else:
            found = by_file(
                root / part, root, _whole(pattern_of(pattern or (USUAL if cameras else identity_names.IDENTITY)))
            )
            marks.append(
                found if cameras else Marks(tuple(i._replace(camera=None) for i in found.images), found.skipped)
            )
    return _dataset(request, _Parts(*marks), _UPRIGHT)


@layout("re-identification")
def drawn_figures(
    request: Request,
    *,
    identities: Annotated[int, _SOME] = 200,
    cameras: Annotated[int, _SOME] = 4,
    images: Annotated[int, _SOME] = 4,
    seed: Annotated[int, _NUMBER] = 0,
) -> Dataset:
    """Stick figures in shirt and trousers, drawn in memory: half of them to train on, half to find among as many images of
    others again; 64x32. `images` are those of a figure on a camera, of which one is a query.
    """
    half = identities // 2
    shared: dict[str, Any] = {"cameras": cameras, "seed": seed}
    train = stick_figures.drawn(1, half, images=images, **shared)
    test = stick_figures.drawn(half + 1, identities - half, images=images, **shared)
    nobody = stick_figures.drawn(identities + 1, half, images=1, **shared)
    junk = stick_figures.drawn(half + 1, max(1, half // 4), images=1, halved=True, **shared)
    first = torch.arange(len(test.identities)) % images == 0
    nobody, junk = (
        part._replace(identities=torch.full_like(part.identities, who)) for part, who in ((nobody, 0), (junk, -1))
    )
    looked_for, found = (Figures(*(column[rows] for column in test)) for rows in (first, ~first))
    searched = Figures(*(torch.cat(columns) for columns in zip(looked_for, found, nobody, junk, strict=True)))
    train = Figures(*(column[_kept(request, train.identities - 1)] for column in train))
    people, labels = torch.unique(train.identities, return_inverse=True)
    splits = _splits(
        request,
        _Rows(train.images, labels, train.cameras, _names("train", train)),
        _Rows(searched.images, searched.identities, searched.cameras, _names("test", searched)),
        queries=int(first.sum()),
        class_names=[str(figure) for figure in people.tolist()],
        shape=_shape(request, stick_figures.SHAPE),
    )
    return Dataset(request.name, *splits)


def _names(part: str, figures: Figures) -> list[str]:
    told = zip(figures.identities.tolist(), figures.cameras.tolist(), strict=True)
    return [f"{part}/{who:04}_c{camera}_{row:05}.png" for row, (who, camera) in enumerate(told)]


def _dataset(request: Request, parts: _Parts, usual: tuple[int, int], *, alike: bool = True) -> Dataset:
    """`alike` says whether training and test number identities alike."""
    require("torchvision.transforms.v2", purpose=f"the dataset {request.name}")
    for name, marks in zip(parts._fields, parts[:3], strict=False):
        if not marks.images:
            told = ", ".join(f"{count} {reason}" for reason, count in marks.skipped.items() if count)
            raise DatasetError(
                f"{request.name} has no {name} image in {request.root or DEFAULT_ROOT}. Files that are none: {told or 'no'}."
            )
    every = identity_names.classes(parts.train.images)[0]
    train = [parts.train.images[row] for row in _kept(request, every).tolist()]
    labels, names = identity_names.classes(train)
    if len(names) < 2:
        raise DatasetError(f"{request.name} has one identity to train on, {names[0]}: there is nothing to tell apart.")
    others = (*parts.gallery.images, *parts.more.images)
    searched = (*parts.query.images, *others)
    facts = survey((image.path, "image") for image in (*train, *searched))
    seen = identity_names.cameras(train, searched)
    people = identity_names.people(parts.query.images, others)
    rows = [
        _Rows([image.path for image in images], who, cameras, [image.name for image in images])
        for images, who, cameras in ((train, labels, seen[0]), (searched, people, seen[1]))
    ]
    training, validation = _splits(
        request,
        *rows,
        queries=len(parts.query.images),
        more=len(parts.more.images),
        class_names=names,
        shape=_shape(request, usual),
        workers=request.workers,
        ranges=ranges_of(facts.values()),
    )
    shared = sorted({image.identity for image in train} & {image.identity for image in searched}) if alike else []
    skipped = parts.train.skipped + parts.query.skipped + parts.gallery.skipped
    notes = (*check_searchable(validation), *_itself(validation, facts))
    files = Files(facts, skipped, notes=notes, shared=tuple(shared))
    return Dataset(request.name, training, validation, files)


def _itself(split: IdentitySplit, facts: Mapping[Path, Facts]) -> list[str]:
    """A note where a query is in the gallery, the very same file, and no camera says that it does not count."""
    said = zip(split.paths, split.identities.tolist(), split.queries.tolist(), split.gallery.tolist(), strict=True)
    row_of: dict[tuple[bytes, int], int] = {}
    copies = []
    for row, (path, who, query, searched) in enumerate(said):
        if query:
            row_of[facts[path].digest, who] = row
        other = row_of.get((facts[path].digest, who)) if searched and facts[path].digest else None
        if other is not None and (split.cameras is None or split.cameras[row] != split.cameras[other]):
            copies.append((split.names[other], split.names[row]))
    if not copies:
        return []
    return [
        f"{counted(len(copies), 'query is', 'queries are')} in the gallery, the very same file, such as {copies[0][0]} and "
        f"{copies[0][1]}: a search finds itself first"
    ]


def _splits(
    request: Request, train: _Rows, searched: _Rows, *, queries: int, more: int = 0, **common: Any
) -> tuple[IdentitySplit, IdentitySplit]:
    """The images to train on, drawn and changed as was asked, and those to search: first the queries, last more of them."""
    wanted = ("augment", "views", "per_identity", "spread")
    rows = torch.arange(len(searched.names))
    training = IdentitySplit(**train._asdict(), **common, **{name: getattr(request, name) for name in wanted})
    return training, IdentitySplit(
        **searched._asdict(), **common, queries=rows < queries, more_queries=rows >= len(rows) - more
    )


def _kept(request: Request, labels: Tensor) -> Tensor:
    """The rows of the first `classes` identities, and of these `limit` images."""
    rows = torch.arange(len(labels)) if request.classes is None else (labels < request.classes).nonzero().flatten()
    if request.classes is not None and request.classes > int(labels.max()) + 1:
        raise DatasetError(
            f"classes={request.classes}, but {request.name} has only {int(labels.max()) + 1} identities."
        )
    return request.kept(rows)


def _shape(request: Request, usual: tuple[int, int]) -> tuple[int, int]:
    size = request.size
    return usual if size is None else (size, size) if isinstance(size, int) else size


def _whole(pattern: re.Pattern[str]) -> re.Pattern[str]:
    if "identity" not in pattern.groupindex:
        raise DatasetError(
            f"pattern={pattern.pattern!r} says no identity, and train/, query/ and gallery/ have no folder an identity. Write "
            "(?P<identity>...)."
        )
    return pattern


def _home(request: Request, homes: Sequence[str], *layouts: Sequence[str]) -> tuple[Path, Sequence[str]]:
    """`root`, or a folder in it, with all folders of a layout, and which; DatasetError where there is none."""
    root = request.root or DEFAULT_ROOT
    for place in (root, *(root / home for home in homes)):
        for folders in layouts:
            if all((place / folder).is_dir() for folder in folders):
                return place, folders
    there = ", ".join(path.name for path in folders_in(root)) if root.is_dir() else ""
    needed = " or ".join(", ".join(f"{folder}/" for folder in folders) for folders in layouts)
    raise DatasetError(
        f"{request.name} is not in {root}: it has {needed}, and found is {there or 'nothing'}. Pass root=... (the folder that "
        "holds them)."
    )


def _flat(request: Request, folders: Sequence[str], *homes: str) -> _Parts:
    """A folder a part, with identity and camera in the names."""
    root, folders = _home(request, homes, folders)
    return _Parts(*(by_file(root / folder, root, pattern_of(USUAL)) for folder in folders))


def _listed(root: Path, folder: str, part: str) -> tuple[Marked, ...]:
    """The images of MSMT17's `list_PART.txt`, identities from 1: `0000/0000_000_01_0303morning_0008_0.jpg 0` is camera 01."""
    file = root / f"list_{part}.txt"
    marks = []
    for number, line in enumerate(_lines(file), 1):
        said = re.fullmatch(r"(\S*?[^/_]+_[^/_]+_(\d+)_[^/]*) (\d+)", line.strip())
        if said is None and line.strip():
            raise DatasetError(f"{file}, line {number}: {line!r} is no path of the form 0000_000_01_... with a number.")
        if said is not None:
            path = root / folder / said[1]
            marks.append(Marked(path, path.relative_to(root).as_posix(), str(int(said[3]) + 1), said[2]))
    return tuple(sorted(marks, key=lambda mark: mark.name))


def _numbered(root: Path, file: Path) -> list[Marked]:
    """The images of a list of VehicleID, vehicles from 1: `0000001 17` is `image/0000001.jpg`."""
    marks = []
    for number, line in enumerate(_lines(file), 1):
        said = re.fullmatch(r"([^\s/\\]+) (\d+)", line.strip())
        if said is None and line.strip():
            raise DatasetError(f"{file}, line {number}: {line!r} is no image with the number of its vehicle.")
        if said is not None:
            name = f"image/{said[1]}.jpg"
            marks.append(Marked(root / name, name, str(int(said[2]) + 1), None))
    twice = [name for name, count in Counter(mark.name for mark in marks).items() if count > 1]
    if twice:
        raise DatasetError(f"{file} has {twice[0]} twice. Leave one of the lines.")
    return sorted(marks, key=lambda mark: mark.name)


def _one_each(images: Sequence[Marked], draw: int) -> set[str]:
    """The name of one image of each identity, drawn at random from `draw` and the identity."""
    names: dict[str, list[str]] = {}
    for image in images:
        names.setdefault(image.identity, []).append(image.name)
    return {own[derived_seed("vehicleid", draw, who) % len(own)] for who, own in names.items()}


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise DatasetError(f"{file} is not there: it says who is on which image. Put it there.")
    return file.read_text("utf-8").splitlines()


def _told(root: Path, config: str, images: str) -> _Parts:
    """CUHK03's own file: `filelist` (1_001_1_01.png: pair, person, view, image), `labels`, and rows from 1 for each part."""
    told = require("scipy.io", purpose="the dataset cuhk03").loadmat(root / config)
    names = [str(name[0]) for name in told["filelist"].flatten()]
    people = [str(int(label)) for label in told["labels"].flatten()]
    marks = []
    for part in ("train_idx", "query_idx", "gallery_idx"):
        rows = sorted(int(row) - 1 for row in told[part].flatten())
        found = [
            Marked(root / images / names[r], f"{images}/{names[r]}", people[r], names[r].split("_")[2]) for r in rows
        ]
        marks.append(Marks(tuple(sorted(found, key=lambda mark: mark.name)), Counter()))
    return _Parts(*marks)
