"""Sequences of tokens and a label for each, from one file, .npz or .safetensors, whoever wrote it.

Arrays: `inputs` (N, L), whole numbers; `labels` (N, L), where -100 does not count; `mask` (N, L), 0 where a token does not
count. Without labels each token's label is the one that follows, and the last has none. Others are left alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from deepsup.errors import DatasetError
from deepsup.losses import IGNORE
from deepsup.tasks.array_files import SUFFIXES, Wanted

_WANTED = Wanted(("inputs", "labels", "mask"), ("inputs",), "tokens", "inputs (N, L); labels and mask if there are any")
_INPUTS = Wanted(("inputs",), ("inputs",), "tokens", "inputs (N, L)")
_MOST = 10_000_000  # symbols, of which each has a name and a row in an embedding


class Tokens(NamedTuple):
    """What is in a file: `inputs` and `labels` (N, L), int32; whether it has no labels, so that the tokens that follow are."""

    path: Path
    inputs: Tensor
    labels: Tensor
    follows: bool

    @property
    def ahead(self) -> bool:
        """Whether every label is the token that follows, given or not."""
        known = self.counted[:, :-1]
        labels, itself, after = (t[known] for t in (self.labels[:, :-1], self.inputs[:, :-1], self.inputs[:, 1:]))
        return self.follows or (torch.equal(labels, after) and not torch.equal(labels, itself))

    @property
    def counted(self) -> Tensor:
        """(N, L), bool: which labels count."""
        return self.labels != IGNORE


def token_file(folder: Path, part: str) -> Path:
    """The one file of a part; DatasetError where there is none, or are two."""
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} is not a folder. tokens has train.npz and val.npz in it, or both as .safetensors."
        )
    found = [path for suffix in SUFFIXES if (path := folder / f"{part}{suffix}").is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        raise DatasetError(f"{found[0]} and {found[1].name} are both there. Keep one of them.")
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:10]) or "nothing"
    raise DatasetError(f"{folder} has no {part}.npz or {part}.safetensors. It has: {there}.")


def read_tokens(path: Path) -> Tokens:
    """The sequences of a file; DatasetError, with its name, for anything but whole numbers that fit together."""
    found = _WANTED.read(path)
    inputs = _whole(found["inputs"], path, "inputs")
    counts = _mask(found["mask"], path, inputs) if "mask" in found else torch.ones_like(inputs, dtype=torch.bool)
    if "labels" in found:
        labels = _whole(found["labels"], path, "labels", but=IGNORE)
        _check_alike(labels, path, "labels", inputs)
        labels = labels.masked_fill(~counts, IGNORE)
    else:
        labels = _following(inputs, counts)
    if not bool((labels != IGNORE).any()):
        raise DatasetError(
            f"{path}: no label counts in all {len(labels)} sequences: there is nothing to learn or score."
        )
    return Tokens(path, inputs, labels, "labels" not in found)


def read_inputs(path: Path, *, symbols: int, length: int) -> Tensor:
    """The `inputs` (N, L) of a file for a net that knows so many symbols and sequences of up to `length`."""
    inputs = _whole(_INPUTS.read(path)["inputs"], path, "inputs")
    if inputs.shape[1] > length:
        raise DatasetError(
            f"{path} has sequences of {inputs.shape[1]} tokens, and the net was trained on {length}. Cut them."
        )
    check_range(inputs, path, "inputs", symbols, "the net was trained with")
    return inputs.long()


def check_range(numbers: Tensor, path: Path, name: str, count: int, whose: str) -> None:
    """Raise `DatasetError` for a number of `count` or more."""
    over = numbers >= count
    if bool(over.any()):
        row, place = over.nonzero()[0].tolist()
        raise DatasetError(
            f"{path}: {name} has {int(numbers[row, place])} (row {row}, place {place}), and {whose} 0 to {count - 1}."
        )


def _whole(numbers: Tensor, path: Path, name: str, *, but: int | None = None) -> Tensor:
    """Whole numbers (N, L) from 0 on, and `but`, as int32."""
    if numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        kind = str(numbers.dtype).removeprefix("torch.")
        raise DatasetError(f"{path}: {name} holds {kind}, and tokens are whole numbers. Write it as integers.")
    if numbers.ndim != 2 or not numbers.numel():
        raise DatasetError(
            f"{path}: {name} has the shape {tuple(numbers.shape)}, and sequences are (N, L). Pad them to one length."
        )
    wide = numbers.to(torch.int64)  # first, so that nothing wraps around: a byte of 156 is not -100
    bad = (wide < 0) | (wide >= _MOST)
    bad = bad if but is None or numbers.dtype == torch.uint64 else bad & (wide != but)  # 2**64 - 100 is not -100
    if bool(bad.any()):
        row, place = bad.nonzero()[0].tolist()
        instead = "" if but is None else f", or {but} where none counts"
        raise DatasetError(
            f"{path}: {name} has {int(wide[row, place])} (row {row}, place {place}). Write whole numbers from 0 to "
            f"{_MOST - 1}{instead}."
        )
    return wide.to(torch.int32)


def _mask(numbers: Tensor, path: Path, inputs: Tensor) -> Tensor:
    """(N, L), bool: which tokens count."""
    _check_alike(numbers, path, "mask", inputs)
    if numbers.is_floating_point() or numbers.is_complex() or not bool(((numbers == 0) | (numbers == 1)).all()):
        raise DatasetError(
            f"{path}: mask says where a token counts, 1 or true, and where none does, 0 or false; it holds other numbers, or "
            "floats, whose 0 may mean either. Write it so."
        )
    return numbers.to(torch.bool)


def _check_alike(numbers: Tensor, path: Path, name: str, inputs: Tensor) -> None:
    if numbers.shape != inputs.shape:
        raise DatasetError(
            f"{path}: {name} has the shape {tuple(numbers.shape)}, and inputs {tuple(inputs.shape)}. They go together, "
            "one by one."
        )


def _following(inputs: Tensor, counts: Tensor) -> Tensor:
    """The token that follows each; none where one of the two does not count."""
    labels = torch.full_like(inputs, IGNORE)
    labels[:, :-1] = inputs[:, 1:].masked_fill(~(counts[:, 1:] & counts[:, :-1]), IGNORE)
    return labels
