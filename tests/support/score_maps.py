"""Maps of scores with labels of another size, some of them void."""

from __future__ import annotations

import torch
from torch import Tensor

from deepsup import losses

VOID = -100
EVERY = ["cross_entropy", "binary", "dice", "dice_cross_entropy"]


def case(classes: int = 3, size: tuple[int, ...] = (5, 4), full: tuple[int, ...] = (11, 9)) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(len(full) + classes)
    scores = torch.randn(2, classes, *size, generator=stream, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, max(2, classes), (2, *full), generator=stream)
    return scores, torch.where(torch.rand(labels.shape, generator=stream) < 0.2, VOID, labels)


def value(text: str, scores: Tensor, labels: Tensor) -> Tensor:
    return losses.get(text)(scores, labels)
