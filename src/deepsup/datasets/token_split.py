"""Sequences of tokens in memory, with a label for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor

from deepsup.datasets.splits import Split, sent
from deepsup.datasets.token_files import Tokens
from deepsup.losses import IGNORE


@final
class TokenSplit(Split):
    """Sequences and their labels, both int64 `(N, L)`, -100 where a label does not count.

    `follows` says whether labels are the tokens that follow, `channels` is how many symbols there are, `size` the length;
    `class_names` are the numbers of the labels.
    """

    task = "tokens"

    def __init__(self, tokens: Tokens, *, symbols: int, classes: int) -> None:
        super().__init__(
            samples=len(tokens.inputs),
            class_names=tuple(map(str, range(classes))),
            channels=symbols,
            shape=(1, tokens.inputs.shape[1]),
            augment="none",
            kinds=0,
            views=1,
        )
        self.tokens, self.follows = tokens, tokens.ahead
        self._copies: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __repr__(self) -> str:
        return f"TokenSplit({len(self)} sequences of {self.size}, {self.channels} symbols, {self.classes} classes)"

    def counts(self) -> Tensor:
        """How often each class is a label that counts."""
        labels = self.tokens.labels
        return torch.bincount(labels[labels != IGNORE].long(), minlength=self.classes)

    def _read(
        self, plan: list[Tensor], *, seed: int, epoch: int, device: torch.device | str | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        here = torch.empty(0, device="cpu" if device is None else device).device
        if here not in self._copies:  # moved there once, and kept
            self._copies[here] = (self.tokens.inputs.to(here), self.tokens.labels.to(here))
        inputs, labels = self._copies[here]
        for rows in plan:
            picked = sent(rows, here)
            yield inputs[picked].long(), labels[picked].long()
