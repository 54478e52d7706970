"""Sequences of tokens with a label for each, as arrays of numbers."""

from __future__ import annotations

from typing import Annotated

import torch

from deepsup.datasets.found import Files
from deepsup.datasets.layouts import layout
from deepsup.datasets.request import Dataset, Request
from deepsup.datasets.token_files import Tokens, check_range, read_tokens, token_file
from deepsup.datasets.token_split import TokenSplit
from deepsup.errors import DatasetError
from deepsup.specs import WHOLE, Limit

_COUNT = Limit("a whole number of at least 2, or None", lambda v: v is None or (WHOLE.fits(v) and v >= 2))


@layout("tokens")
def tokens(
    request: Request,
    *,
    symbols: Annotated[int | None, _COUNT] = None,
    classes: Annotated[int | None, _COUNT] = None,
) -> Dataset:
    """`train` and `val`, each .npz or .safetensors with `inputs` (N, L) and, if there are any, `labels` and `mask` (N, L).

    A label is a whole number from 0 on, -100 where none counts; without `labels` it is the token that follows. `mask` is 0
    where a token does not count. There are `symbols` different tokens and `classes` labels, by default those of training.
    """
    if request.root is None:
        raise DatasetError(
            "the dataset 'tokens' needs root=..., a folder with train.npz and val.npz (or .safetensors)."
        )
    train, validation = (read_tokens(token_file(request.root, part)) for part in ("train", "val"))
    _check_kinds(train, validation)
    if train.follows and symbols is not None and classes not in (None, symbols):
        raise DatasetError(
            f"{train.path} has no labels, so that tokens are labels: classes={classes} is symbols={symbols}."
        )
    symbols = symbols or (classes if train.follows else None) or max(2, int(train.inputs.max()) + 1)
    classes = symbols if train.follows else classes or max(2, int(train.labels.max()) + 1)
    for part in (train, validation):
        check_range(part.inputs, part.path, "inputs", symbols, _WHOSE.format("symbols"))
        check_range(part.labels, part.path, "labels", classes, _WHOSE.format("classes"))
    kept = request.kept(torch.arange(len(train.inputs)))
    train = train._replace(inputs=train.inputs[kept], labels=train.labels[kept])
    if not bool(train.counted.any()):
        raise DatasetError(
            f"{train.path}: no label counts in the {len(kept)} sequences that data.limit keeps. Keep more."
        )
    splits = [TokenSplit(part, symbols=symbols, classes=classes) for part in (train, validation)]
    return Dataset(request.name, splits[0], splits[1], Files({}, notes=tuple(_notes(train, validation))))


_WHOSE = "training has, or tokens({}=...) says,"


def _check_kinds(train: Tokens, validation: Tokens) -> None:
    """DatasetError where the two files are of two kinds."""
    if train.follows != validation.follows:
        with_, without = (validation, train) if train.follows else (train, validation)
        raise DatasetError(
            f"{with_.path} has labels, and {without.path} none, for which the token that follows counts. Give both, or neither."
        )
    lengths = train.inputs.shape[1], validation.inputs.shape[1]
    if lengths[0] != lengths[1]:
        raise DatasetError(
            f"the sequences of {train.path} have {lengths[0]} tokens, and those of {validation.path} {lengths[1]}. Cut or pad "
            "them to one length, with a mask."
        )


def _notes(train: Tokens, validation: Tokens) -> list[str]:
    """What a reader should know, and what should make one doubt."""
    notes = ["no labels: each token's label is the one that follows, and the last has none"] if train.follows else []
    new = float((~torch.isin(validation.inputs, torch.unique(train.inputs))).double().mean())
    if new:
        notes.append(f"{100 * new:.3g} % of the validation tokens are symbols that training has nowhere")
    if not train.follows and torch.equal(train.labels[train.counted], train.inputs[train.counted]):
        notes.append(
            "every label is the token itself, so that a copy of the input is right. For the token that follows leave labels "
            "out; a net that shifts them itself has loss=cross_entropy(shift=1)"
        )
    known = {row.numpy().tobytes() for row in train.inputs}
    again = sum(row.numpy().tobytes() in known for row in validation.inputs)
    if again:
        notes.append(
            f"{again} of {len(validation.inputs)} validation sequences are training sequences too: the score is not that of new "
            "ones"
        )
    return notes
