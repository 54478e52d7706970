"""Which classes masks of one's own have, by `classes.txt` or counted, and which number or colour stands for which.

- Line 1 of `classes.txt` names number 0, line 2 number 1, and so on. A line called `void` is of what does not count.
- With colours (`name red green blue`) masks in colours, those with a palette too, are read by colour.
- Without them a palette of greys is its greys, as if the mask were grey. Of any other palette the number of the entry
  counts, which must have the same colour in all masks.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deepsup.datasets.image_files import opened
from deepsup.datasets.image_survey import gathered
from deepsup.datasets.mask_files import MOST_CLASSES, VOID, Colour, MaskReader, numbers_in, palette_of
from deepsup.errors import DatasetError, stacklevel

VOID_NAME = "void"
_OBJECTS = 8  # in one mask, from which on they are doubted to be classes
_MANY, _GAPS = 10, 3  # as many classes, of which fewer than a third occur, are doubted
_OBJECTS_HINT = "If the numbers tell objects apart, not kinds of them (instance masks), give every kind one number."
_RULE = "Line 1 of classes.txt names number 0, line 2 number 1, and so on; a line called void is of what does not count"


class DoubtfulClassesWarning(UserWarning):
    """The classes that were counted in masks look like something else: objects, or greys."""


class Line(NamedTuple):
    """One line of `classes.txt`."""

    name: str
    colour: Colour | None = None


class Seen(NamedTuple):
    """What is in a mask: its numbers, none where it is read by colour, and the palette that they are from."""

    path: Path
    numbers: frozenset[int]
    palette: tuple[Colour, ...] | None = None
    by_colour: bool = False

    @property
    def used(self) -> dict[int, Colour]:
        """The palette's entries that occur."""
        return {number: self.palette[number] for number in self.numbers} if self.palette else {}

    @property
    def is_grey(self) -> bool:
        """Whether it has a palette of greys alone, a different one for each number that occurs."""
        greys = all(red == green == blue for red, green, blue in self.palette or ())
        return greys and len(set(self.used.values())) == len(self.numbers)


class Classes(NamedTuple):
    """Names of the classes and their colours, and what reads their masks."""

    names: tuple[str, ...]
    colours: tuple[Colour, ...] | None
    masks: MaskReader


def classes_of(masks: Sequence[Path], file: Path, *, void: int | None, lines: Sequence[Line] | None = None) -> Classes:
    """The classes of these masks; `file` is `classes.txt`, which may be missing, `void` the number that does not count, and
    `lines` what the file says, where that is known already.

    Raises DatasetError where nothing says which number or colour means what, and warns of numbers that look like objects.
    """
    lines = lines_in(file) if lines is None and file.is_file() else lines
    colours = tuple(line.colour for line in lines or () if line.colour)
    seen = _look(masks, MaskReader({}, classes=0, colours=colours or None))
    if greys := _have_grey_palettes(seen):
        seen = [one._replace(numbers=frozenset(colour[0] for colour in one.used.values())) if one.palette else one
                for one in seen]  # fmt: skip
    found = [number for one in seen for number in one.numbers if number != void]
    if lines is None:
        lines = _counted(seen, void=void)
    numbers = _numbered(lines, file, void=void, largest=max(found, default=None))
    kept = [line for number, line in numbers if line.name != VOID_NAME]
    if not 2 <= len(kept) <= MOST_CLASSES:
        raise DatasetError(f"{file} names {len(kept)} classes; there must be from 2 to {MOST_CLASSES}.")
    table = {} if void is None else {void: VOID}
    table |= {number: VOID if line.name == VOID_NAME else kept.index(line) for number, line in numbers}
    ordered = [*kept, *(line for _, line in numbers if line.name == VOID_NAME)]
    reader = MaskReader(
        table,
        classes=len(kept),
        colours=tuple(line.colour for line in ordered if line.colour) or None,
        grey_palettes=greys,
        rule=_RULE if file.is_file() else "",
    )
    doubtful = [one.path for one in seen if one.by_colour or not one.numbers <= table.keys()]
    gathered(reader.read, doubtful, what="masks")  # which says what is no label, and where
    return Classes(tuple(line.name for line in kept), reader.colours and reader.colours[: len(kept)], reader)


def lines_in(path: Path) -> list[Line]:
    """The lines of `classes.txt`: `name`, or `name red green blue`; DatasetError for what is neither, or there twice."""
    try:
        told = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise DatasetError(f"{path} is not written in UTF-8. Save it so.") from None
    texts = [line.strip() for line in told.splitlines() if line.strip()]
    found = [re.fullmatch(r"(.+?)((?:\s+\d+){3})?", text) for text in texts]
    lines = [Line(match[1], _colour(match[2].split(), path) if match[2] else None) for match in found if match]
    coloured = [line.colour is not None for line in lines]
    if any(coloured) and not all(coloured):
        missing = next(line.name for line in lines if line.colour is None)
        raise DatasetError(
            f"{path} gives colours to some classes and none to {missing!r}. Give all of them one, or none."
        )
    if len({line.name for line in lines}) != len(lines) or (
        any(coloured) and len({line.colour for line in lines}) != len(lines)
    ):
        raise DatasetError(f"{path} has a name or a colour twice. Every class needs its own.")
    return lines


