"""Who is on an image and which camera took it, as names of files or folders say it, and as numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from deepsup.datasets.image_listing import BESIDE, folders_in, listed
from deepsup.errors import ConfigError, DatasetError
from deepsup.specs import counted

USUAL = (
    r"(?P<identity>-?\d+)_c(?P<camera>\d+)"  # 0002_c1s1_000451_03.jpg, 0005_c2_f0046985.jpg, 0001_c001_00016450_0.jpg
)
CAMERA = r"(?:.*?_)?c(?P<camera>\d+)"  # where folders say who it is
IDENTITY = r"(?P<identity>-?\d+)(?!\d)"  # where no camera is asked for
JUNK, NOBODY = -1, 0
_SAID = 3


class Marked(NamedTuple):
    """An image file with what is said of it; `name` is its path from the data set's folder."""

    path: Path
    name: str
    identity: str
    camera: str | None


class Marks(NamedTuple):
    """Those of a folder, in the order of their paths; what is no image, counted."""

    images: tuple[Marked, ...]
    skipped: Counter[str]


def pattern_of(text: str) -> re.Pattern[str]:
    """A pattern of file names. Raises `ConfigError` for one that names neither identity nor camera."""
    try:
        made = re.compile(text)
    except re.error as error:
        raise ConfigError(f"pattern={text!r} is no regular expression: {error}.") from None
    if not {"identity", "camera"} & set(made.groupindex):
        raise ConfigError(f"pattern={text!r} names nothing. Write groups (?P<identity>...) and (?P<camera>...).")
    return made


def by_file(folder: Path, root: Path, pattern: re.Pattern[str]) -> Marks:
    """The images of a folder, with what the beginning of each name says; DatasetError for names that say nothing."""
    found = listed(folder)
    seen = [(path, _said_in(path.name, pattern)) for path in found.files]
    _check([path.name for path, said in seen if not said], of=len(seen), folder=folder, pattern=pattern.pattern)
    marks = [Marked(path, _name(path, root), said["identity"], said.get("camera")) for path, said in seen]
    return Marks(tuple(marks), found.skipped)


def by_folder(folder: Path, root: Path, pattern: re.Pattern[str] | None, *, asked: bool) -> Marks:
    """The images in a folder's folders, which say who it is; the camera is in file names, or nowhere unless it is `asked`, or
    nobody's concern without a pattern.
    """
    skipped = Counter({BESIDE: len(listed(folder).files)})
    marks: list[Marked] = []
    silent: list[str] = []
    for place in folders_in(folder):
        found = listed(place, below=True)
        skipped += found.skipped
        for path in found.files:
            camera = _said_in(path.name, pattern).get("camera") if pattern else None
            silent += [] if camera else [path.name]
            marks.append(Marked(path, _name(path, root), place.name, camera))
    if pattern and (asked or len(silent) < len(marks)):
        _check(silent, of=len(marks), folder=folder, pattern=pattern.pattern)
    return Marks(tuple(marks), skipped)


def _said_in(name: str, pattern: re.Pattern[str]) -> dict[str, str]:
    """What the groups of a pattern are at the beginning of a name; nothing unless all of them are there."""
    match = pattern.match(name)
    said = match.groupdict() if match else {}
    return {} if None in said.values() else said


def _check(silent: Sequence[str], *, of: int, folder: Path, pattern: str) -> None:
    if silent:
        raise DatasetError(
            f"{len(silent)} of {counted(of, 'image')} in {folder} have names of another form than {pattern}, such as "
            f"{', '.join(silent[:_SAID])}. Only file names are read, from their beginning; rename them, or set a pattern "
            "of your own: identities(pattern='(?P<identity>...)_(?P<camera>...)'); identities(cameras=False) needs no camera."
        )


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def classes(images: Sequence[Marked]) -> tuple[Tensor, list[str]]:
    """Training identities as classes from 0, and their names, sorted; DatasetError for junk, nobody, and one under two names."""
    _check_somebody(images, "training")
    names = _sorted({image.identity for image in images})
    _check_apart(names)
    at = {name: number for number, name in enumerate(names)}
    return torch.tensor([at[image.identity] for image in images]), names


def people(query: Sequence[Marked], others: Sequence[Marked]) -> Tensor:
    """Identities of queries, then of other images: -1 junk, 0 a distractor, else their own numbers, or by sorted name from 1."""
    _check_somebody(query, "query")
    names = _sorted({image.identity for image in (*query, *others)})
    _check_apart(names)
    somebody = [name for name in names if not _is_none(name)]
    whole = all(_number(name) is not None for name in somebody)
    at = {name: _number(name) if whole else number for number, name in enumerate(somebody, 1)}
    return torch.tensor([at.get(i.identity, _number(i.identity)) for i in (*query, *others)], dtype=torch.int64)


def cameras(*parts: Sequence[Marked]) -> list[Tensor | None]:
    """Of each part the cameras as numbers, the same for all; None where no name says them. DatasetError where some do."""
    for part in parts:
        without = [image.path for image in part if image.camera is None]
        if without and len(without) < len(part):
            raise DatasetError(
                f"cameras are of all searched images, or of none: {len(without)} of {len(part)} have none in their names, "
                f"such as {without[0]}. Name them, or set identities(cameras=False)."
            )
    said = {image.camera for part in parts for image in part if image.camera is not None}
    names = _sorted(said)
    whole = all(_number(name) is not None for name in names)
    at = {name: _number(name) if whole else number for number, name in enumerate(names, 1)}
    known = [[at[image.camera] for image in part if image.camera is not None] for part in parts]
    return [torch.tensor(numbers, dtype=torch.int64) if numbers else None for numbers in known]


def _sorted(names: Iterable[str]) -> list[str]:
    """By number where all are numbers, else as texts."""
    listed_ = sorted(names)
    return sorted(listed_, key=int) if all(_number(name) is not None for name in listed_) else listed_


def _number(name: str) -> int | None:
    return int(name) if re.fullmatch(r"-?[0-9]+", name) else None


def _is_none(name: str) -> bool:
    number = _number(name)
    return number is not None and number <= NOBODY


def _check_somebody(images: Sequence[Marked], part: str) -> None:
    wrong = [image for image in images if _is_none(image.identity)]
    if wrong:
        raise DatasetError(
            f"{len(wrong)} of the {part} images are of nobody, such as {wrong[0].path}: its identity is {wrong[0].identity}, and "
            f"-1 (junk) and 0 (a distractor) are for the gallery. Take them out; where people are numbered from 0, add 1."
        )


def _check_apart(names: Sequence[str]) -> None:
    """Raise where two names are one number, or one is below -1."""
    seen: dict[int | str, str] = {}
    for name in names:
        number = _number(name)
        if number is not None and number < JUNK:
            raise DatasetError(
                f"identity {name!r} is no number of an identity: -1 is junk, 0 a distractor, others 1 and up."
            )
        other = seen.setdefault(name if number is None else number, name)
        if other != name:
            raise DatasetError(f"the identities {other!r} and {name!r} have one number. Write both alike.")
