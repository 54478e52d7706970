"""What an objective gives: the loss, its parts and their weights by name."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from deepsup.errors import TermsError


class Terms(NamedTuple):
    """The loss and what it is made of: `total = sum of weights[name] * parts[name]` over those whose weight is not 0; parts are
    not weighted.

    A weight is a number, or a tensor without a graph where it follows the losses (`adaptive`).
    """

    total: Tensor
    parts: dict[str, Tensor]
    weights: dict[str, float | Tensor]

    def scalars(self) -> dict[str, float]:
        """The total (as `"total"`) and every part as numbers, for a log. The device is waited for once."""
        values = torch.stack([v.detach().float().to(self.total.device) for v in (self.total, *self.parts.values())])
        return dict(zip(("total", *self.parts), values.tolist(), strict=True))

    def detached(self) -> Terms:
        """The same values without their graphs."""
        return Terms(self.total.detach(), {n: part.detach() for n, part in self.parts.items()}, self.weights)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not hasattr(Tensor, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise TermsError(_advice(f"terms.{name}", f"terms.total.{name}"))

    def _no_number(self, *other: Any) -> NoReturn:
        raise TermsError(_advice("arithmetic with terms", "terms.total"))

    __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = __truediv__ = __neg__ = __float__ = _no_number  # type: ignore


def _advice(asked: str, instead: str) -> str:
    return (
        f"{asked}: an objective gives terms, of which the loss is one: write {instead}. Where a function of (outputs, target) is "
        "to return the loss itself, use deepsup.Criterion(plan)."
    )
