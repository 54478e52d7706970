"""Arrays of numbers by name from one file, .npz or .safetensors, whoever wrote it. Nothing in a file is ever run: no pickles."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from deepsup.errors import DatasetError
from deepsup.specs import closest, require

SUFFIXES = (".npz", ".safetensors")
# What numpy, zipfile and zlib raise on what is cut off, altered or no such file; a header may ask for any memory.
_TORN = (OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, OverflowError, SyntaxError, TypeError)
_DAMAGED = (*_TORN, zipfile.BadZipFile, zlib.error, SafetensorError)


@dataclass(frozen=True)
class Wanted:
    """The names of the arrays that are read, those that must be there, what they are, and what a file needs in words."""

    names: tuple[str, ...]
    needed: tuple[str, ...]
    what: str
    needs: str

    def read(self, path: str | Path) -> dict[str, Tensor]:
        """The arrays of a file by name; others are left alone.

        Raises `DatasetError` for a file that is missing, torn, or has not what is needed.
        """
        path = Path(path)
        if not path.is_file():
            raise DatasetError(f"there is no file {path} to read {self.what} from.")
        if path.suffix not in SUFFIXES:
            raise DatasetError(
                f"{path} is neither .npz nor .safetensors. Write the arrays {', '.join(self.needed)} to one of these."
            )
        try:
            return self._arrays(path)
        except DatasetError:
            raise
        except _DAMAGED as error:
            said = str(error).rstrip(".") or type(error).__name__
            raise DatasetError(
                f"{path} is cut off, damaged or no {path.suffix} file: {said}. Put an intact copy in its place."
            ) from None

    def _arrays(self, path: Path) -> dict[str, Tensor]:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in self._known(path, file.keys())}
        numpy = require("numpy", purpose="reading an .npz file", install="deepsup[cli]")
        with path.open("rb") as file, numpy.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
            return {name: _tensor(arrays[name], path, name) for name in self._known(path, arrays.files)}

    def _known(self, path: Path, found: Iterable[str]) -> list[str]:
        """Which of the names are read. Raises `DatasetError` where one is missing, or seems to be misspelt."""
        there = set(found)
        for name in (name for name in self.names if name not in there):
            like = closest(name, there - set(self.names), cutoff=0.8)
            if name in self.needed or like:
                listed = f"There are: {', '.join(sorted(there)) or 'none'}."
                raise DatasetError(f"{path} has no array {name!r}.{like} {listed} It needs {self.needs}.")
        return [name for name in self.names if name in there]


def _tensor(array: Any, path: Path, name: str) -> Tensor:
    try:
        return torch.as_tensor(array.astype(array.dtype.newbyteorder("="), copy=False))
    except TypeError:
        raise DatasetError(f"{path} holds numbers; its array {name!r} is of {array.dtype}.") from None
