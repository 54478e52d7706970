"""What was found on disk, in words and as data, before anything is trained on it.

>>> data = load("folder", root="pets")                                             # doctest: +SKIP
>>> print(data.found)                                                              # doctest: +SKIP
training: 7 images (RGB), 14x20 to 33x11, values 0 to 255; 57.1 % cat, 42.9 % dog
validation: 4 images (grey), 14x20, values 2 to 255; 0 % cat, 100 % dog
served with 3 channels of 224x224
not read: 1 *.txt
note: validation has nothing of 'cat'
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from deepsup.datasets import identity_counts
from deepsup.datasets.array_split import ArraySplit
from deepsup.datasets.folder_split import FolderSplit
from deepsup.datasets.identity_split import IdentitySplit
from deepsup.datasets.image_ranges import Ranges
from deepsup.datasets.image_survey import Facts
from deepsup.datasets.label_map_split import MapSplit
from deepsup.datasets.splits import Split
from deepsup.datasets.token_split import TokenSplit
from deepsup.datasets.value_map_split import ValueMapSplit
from deepsup.specs import counted

_SAID = 10  # of many classes
_KEPT = 1000  # shares of so many classes of tokens: a vocabulary is no list to be read
_DARK = 32  # of 255: what is below that all over is hard to tell from black


@dataclass(frozen=True)
class Files:
    """What a look at the files of a data set gave: of each that is read, and how many are not, by reason."""

    facts: Mapping[Path, Facts]
    skipped: Counter[str] = field(default_factory=Counter)
    masks: str = ""  # how they are read
    notes: tuple[str, ...] = ()  # what a look at the targets gave
    shared: tuple[str, ...] = ()  # identities of training that are searched for, too


@dataclass(frozen=True)
class Part:
    """The training or the validation half."""

    images: int
    kinds: dict[str, int]  # how pixels are stored, and how often
    sizes: tuple[tuple[int, int], tuple[int, int]]  # height and width of the smallest and the largest image
    values: tuple[float, float] | None  # the smallest and the largest in the files; None where pixels were not all read
    shares: dict[str, float] | None  # of images, or of labelled pixels; None where they were not all read
    void: float  # share of the pixels, labels or numbers that do not count
    turned: int  # by their EXIF orientation
    transparent: int
    numbers: dict[str, tuple[float, float, float]] | None = None  # of real values: the smallest, mean and largest
    counted: str = "pixels"  # what `void` is a share of
    identities: dict[str, int] | None = None  # of searches: how many there are, queries, gallery, junk, ...
    classes: int | None = None  # where there are so many that `shares` has the rarest and the most frequent alone


@dataclass(frozen=True)
class Found:
    """What a data set consists of; `str` says it in lines, `to_dict` is what a journal keeps."""

    training: Part
    validation: Part
    channels: int
    served: tuple[int, int]
    skipped: dict[str, int]
    notes: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """All of it in words."""
        height, width = self.served
        skipped = [f"{count} {reason}" for reason, count in self.skipped.items()]
        return [
            f"training: {_said(self.training)}",
            f"validation: {_said(self.validation)}",
            f"{self.channels} symbols, sequences of {width}"
            if self.training.counted == "tokens"
            else f"served with {self.channels} channel{'s' if self.channels > 1 else ''} of {height}x{width}",
            *([f"not read: {', '.join(skipped)}"] if skipped else []),
            *(f"note: {note}" for note in self.notes),
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def to_dict(self) -> dict[str, Any]:
        """Numbers and words that JSON can hold."""
        return asdict(self) | {"lines": self.lines}


def found(train: Split, validation: Split, files: Files | None = None) -> Found:
    """What these splits consist of; `files` is what a look at their files gave."""
    seen = files or Files({})
    sides = [_part(split, seen.facts) for split in (train, validation)]
    return Found(
        sides[0],
        sides[1],
        channels=train.channels,
        served=train.shape,
        skipped={reason: count for reason, count in seen.skipped.items() if count},
        notes=tuple(_notes(train, validation, sides, seen)),
    )


def paths_of(split: Split) -> list[Path]:
    """The image files of a split, none of one in memory."""
    if isinstance(split, MapSplit):
        return [split.file(index) for index in range(split.n_images)]
    return list(split.paths) if isinstance(split, (FolderSplit, ValueMapSplit, IdentitySplit)) else []


def _part(split: Split, facts: Mapping[Path, Facts]) -> Part:
    seen = [facts[path] for path in paths_of(split) if path in facts]
    sizes = sorted((one.size for one in seen), key=lambda size: size[0] * size[1]) or [split.shape]
    return Part(
        images=split.n_images,
        kinds=dict(Counter(one.kind for one in seen)),
        sizes=(sizes[0], sizes[-1]),
        values=_values(split, seen),
        turned=sum(one.turned for one in seen),
        transparent=sum(one.transparent for one in seen),
        **_of_targets(split),
    )


def _of_targets(split: Split) -> dict[str, Any]:
    if isinstance(split, IdentitySplit):
        return {"shares": None, "void": 0.0, "counted": "images", "identities": identity_counts.counts(split)}
    if isinstance(split, ValueMapSplit):
        ends = (split.low, split.mean_value, split.high)
        numbers = {n: tuple(part) for n, *part in zip(split.class_names, *(e.tolist() for e in ends), strict=True)}
        places = len(split) * split.classes * split.shape[0] * split.shape[1]
        return {"shares": None, "void": 1 - int(split.known.sum()) / places, "counted": "values", "numbers": numbers}
    if isinstance(split, TokenSplit):
        return _of_tokens(split)
    return _of_columns(split) if isinstance(split, FolderSplit) and split.labels.ndim == 2 else _of_classes(split)


def _of_tokens(split: TokenSplit) -> dict[str, Any]:
    """The shares of classes among the labels that count, of very many the ends alone, and of tokens that do not count."""
    shares = _of_classes(split)["shares"]
    void, classes = 1 - float(split.tokens.counted.double().mean()), None
    if len(shares) > _KEPT:
        ends = min(shares, key=shares.get), max(shares, key=shares.get)
        shares, classes = {name: shares[name] for name in ends}, len(shares)
    return {"shares": shares, "classes": classes, "void": void, "counted": "tokens"}


def _of_classes(split: Split) -> dict[str, Any]:
    """The shares of classes, and of what has none."""
    counts = _counts(split)
    labelled = int(counts[: split.classes].sum()) if counts is not None else 0
    shares = None
    if counts is not None and labelled:
        shares = {name: int(n) / labelled for name, n in zip(split.class_names, counts.tolist(), strict=False)}
    return {"shares": shares, "void": 1 - labelled / max(1, int(counts.sum())) if counts is not None else 0.0}


def _of_columns(split: FolderSplit) -> dict[str, Any]:
    """The share of images that each label is at, or the range of each number, of those that are known."""
    known = {n: c[~c.isnan()].double() for n, c in zip(split.class_names, split.labels.T, strict=True)}
    void, of = float(split.labels.isnan().double().mean()), split.task
    if of == "labels":
        shares = {name: float(column.mean()) if len(column) else 0.0 for name, column in known.items()}
        return {"shares": shares, "void": void, "counted": of}
    numbers = {n: (float(c.min()), float(c.mean()), float(c.max())) for n, c in known.items() if len(c)}
    return {"shares": None, "void": void, "counted": of, "numbers": numbers}


def _counts(split: Split) -> torch.Tensor | None:
    """How many images, or pixels, each label has."""
    if isinstance(split, (MapSplit, TokenSplit)):
        return split.counts()
    labels = getattr(split, "labels", None)
    return None if labels is None else torch.bincount(labels, minlength=split.classes)


def _values(split: Split, seen: Sequence[Facts]) -> tuple[float, float] | None:
    if isinstance(split, ArraySplit):
        return float(split.images.min()), float(split.images.max())
    extremes = [one.extremes for one in seen if one.extremes]
    if not seen or len(extremes) < len(seen):
        return None
    return min(one.low for one in extremes), max(one.high for one in extremes)


def _said(part: Part) -> str:
    kinds = [kind if len(part.kinds) == 1 else f"{count} {kind}" for kind, count in part.kinds.items()]
    (low, wide), (high, wider) = part.sizes
    sizes = f"{low}x{wide}" + (f" to {high}x{wider}" if part.sizes[0] != part.sizes[1] else "")
    values = f", values {part.values[0]:g} to {part.values[1]:g}" if part.values else ""
    odd = {"turned as EXIF says": part.turned, "with transparency, laid on black": part.transparent}
    more = "".join(f", {count} {what}" for what, count in odd.items() if count)
    shares = (
        _shares(part.shares, part.classes)
        if part.shares
        else "shares of classes not counted: too many to be kept in memory"
    )
    shares = _numbers(part.numbers) if part.numbers else shares
    shares = identity_counts.said(part.identities) if part.identities else shares
    blank = {"pixels": "void", "tokens": "not counted"}.get(part.counted, "not known")
    void = f"; {100 * part.void:.3g} % of the {part.counted} are {blank}" if part.void else ""
    if part.counted == "tokens":
        return f"{counted(part.images, 'sequence')} of {wide} tokens; {shares}{void}"
    images = f"{part.images} image{'s' if part.images > 1 else ''}"
    stored = f" ({', '.join(kinds)})" if kinds else ""
    return f"{images}{stored}, {sizes}{values}{more}; {shares}{void}"


def _numbers(numbers: Mapping[str, tuple[float, float, float]]) -> str:
    told = [f"{name} {low:.4g} to {high:.4g} (mean {mean:.4g})" for name, (low, mean, high) in numbers.items()]
    return ", ".join(told[:_SAID]) + (f" and {len(told) - _SAID} more" if len(told) > _SAID else "")


def _shares(shares: Mapping[str, float], classes: int | None = None) -> str:
    """Of many classes the rarest and the most frequent alone; `classes` is how many there are, if these are not all."""
    told = [f"{100 * share:.3g} % {name}" for name, share in shares.items()]
    if len(told) <= _SAID and classes is None:
        return ", ".join(told)
    ordered = sorted(shares, key=lambda name: shares[name])
    ends = [f"{100 * shares[name]:.3g} % {name}" for name in (ordered[0], ordered[-1])]
    return f"{classes or len(told)} classes, from {ends[0]} to {ends[1]}"


def _notes(train: Split, validation: Split, sides: Sequence[Part], files: Files) -> list[str]:
    """What a reader should know, and what should make one doubt."""
    notes = [*([files.masks] if files.masks else []), *files.notes]
    if files.shared:
        who = counted(len(files.shared), "identity is", "identities are")
        notes.append(
            f"{who} in training and test alike, such as {files.shared[0]}: the score is not that of people who were never seen"
        )
    ranges: Ranges = getattr(train, "ranges", Ranges())
    if ranges != Ranges():
        notes.append(f"{ranges}, and become bytes")
    absent = [name for name, share in (sides[1].shares or {}).items() if not share and sides[1].classes is None]
    if absent:
        few = ", ".join(map(repr, absent[:_SAID])) + (", ..." if len(absent) > _SAID else "")
        notes.append(f"validation has nothing of {few}")
    for name, part in zip(("training", "validation"), sides, strict=True):
        if ranges == Ranges() and part.kinds and part.values and part.values[1] < _DARK:
            notes.append(f"no value in the {name} images is above {part.values[1]:g} of 255: they are all but black")
    return notes + _twice(paths_of(train), paths_of(validation), files.facts)


def _twice(train: Sequence[Path], validation: Sequence[Path], facts: Mapping[Path, Facts]) -> list[str]:
    """Files with the same bytes, and of one folder those with the same name but for the suffix."""
    notes = []
    trained, scored = _by_bytes(train, facts), _by_bytes(validation, facts)
    shared = [(trained[digest][0], path) for digest, paths in scored.items() if digest in trained for path in paths]
    if shared:
        notes.append(
            f"{len(shared)} of {len(validation)} validation images are training images too, such as {shared[0][1]} and "
            f"{shared[0][0]}: the score is not that of new images"
        )
    copies = [paths for paths in trained.values() if len(paths) > 1]
    if copies:
        extra = sum(len(paths) - 1 for paths in copies)
        notes.append(f"{extra} training images are copies of others, such as {copies[0][0]} and {copies[0][1]}")
    named = defaultdict(list)
    for path in (*train, *validation):
        named[path.with_suffix("")].append(path)
    alike = [paths for paths in named.values() if len(paths) > 1]
    if alike:
        notes.append(f"{len(alike)} names are there with two suffixes, such as {alike[0][0]} and {alike[0][1].name}")
    return notes


def _by_bytes(paths: Iterable[Path], facts: Mapping[Path, Facts]) -> dict[bytes, list[Path]]:
    grouped = defaultdict(list)
    for path in paths:
        if path in facts and facts[path].digest:
            grouped[facts[path].digest].append(path)
    return dict(grouped)
