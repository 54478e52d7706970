"""Which files in a folder are images: regular files with an image's suffix, each once; the others are counted by reason."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from deepsup.datasets.image_files import SUFFIXES
from deepsup.errors import DatasetError

_OF_SYSTEMS = {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN"}
HIDDEN = "hidden"
IRREGULAR = "no regular file"
FOLDER = "folder within"
AGAIN = "the same file again, through a link"
BESIDE = "beside the class folders"


class Listing(NamedTuple):
    """Image files, those of a folder before those of the folders in it, and how many others there are, by reason."""

    files: tuple[Path, ...]
    skipped: Counter[str]


def listed(folder: Path, *, below: bool = False, suffixes: Collection[str] = SUFFIXES) -> Listing:
    """The image files in a folder; with `below` also in all folders in it, and each file once, whatever links lead to it.

    Hidden files and folders (`._0.png`, `.DS_Store`, `__MACOSX`) are none, nor are pipes, sockets and devices. A link to
    nothing is listed, so that reading it fails. DatasetError for a link back to a folder that it lies in.
    """
    skipped: Counter[str] = Counter()
    seen: dict[str, Path] = {}
    for path in _walked(folder, (os.path.realpath(folder),), skipped, below=below, suffixes=suffixes):
        if seen.setdefault(os.path.realpath(path) if below else str(path), path) is not path:
            skipped[AGAIN] += 1
    return Listing(tuple(sorted(seen.values(), key=lambda path: (str(path.parent), path.name))), skipped)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of that name is none of the user's."""
    return name.startswith(".") or name in _OF_SYSTEMS


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in a folder, sorted by name; hidden ones do not count."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))


def _walked(
    folder: Path, chain: tuple[str, ...], skipped: Counter[str], *, below: bool, suffixes: Collection[str]
) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name):
            skipped[HIDDEN] += 1
        elif path.is_dir() and below:
            yield from _walked(path, _lengthened(chain, path), skipped, below=True, suffixes=suffixes)
        elif path.is_dir():
            skipped[FOLDER] += 1
        elif path.suffix.lower() not in suffixes:
            skipped[f"*{path.suffix}" if path.suffix else "without a suffix"] += 1
        elif path.exists() and not path.is_file():
            skipped[IRREGULAR] += 1
        else:
            yield path


def _lengthened(chain: tuple[str, ...], path: Path) -> tuple[str, ...]:
    """The folders that lead to a folder, resolved, and itself."""
    real = os.path.realpath(path)
    if real in chain:
        raise DatasetError(
            f"{path} leads through a link back to {real}, which it lies in: its images would be found again and again. "
            "Remove the link, or let it lead to a folder outside."
        )
    return (*chain, real)
