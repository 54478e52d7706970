"""Which places of a sequence are there: the mask that a model is called with, for heads that pool.

transformers: `attention_mask` (N, L), not 0 where there is a token; PyTorch: `src_key_padding_mask` and the like, True where
there is none.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deepsup.errors import HeadError

PRESENT = ("attention_mask",)
PADDED = ("src_key_padding_mask", "key_padding_mask", "padding_mask")


class Argument(NamedTuple):
    """The argument of a model that says which places are there: its name, its position, and whether it names what is not."""

    name: str
    position: int
    padded: bool


def argument_of(model: nn.Module) -> Argument | None:
    """The argument of the model's forward that is such a mask, if there is one."""
    try:
        names = list(inspect.signature(model.forward).parameters)
    except (TypeError, ValueError):
        return None
    known = [name for name in (*PRESENT, *PADDED) if name in names]
    return Argument(known[0], names.index(known[0]), known[0] in PADDED) if known else None


def mask_in(argument: Argument | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """True where there is a place, (N, L), as this call says; None where it says nothing of that form.

    Raises `HeadError` for a mask of floats, of which nobody knows whether 0 is a place or none.
    """
    if argument is None:
        return None
    given = kwargs.get(argument.name, args[argument.position] if argument.position < len(args) else None)
    if not isinstance(given, Tensor) or given.ndim != 2:
        return None
    if given.is_floating_point():
        raise HeadError(
            f"heads that pool read which places are there from {argument.name}, and this one holds {given.dtype}: 0 may mean a "
            f"place that counts or one that does not. Pass {argument.name} as bool or whole numbers."
        )
    there = given.to(torch.bool)
    return ~there if argument.padded else there
