"""Features and labels of a search from one file, .npz or .safetensors, whoever wrote it.

Arrays: `query` (Q, D), `gallery` (G, D), `query_identities` (Q,), `gallery_identities` (G,) and, where they are known,
`query_cameras` (Q,) and `gallery_cameras` (G,). Others are left alone. Nothing in a file is ever run: no pickles.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deepsup.errors import DatasetError
from deepsup.specs import closest, require


class Search(NamedTuple):
    """What `retrieval_scores` takes."""

    query: Tensor
    gallery: Tensor
    query_identities: Tensor
    gallery_identities: Tensor
    query_cameras: Tensor | None = None
    gallery_cameras: Tensor | None = None


NEEDED = Search._fields[:4]
# What numpy, zipfile and zlib raise on what is cut off, altered or no such file; a header may ask for any memory.
_TORN = (OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, OverflowError, SyntaxError, TypeError)
_DAMAGED = (*_TORN, zipfile.BadZipFile, zlib.error, SafetensorError)


def read_search(path: str | Path) -> Search:
    """The arrays of a file. Raises `DatasetError` for one that is missing, torn, or has not what is needed."""
    path = Path(path)
    if not path.is_file():
        raise DatasetError(f"there is no file {path} to read features from.")
    if path.suffix not in (".npz", ".safetensors"):
        raise DatasetError(
            f"{path} is neither .npz nor .safetensors. Write the arrays {', '.join(NEEDED)} to one of these."
        )
    try:
        found = _arrays(path)
    except DatasetError:
        raise
    except _DAMAGED as error:
        said = str(error).rstrip(".") or type(error).__name__
        raise DatasetError(
            f"{path} is cut off, damaged or no {path.suffix} file: {said}. Put an intact copy in its place."
        ) from None
    return Search(**found)


def _arrays(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in _known(path, file.keys())}
    numpy = require("numpy", purpose="reading an .npz file", install="deepsup[cli]")
    with path.open("rb") as file, numpy.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
        return {name: _tensor(arrays[name], path, name) for name in _known(path, arrays.files)}


def _known(path: Path, names: Iterable[str]) -> list[str]:
    """Which of the names are read. Raises `DatasetError` where one is missing, or seems to be misspelt."""
    names = set(names)
    missing = [name for name in Search._fields if name not in names]
    for name in missing:
        like = closest(name, names - set(Search._fields), cutoff=0.8)
        if name in NEEDED or like:
            there = f"There are: {', '.join(sorted(names)) or 'none'}."
            raise DatasetError(
                f"{path} has no array {name!r}.{like} {there} It needs {', '.join(NEEDED)}; cameras if known."
            )
    return [name for name in Search._fields if name in names]


def _tensor(array: Any, path: Path, name: str) -> Tensor:
    try:
        return torch.as_tensor(array.astype(array.dtype.newbyteorder("="), copy=False))
    except TypeError:
        raise DatasetError(f"{path} holds numbers; its array {name!r} is of {array.dtype}.") from None
