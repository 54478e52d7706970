"""Losses by name: what is registered, what each reads, and the text that names one with its options."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, ParamSpec, TypeAlias

import torch
from torch import Tensor

from deepsup import specs
from deepsup.errors import ConfigError, HeadError
from deepsup.losses.labels import IGNORE, check_labels

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Parameters = ParamSpec("Parameters")

LOSSES = specs.Registry[Callable[..., Tensor]]("loss", ConfigError)
# Texts that were read before: reading cannot be compiled, looking up can.
_READ: dict[str, Loss] = {}


class Kind(NamedTuple):
    """What a loss reads: class scores against labels, another output (the teacher), how many crops of each image.

    `binary`: every score goes through a sigmoid. `one_channel`: a single channel, through a sigmoid, tells two classes
    apart; `only_one_channel`: and there can be no more. `resizes`: scores may be maps of another size than the labels'.
    """

    scores: bool = True
    teacher: bool = False
    views: int = 1
    binary: bool = False
    one_channel: bool = False
    resizes: bool = False
    only_one_channel: bool = False


def loss(**reads: Any) -> Callable[[Callable[Parameters, Tensor]], Callable[Parameters, Tensor]]:
    """Register a loss under its own name, with what it reads (a `Kind`); its keyword-only parameters are its options.

    >>> @loss(resizes=True)
    ... def focal(scores: Tensor, target: Tensor, *, gamma: Annotated[float, at_least(0)] = 2.0) -> Tensor: ...
    >>> get("focal(gamma=1)")
    focal(gamma=1)

    Options are held against their limits in every call as well.
    """

    def register(function: Callable[Parameters, Tensor]) -> Callable[Parameters, Tensor]:
        name = function.__name__

        @functools.wraps(function)
        def checked(*args: Parameters.args, **options: Parameters.kwargs) -> Tensor:
            if not torch.compiler.is_compiling():  # a number that changed is a symbol there, and `get` has checked it
                LOSSES.check(name, **options)
            return function(*args, **options)

        vars(checked).update(Kind(**reads)._asdict())
        _READ[name] = LOSSES.register(checked)
        return checked

    return register


@dataclass(frozen=True, repr=False)
class Named:
    """A loss of `LOSSES` with its options bound; prints as the text that names it."""

    name: str
    options: tuple[tuple[str, Any], ...]

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return LOSSES[self.name](prediction, target, **dict(self.options))

    def __repr__(self) -> str:
        return specs.show_call(self.name, dict(self.options))


def get(loss: str | Loss) -> Loss:
    """The loss that a text names, options bound and checked, or the callable itself.

    A plain name gives the function. Raises `ConfigError` naming the known losses and options. Under torch.compile only
    texts that were read before can be got; making a plan reads all of them.
    """
    if callable(loss):
        return loss
    if not isinstance(loss, str) or loss not in _READ:
        name, options = read(loss)
        _READ[loss] = Named(name, tuple(options.items()))
    return _READ[loss]


def read(text: str) -> tuple[str, dict[str, object]]:
    """`"kl(temperature=3)"` as name and options, checked; nothing is evaluated as code. Raises `ConfigError`."""
    return LOSSES.read(text)


def check(loss: str | Loss) -> None:
    """Raise `ConfigError` when a text names no loss, or gives it an option that cannot be."""
    get(loss)


def show(loss: str | Loss) -> str:
    """A loss as a plan prints it."""
    if isinstance(loss, (str, Named)):
        return str(loss)
    return f"custom:{getattr(loss, '__name__', type(loss).__name__)}"


def describe(loss: str | Loss) -> Kind:
    """What a loss reads. One of the user's own may say so in attributes `scores`, `teacher`, `views` and so on."""
    found = get(loss)
    function = LOSSES[found.name] if isinstance(found, Named) else found
    said: dict[str, Any] = {field: getattr(function, field, default) for field, default in Kind()._asdict().items()}
    return Kind(**said)


def option(loss: str | Loss, name: str, default: Any) -> Any:
    """The value that an option has in a named loss: `option("cross_entropy(ignore_index=255)", "ignore_index", -100)`."""
    found = get(loss)
    return dict(found.options).get(name, default) if isinstance(found, Named) else default


def check_target(loss: str | Loss, scores: Tensor, target: Tensor) -> None:
    """Raise `ClassCountError` when a label in `target` has no class in `scores` (N, C, ...) by this loss's count.

    One channel that goes through a sigmoid tells two classes apart.
    """
    one = scores.shape[1] == 1 and describe(loss).one_channel
    check_labels(2 if one else scores.shape[1], target, option(loss, "ignore_index", IGNORE))


def check_channels(loss: str | Loss, channels: int) -> None:
    """Raise `HeadError` where a loss cannot read scores of so many channels."""
    if describe(loss).only_one_channel and channels != 1:
        raise HeadError(
            f"loss '{show(loss).partition('(')[0]}' tells two classes apart by one score a place, and the output has "
            f"{channels} channels. Give it one channel, or use binary or cross_entropy."
        )


def probabilities(
    scores: Tensor,  # (N, C, ...), raw
    loss: str | Loss = "cross_entropy",
) -> Tensor:
    """What the loss takes raw scores for: their softmax over axis 1, or their sigmoid."""
    return scores.sigmoid() if is_sigmoid(loss, scores.shape[1]) else scores.softmax(1)


def is_sigmoid(loss: str | Loss, channels: int) -> bool:
    """Whether scores of so many channels go through a sigmoid; a single one can mean nothing else."""
    return describe(loss).binary or channels == 1


def votes(scores: Sequence[Tensor], by: Sequence[str | Loss]) -> list[Tensor]:
    """Probabilities of several outputs (N, C, ...), each by its own loss, for a mean over them.

    Where some go through a softmax and some through a sigmoid, the latter are made to sum to 1 over the classes as well.
    """
    mixed = len({is_sigmoid(loss, s.shape[1]) for s, loss in zip(scores, by, strict=True)}) > 1
    found = []
    for s, loss in zip(scores, by, strict=True):
        share = probabilities(s, loss)
        found.append(share / share.sum(1, keepdim=True) if mixed and is_sigmoid(loss, s.shape[1]) else share)
    return found
