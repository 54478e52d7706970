"""What every layer of a network reads and gives out, found without computing: a run of a copy on the meta device."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepsup.errors import ConfigError


@dataclass(frozen=True)
class Seen:
    """One call of one layer: the shapes (N, C, ...) of its first input and of its output, and which tensors they were.

    `read` and `gave` are empty where there was no lone tensor.
    """

    read: tuple[int, ...]
    gave: tuple[int, ...]
    read_id: int
    gave_id: int


def run_on_meta(model: nn.Module, shape: tuple[int, ...], *, what: str) -> tuple[list[tuple[str, Seen]], Any]:
    """Every call of every layer of `model` on an input of `shape`, in the order of their ends, and the model's output.

    Evaluation mode, on a copy on the meta device: nothing is computed and `model` is left as it is. Raises ConfigError,
    which calls the model `what`, when it cannot run on such an input.
    """
    copied = copy.deepcopy(model).to("meta").float().eval()
    calls: list[tuple[str, Seen]] = []
    held: list[Any] = []  # so that no id is given to two tensors
    for name, layer in copied.named_modules():
        if name:
            layer.register_forward_hook(_watch(name, calls, held))
    try:
        with torch.no_grad():
            output = copied(torch.empty(shape, device="meta"))
    except Exception as error:
        raise ConfigError(f"{what} cannot run on an input of shape {shape}: {type(error).__name__}: {error}") from error
    return calls, output


def stride_of(shape: tuple[int, ...], side: int) -> int:
    """How many pixels of a picture of `side` pixels one step of a map of `shape` (N, C, H, W) is: a power of two."""
    return int(2 ** max(0, round(math.log2(side / shape[2]))))


def _watch(name: str, calls: list[tuple[str, Seen]], held: list[Any]) -> Callable[..., None]:
    def see(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        first = args[0] if args else None
        held.extend((first, output))
        calls.append((name, Seen(_shape(first), _shape(output), id(first), id(output))))

    return see


def _shape(value: object) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, Tensor) else ()
