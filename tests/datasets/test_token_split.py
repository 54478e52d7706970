"""Tokens as batches: what is served, and in the order of every other split."""

from __future__ import annotations

from pathlib import Path

import torch

from deepsup.datasets.splits import epoch_order
from deepsup.datasets.token_files import read_tokens
from deepsup.datasets.token_split import TokenSplit
from tests.support.tiny_tokens import drawn, save


def test_batches_are_a_function_of_seed_and_epoch(tmp_path: Path) -> None:
    inputs = drawn(10, 0)
    tokens = read_tokens(save(tmp_path / "a.npz", inputs=inputs, labels=inputs % 3))
    split = TokenSplit(tokens, symbols=6, classes=3)
    batches = list(split.batches(4, seed=1, epoch=2, shuffle=True))
    assert [x.dtype for x, _ in batches] == [torch.int64] * 3
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    assert torch.equal(x, torch.as_tensor(inputs)[epoch_order(10, seed=1, epoch=2)])
    assert torch.equal(y, x % 3)
    again = list(split.batches(4, seed=1, epoch=2, shuffle=True, start=2))
    assert torch.equal(again[0][0], batches[2][0])
    assert split.counts().tolist() == torch.bincount(y.flatten()).tolist()
    assert (split.channels, split.size, split.classes, len(split)) == (6, 8, 3, 10)
    assert repr(split) == "TokenSplit(10 sequences of 8, 6 symbols, 3 classes)"
