"""A look at every file before anything is trained: does it open, and what is in it?

Files of up to 256 MiB together are read pixel by pixel. Of more, beginnings and ends alone are looked at, which finds what is
no image, empty, or cut off; images of more than 8 bits are read all the same, since their range is in their pixels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from deepsup.datasets.image_files import Opened, header, opened
from deepsup.datasets.image_ranges import Extremes, Ranges, fitted
from deepsup.errors import DatasetError

T = TypeVar("T")
R = TypeVar("R")

READ = 2**28  # bytes of files
_SAID = 3  # of files that cannot be read
_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
_TAIL = 4096
_MODES = {
    "1": "1-bit",
    "L": "grey",
    "P": "palette",
    "I": "32-bit grey",
    "F": "floats",
    "LA": "grey with transparency",
    "RGBA": "RGB with transparency",
}


class Facts(NamedTuple):
    """What was seen in a file; `extremes` is None where its pixels were not read."""

    path: Path
    kind: str  # how pixels are stored
    size: tuple[int, int]  # height and width, as served
    turned: bool  # by its EXIF orientation
    transparent: bool
    extremes: Extremes | None
    deep: bool  # more than 8 bits
    digest: bytes  # of all its bytes; empty where they were not read


def survey(files: Iterable[tuple[Path, str]], *, read: int = READ) -> dict[Path, Facts]:
    """What is in each file, on all cores; each comes with what it is ("image", "mask").

    Raises one DatasetError for all that cannot be read: how many, and the first few with their reasons.
    """
    wanted = list(files)
    whole = sum(_bytes(path) for path, _ in wanted) <= read
    found = gathered(lambda file: _looked_at(*file, whole=whole), wanted, what="files")
    return {one.path: one for one in found}


def gathered(function: Callable[[T], R], items: Sequence[T], *, what: str) -> list[R]:
    """What a function gives for each item, on all cores; one DatasetError for all that it raises."""

    def tried(item: T) -> R | DatasetError:
        try:
            return function(item)
        except DatasetError as error:
            return error

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        found = list(pool.map(tried, items))
    raise_together([one for one in found if isinstance(one, DatasetError)], of=len(items), what=what)
    return [one for one in found if not isinstance(one, DatasetError)]


def ranges_of(facts: Iterable[Facts]) -> Ranges:
    """Which value is white in images of more than 8 bits; DatasetError where nothing says it."""
    return fitted(one.extremes for one in facts if one.extremes and one.deep)


def raise_together(errors: Sequence[DatasetError], *, of: int, what: str) -> None:
    """Raise the only error as it is, several as one that has the first of them."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        shown = "".join(f"\n- {error}" for error in errors[:_SAID])
        more = f"\n- and {len(errors) - _SAID} more" if len(errors) > _SAID else ""
        raise DatasetError(f"{len(errors)} of {of} {what} cannot be used:{shown}{more}")


def _looked_at(path: Path, what: str, *, whole: bool) -> Facts:
    _check_name(path, what)
    begun = None if whole else header(path, what)
    seen = begun is not None and not _is_deep(begun) and _ends(begun)
    file = begun if begun is not None and seen else opened(path, what)
    if what == "image":
        file.check_kind()
    return _facts(file, None if seen else file.extremes, digest=whole)


def _check_name(path: Path, what: str) -> None:
    """Names are written into journals and reports, which are UTF-8."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise DatasetError(f"the name of the {what} {os.fsencode(path)!r} is not UTF-8. Rename it.") from None


def _facts(file: Opened, extremes: Extremes | None, *, digest: bool = False) -> Facts:
    digested = hashlib.blake2b(file.path.read_bytes(), digest_size=16).digest() if digest else b""
    mode = str(file.image.mode)
    kind = "16-bit colours" if file.is_cut else "16-bit grey" if mode.startswith("I;16") else _MODES.get(mode, mode)
    return Facts(
        file.path, kind, file.size, file.orientation != 1, file.is_transparent, extremes, _is_deep(file), digested
    )


def _is_deep(file: Opened) -> bool:
    return file.is_deep or file.is_cut


def _ends(file: Opened) -> bool:
    """Whether a file has the end of its format near its end; of formats that have none nothing is known."""
    mark = _ENDS.get(file.image.format)
    if mark is None:
        return False
    with file.path.open("rb") as stream:
        stream.seek(max(0, _bytes(file.path) - _TAIL))
        return mark in stream.read()


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
