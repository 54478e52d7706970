"""The controls: plain cross-entropy, and softened labels."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from tests.support.method_steps import CLASSES, Case, ce


def test_none_and_label_smoothing_are_the_plain_model() -> None:
    Case("none").check(lambda a, h, y: ce(a["main"], y))

    def smoothed(a: dict[str, Tensor], h: dict[str, Any], y: Tensor) -> Tensor:
        soft = 0.9 * F.one_hot(y, CLASSES).double() + 0.1 / CLASSES
        return -(soft * a["main"].log_softmax(1)).sum(1).mean()

    Case("label-smoothing").check(smoothed)