def _colour(parts: Sequence[str], path: Path) -> Colour:
    red, green, blue = map(int, parts)
    if max(red, green, blue) > 255:
        raise DatasetError(f"{path} has the colour {red} {green} {blue}; its parts must be from 0 to 255.")
    return red, green, blue


def _look(masks: Sequence[Path], reader: MaskReader) -> list[Seen]:
    """What is in every mask."""

    def look(path: Path) -> Seen:
        mask = opened(path, "mask")
        if reader.is_by_colour(mask):
            return Seen(path, frozenset(), by_colour=True)
        return Seen(path, frozenset(np.unique(numbers_in(mask)).tolist()), palette_of(mask))

    return gathered(look, masks, what="masks")


def _have_grey_palettes(seen: Iterable[Seen]) -> bool:
    """Whether all palettes are of greys; DatasetError where they are not, and one number has two colours."""
    palettes = [one for one in seen if one.palette]
    if palettes and all(one.is_grey for one in palettes):
        return True
    first: dict[int, Seen] = {}
    for one in palettes:
        for number, colour in one.used.items():
            other = first.setdefault(number, one)
            if other.used[number] != colour:
                raise DatasetError(
                    f"the masks {other.path} and {one.path} have palettes in which number {number} is the colour "
                    f"{other.used[number]} and {colour}: the number of an entry is no class. Name the colours in classes.txt "
                    "beside train/ and val/ (for each class a line: name red green blue), and masks are read by colour."
                )
    return False


def _numbered(lines: Sequence[Line], file: Path, *, void: int | None, largest: int | None) -> list[tuple[int, Line]]:
    """Every line with its number; the line of the number that does not count is called void.

    Such a line may be missing, or have a name of its own: the largest number in the masks tells which, or DatasetError.
    """
    if void is None or void >= len(lines) or largest is None:
        return list(enumerate(lines))
    if any(line.name == VOID_NAME for line in lines):
        if lines[void].name != VOID_NAME:
            raise DatasetError(
                f"void={void} is the number of line {void + 1} of {file}, {lines[void].name!r}, and another line is called "
                f"void. {_RULE}."
            )
        return list(enumerate(lines))
    if largest >= len(lines):  # one line less than there are numbers
        return list(zip([number for number in range(len(lines) + 1) if number != void], lines, strict=True))
    if largest < len(lines) - 1:
        raise DatasetError(
            f"void={void}, and {file} has {len(lines)} lines for numbers up to {largest}: nothing says whether line "
            f"{void + 1}, {lines[void].name!r}, is that of number {void}, which does not count. Call the line of number "
            f"{void} void. {_RULE}."
        )
    return [(number, Line(VOID_NAME, line.colour) if number == void else line) for number, line in enumerate(lines)]


def _counted(seen: Sequence[Seen], *, void: int | None) -> list[Line]:
    """A line for every number up to the largest in any mask, called by it."""
    numbers = sorted({number for one in seen for number in one.numbers})
    counted = [number for number in numbers if number != void]
    where = seen[0].path.parent
    last = max(seen, key=lambda one: max(one.numbers - {void}, default=-1))
    if counted and counted[-1] > MOST_CLASSES:
        raise DatasetError(
            f"the mask {last.path} holds {counted[-1]}: more than {MOST_CLASSES} classes do not fit into a byte. Number "
            f"them from 0, and write one name a line into classes.txt. {_OBJECTS_HINT}"
        )
    if len(numbers) == 2 and numbers[1] - numbers[0] > 1:
        low, high = numbers
        raise DatasetError(
            f"the masks of {where} hold {low} and {high} alone. If those are two classes, write their colours into "
            f"classes.txt beside train/ and val/: the lines 'background {low} {low} {low}' and 'object {high} {high} {high}'."
        )
    if not counted or counted == [0] or (void is not None and len(counted) == 1):
        raise DatasetError(f"the masks of {where} hold one label alone, so that there is nothing to learn.")
    _doubt(seen, counted, last.path, void=void)
    return [Line(VOID_NAME if number == void else str(number)) for number in range(counted[-1] + 1)]


def _doubt(seen: Sequence[Seen], counted: Sequence[int], last: Path, *, void: int | None) -> None:
    """Warn where numbers look like objects, or like greys."""
    tops = [max(one.numbers - {0, void}, default=0) for one in seen]
    in_a_row = all(
        one.numbers - {0, void} == set(range(1, top + 1)) - {void} for one, top in zip(seen, tops, strict=True)
    )
    classes = counted[-1] + 1 - (void is not None and void < counted[-1])
    if in_a_row and max(tops) >= _OBJECTS and len(set(tops)) > 1:
        doubt = f"In every mask they run from 1 without a gap, up to {min(tops)} in one, as numbers of objects do."
    elif counted[-1] >= _MANY and len(counted) * _GAPS < counted[-1]:
        doubt = f"Only {len(counted)} different ones occur, as where greys or objects are meant."
    else:
        return
    warnings.warn(
        f"{classes} classes were counted: the largest number in the masks is {counted[-1]}, in {last}. {doubt} "
        f"{_OBJECTS_HINT} If they are classes, write one name a line into classes.txt.",
        DoubtfulClassesWarning,
        stacklevel=stacklevel(),
    )
