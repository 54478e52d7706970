"""Readers of published files: IDX (MNIST, Fashion-MNIST), CIFAR's batches, SVHN. Only published bytes are unpickled."""

from __future__ import annotations

import gzip
import hashlib
import importlib
import math
import pickle
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepsup.errors import DatasetError

_IDX_UNSIGNED_BYTE = 8


def read_idx(path: Path, *, dimensions: int) -> Tensor:
    """Read an IDX file of unsigned bytes, gzipped or not, as a uint8 tensor with that many dimensions.

    Example: `read_idx(Path("train-labels-idx1-ubyte.gz"), dimensions=1)`. Raises DatasetError when the file is no
    IDX file of that kind, or is shorter or longer than its header says.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path} is damaged ({error}). Delete it and get it again.") from None
    start = 4 * (dimensions + 1)
    if len(raw) < start or raw[:4] != bytes([0, 0, _IDX_UNSIGNED_BYTE, dimensions]):
        raise DatasetError(
            f"{path} is no IDX file of unsigned bytes in {dimensions} dimensions: it starts with "
            f"{raw[:4].hex() or 'nothing'}. Delete it and get it again."
        )
    shape = [int.from_bytes(raw[at : at + 4], "big") for at in range(4, start, 4)]
    if len(raw) - start != math.prod(shape):
        raise DatasetError(
            f"{path} is damaged: its header promises {'x'.join(map(str, shape))} bytes, {len(raw) - start} follow. "
            f"Delete it and get it again."
        )
    if not math.prod(shape):
        raise DatasetError(f"{path} is empty: its header says {'x'.join(map(str, shape))}.")
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=start).view(shape)


def read_cifar(folder: Path, files: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Read CIFAR batches, each given with its published MD5: images `(N, 3, 32, 32)` uint8 and labels `(N,)`.

    Example: `read_cifar(Path("cifar-100-python"), [("test", "f0ef6b0ae62326f3e7ffdfab6717acfc")])`.
    """
    images, labels = [], []
    for name, md5 in files:
        entry = read_original(folder / name, md5=md5)
        images.append(torch.as_tensor(entry["data"]).view(-1, 3, 32, 32))
        labels.append(torch.as_tensor(entry["labels"] if "labels" in entry else entry["fine_labels"]))
    return torch.cat(images), torch.cat(labels)


def read_svhn(path: Path) -> tuple[Tensor, Tensor]:
    """Read one of SVHN's MATLAB files of cropped digits: images `(N, 3, 32, 32)` uint8 and labels `(N,)`, 0 to 9.

    Example: `read_svhn(Path("test_32x32.mat"))`. The file calls the digit 0 a 10. Needs scipy. Raises DatasetError when
    it is no such file.
    """
    matlab = importlib.import_module("scipy.io")
    try:
        content = matlab.loadmat(path, variable_names=("X", "y"))
        pixels, digits = torch.as_tensor(content["X"]), torch.as_tensor(content["y"]).flatten().to(torch.int64)
    except Exception as error:  # scipy raises whatever it stumbles over
        raise DatasetError(
            f"{path} is damaged ({type(error).__name__}: {error}). Delete it and get it again."
        ) from None
    if pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3) or pixels.dtype != torch.uint8:
        raise DatasetError(
            f"{path} holds {pixels.dtype} images of shape {tuple(pixels.shape)}, not bytes of 32x32x3xN: take SVHN's "
            "cropped digits (format 2)."
        )
    if len(digits) != pixels.shape[3] or not len(digits) or int(digits.min()) < 0 or int(digits.max()) > 10:
        raise DatasetError(
            f"{path} has {len(digits)} labels for {pixels.shape[3]} images; there must be one each, from 1 to 10. Delete "
            "it and get it again."
        )
    return pixels.permute(3, 2, 0, 1).contiguous(), digits % 10


def read_original(path: Path, *, md5: str) -> dict[str, Any]:
    """Unpickle a published file, only if its bytes have the published MD5; otherwise DatasetError."""
    raw = path.read_bytes()  # read once: what is checked is what is loaded
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DatasetError(
            f"{path} is not the published file: its MD5 is {found}, not {md5}. It was not opened, since such files can "
            f"run code. Delete it and get it again (download=True, data.download=true on the command line)."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the files are from 2009; newer numpy deprecates how they name their dtype
        content: dict[str, Any] = pickle.loads(raw, encoding="latin1")
    return content
