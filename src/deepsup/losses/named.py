"""Losses by name: what is registered, what each reads, and the text that names one with its options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, ParamSpec, TypeAlias

import torch
from torch import Tensor

from deepsup import specs
from deepsup.errors import ConfigError, HeadError
from deepsup.losses.torch_losses import kind_of, option_of
from deepsup.predictions import KINDS

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
Parameters = ParamSpec("Parameters")

# What an objective gives to losses that ask for it by a keyword-only parameter, and no text can: the kind of the
# prediction (`predictions.KINDS`), the name of the output, the mask of what counts; to the user's own also `batch`, the
# rest of a target mapping, which is an option of Dice's.
CONTEXT = frozenset({"kind", "name", "mask"})
LOSSES = specs.Registry[Callable[..., Tensor]]("loss", ConfigError, hidden=CONTEXT)
# Texts that were read before: reading cannot be compiled, looking up can.
_READ: dict[str, Loss] = {}


class Kind(NamedTuple):
    """What a loss reads: class scores against labels, another output (the teacher), how many crops of each image.

    `binary`: every score goes through a sigmoid. `one_channel`: a single channel, through a sigmoid, tells two classes
    apart; `only_one_channel`: and there can be no more. `resizes`: scores may be maps of another size than the labels'.
    `kinds`: what it may read (`predictions.KINDS`), the usual one first; empty for a loss that takes anything. `mean`: over
    what, `places` (labels or values that count), `vectors` (places all of whose channels count) or `samples`.
    """

    scores: bool = True
    teacher: bool = False
    views: int = 1
    binary: bool = False
    one_channel: bool = False
    resizes: bool = False
    only_one_channel: bool = False
    kinds: tuple[str, ...] = ("class",)
    mean: str = "places"


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
                LOSSES.check(name, **{k: v for k, v in options.items() if k not in CONTEXT})
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

    def __call__(self, prediction: Tensor, target: Tensor, **context: Any) -> Tensor:
        return LOSSES[self.name](prediction, target, **dict(self.options), **context)

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
    if (theirs := kind_of(function)) is not None:
        return Kind(kinds=(theirs,), binary=theirs == "labels")
    usual = Kind() if is_ours(function) else Kind(kinds=())
    said: dict[str, Any] = {field: getattr(function, field, default) for field, default in usual._asdict().items()}
    return Kind(**said)


def is_ours(loss: str | Loss) -> bool:
    """Whether a loss is one of `LOSSES`, and not the user's or PyTorch's."""
    found = get(loss)
    return isinstance(found, Named) or (getattr(found, "__name__", "") in LOSSES and LOSSES[found.__name__] is found)


def reads_first_axis(loss: str | Loss) -> bool:
    """Whether classes are on axis 1 for a loss, as they are for ours and for PyTorch's; one of the user's knows its model."""
    return is_ours(loss) or kind_of(get(loss)) is not None or getattr(loss, "first_axis", False) is True


def is_given_first_axis(loss: str | Loss) -> bool:
    """Whether a loss is given classes on axis 1. PyTorch's of labels and values are not: they compare number by number, and a
    weight of theirs, such as `pos_weight`, is as long as the model's last axis.
    """
    return reads_first_axis(loss) and kind_of(get(loss)) not in ("labels", "values")


def asks(loss: str | Loss) -> frozenset[str]:
    """Which parts of `CONTEXT` a loss asks for; one of the user's own may ask for `batch` as well."""
    found = get(loss)
    function = LOSSES[found.name] if isinstance(found, Named) else found
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a callable without a readable signature cannot ask
        return frozenset()
    known = CONTEXT if is_ours(loss) else CONTEXT | {"batch"}
    return frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name in known)


def option(loss: str | Loss, name: str, default: Any) -> Any:
    """The value that an option has in a loss: `option("cross_entropy(ignore_index=255)", "ignore_index", -100)`.

    PyTorch's losses and partial functions are asked as well.
    """
    found = get(loss)
    return dict(found.options).get(name, default) if isinstance(found, Named) else option_of(found, name, default)


def check_channels(loss: str | Loss, channels: int) -> None:
    """Raise `HeadError` where a loss cannot read scores of so many channels."""
    if describe(loss).only_one_channel and channels != 1:
        raise HeadError(
            f"loss '{show(loss).partition('(')[0]}' tells two classes apart by one score a place, and the output has "
            f"{channels} channels. Give it one channel, or use binary or cross_entropy."
        )


def check_kind(loss: str | Loss, kind: str, *, output: str = "main") -> None:
    """Raise `HeadError` where a loss cannot read an output of this kind (`predictions.KINDS`)."""
    takes = describe(loss).kinds
    if takes and kind not in takes and kind not in ("other", "embedding"):
        teacher = describe(loss).teacher
        known = {n: describe(n) for n in LOSSES}
        able = [n for n, k in known.items() if k.teacher == teacher and (kind in k.kinds or (teacher and not k.kinds))]
        raise HeadError(
            f"loss '{show(loss)}' of '{output}' reads {' or '.join(KINDS[k] for k in takes)}, and that output gives "
            f"{KINDS[kind]}. Losses for {KINDS[kind]}: {', '.join(able) or 'your own'}. Or say what the output is: "
            "plan(..., task=)."
        )


def probabilities(
    scores: Tensor,  # (N, C, ...), raw
    kind: str = "class",
) -> Tensor:
    """What raw scores of this kind say: their softmax over axis 1, the sigmoid of each, or of values themselves."""
    if kind == "class" and scores.shape[1] > 1:
        return scores.softmax(1)
    return scores if kind == "values" else scores.sigmoid()


def votes(scores: Sequence[Tensor], kinds: Sequence[str]) -> list[Tensor]:
    """What several outputs (N, C, ...) of these kinds say, for a mean over them.

    Where some go through a softmax and some through a sigmoid, the latter are made to sum to 1 over the classes as well.
    """
    found = [probabilities(s, kind) for s, kind in zip(scores, kinds, strict=True)]
    if "class" not in kinds or len(set(kinds)) == 1:
        return found
    return [
        f / f.sum(1, keepdim=True) if k == "labels" and f.shape[1] > 1 else f for f, k in zip(found, kinds, strict=True)
    ]
