"""From an activation to class scores: the heads of classification branches.

A head is named by a text (`"pool"`, `"cnds(hidden=256)"`), or is the user's own: a module, or a function of
`(feature, classes)` that returns one. Every head maps the activation, batch first, to scores of shape (N, classes).
"""

from __future__ import annotations

import ast
import difflib
import inspect
from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor, nn

from .errors import HeadError
from .features import Feature

Builder: TypeAlias = Callable[[Feature, int], nn.Module]
HeadLike: TypeAlias = "str | nn.Module | Builder"


class Mean(nn.Module):
    """Mean over the axes `dims` of the activation."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.dims)

    def extra_repr(self) -> str:
        return f"dims={self.dims}"


class First(nn.Module):
    """The first token: the class token of vision transformers."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


class ChannelsFirst(nn.Module):
    """(N, H, W, C) -> (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


def linear(feature: Feature, classes: int) -> nn.Module:
    """Flatten and one linear layer, the companion classifier of DSN (Lee et al. 2015); needs a fixed input size."""
    width = feature.channels
    for n in feature.size:
        width *= n
    return nn.Sequential(nn.Flatten(), nn.Linear(width, classes))


def pool(feature: Feature, classes: int) -> nn.Module:
    """Global average pooling and one linear layer; any input size."""
    if feature.layout == "NC":
        return nn.Sequential(nn.Linear(feature.channels, classes))
    dims = [i for i, letter in enumerate(feature.layout) if letter not in "NC"]
    return nn.Sequential(Mean(*dims), nn.Linear(feature.channels, classes))


def token(feature: Feature, classes: int, *, take: str = "mean") -> nn.Module:
    """Layer normalisation, the mean of all tokens (or `take="first"`, the class token), one linear layer."""
    if feature.layout not in ("NLC", "NHWC"):
        raise HeadError(
            f"head 'token' reads tokens (N, L, C) or (N, H, W, C), but this activation is {feature} in layout "
            f"{feature.layout}. Use 'pool' or 'linear', or pass layout= to plan if the layout was guessed wrong."
        )
    if take not in ("mean", "first") or (take == "first" and feature.layout == "NHWC"):
        raise HeadError(f"head 'token' takes 'mean', or 'first' where there is a token axis; asked for {take!r}.")
    gather = First() if take == "first" else Mean(*range(1, len(feature.layout) - 1))
    return nn.Sequential(nn.LayerNorm(feature.channels), gather, nn.Linear(feature.channels, classes))


def cnds(feature: Feature, classes: int, *, width: int = 64, hidden: int = 1024, dropout: float = 0.5) -> nn.Module:
    """The branch of CNDS as released (Wang et al. 2015, train_val.prototxt): average pool 5/2, 1x1 convolution to
    `width` without activation, two fully connected layers of `hidden` with ReLU and dropout, one plain one.

    On maps smaller than 5 the pool covers the whole map. Needs a fixed input size.
    """
    if feature.layout not in ("NCHW", "NHWC"):
        raise HeadError(
            f"head 'cnds' reads maps (N, C, H, W) or (N, H, W, C), but this activation is {feature} in layout "
            f"{feature.layout}. Use 'token' or 'pool' here."
        )
    kernel = [min(5, n) for n in feature.size]
    left = [(n - k) // 2 + 1 for n, k in zip(feature.size, kernel, strict=True)]
    front = [ChannelsFirst()] if feature.layout == "NHWC" else []
    return nn.Sequential(
        *front,
        nn.AvgPool2d((kernel[0], kernel[1]), stride=2),
        nn.Conv2d(feature.channels, width, 1),
        nn.Flatten(),
        nn.Linear(width * left[0] * left[1], hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, classes),
    )


HEADS: dict[str, Callable[..., nn.Module]] = {f.__name__: f for f in (linear, pool, token, cnds)}
AUTO = "auto"


def resolve(text: str, feature: Feature) -> str:
    """`"auto"` as the head it stands for: `token` for tokens, `pool` for everything else. Others stay."""
    if text != AUTO:
        return text
    return token.__name__ if feature.layout == "NLC" else pool.__name__


def build(head: HeadLike, feature: Feature, classes: int) -> nn.Module:
    """The head as a module: built from its text, returned by the user's function, or the user's module itself."""
    if isinstance(head, nn.Module):
        return head
    if isinstance(head, str):
        name, options = read(head)
        try:
            return HEADS[name](feature, classes, **options)
        except (TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, HeadError):
                raise
            raise HeadError(
                f"head {head!r} cannot be built for an activation of {feature} a sample: {error}."
            ) from None
    try:
        built = head(feature, classes)
    except TypeError as error:
        raise HeadError(
            f"the head function {show(head)} is called as head(feature, classes) and failed: {error}. `feature` has "
            "channels, size, shape and layout; return an nn.Module."
        ) from error
    if not isinstance(built, nn.Module):
        raise HeadError(f"the head function {show(head)} returned {type(built).__name__}; it must return an nn.Module.")
    return built


def read(text: str) -> tuple[str, dict[str, object]]:
    """`"cnds(hidden=256)"` as name and options; nothing is evaluated as code. Raises `HeadError`."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        node = None
    call = node if isinstance(node, ast.Call) and not node.args else None
    name = node.id if isinstance(node, ast.Name) else call.func.id if call and isinstance(call.func, ast.Name) else text
    if name not in HEADS:
        close = difflib.get_close_matches(name, HEADS, n=1, cutoff=0.3)
        hint = f" Closest: {close[0]}." if close else ""
        raise HeadError(
            f"no head is called {text!r}.{hint} Heads: {AUTO}, {', '.join(HEADS)}; or pass your own module."
        )
    known = [p for p, v in inspect.signature(HEADS[name]).parameters.items() if v.kind is v.KEYWORD_ONLY]
    keywords = call.keywords if call else []
    unknown = [k.arg for k in keywords if k.arg not in known]
    if unknown:
        raise HeadError(f"head {name!r} has no option {unknown[0]!r}. Options: {', '.join(known) or 'none'}.")
    try:
        return name, {str(k.arg): ast.literal_eval(k.value) for k in keywords}
    except ValueError:
        raise HeadError(
            f"head {text!r} has an option that is no plain value. Write numbers, or texts in quotes."
        ) from None


def show(head: HeadLike) -> str:
    """A head as a plan prints it: its text, or `custom:` and the name of the user's module or function."""
    if isinstance(head, str):
        return head
    name = type(head).__name__ if isinstance(head, nn.Module) else getattr(head, "__name__", type(head).__name__)
    return f"custom:{name}"
