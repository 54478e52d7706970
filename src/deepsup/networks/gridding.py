"""The gridding effect of stacked dilated convolutions: which pixels they never look at, and rates that look at all.

Wang et al., "Understanding Convolution for Semantic Segmentation", WACV 2018 (arXiv 1702.08502), section 3.2.

>>> gridding((2, 2, 2)).share  # 7 of 13 positions along each axis
0.28994082840236685
>>> gridding((2, 2, 2)).hybrid
(1, 2, 3)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

from deepsup.errors import ConfigError
from deepsup.networks.blocks import check_positive

GROUP = 3  # rates are mended so many at a time, as in the paper: what has no holes in parts has none as a whole


class GriddingWarning(UserWarning):
    """Dilated convolutions leave pixels of their own receptive field out."""


@dataclass(frozen=True)
class Gridding:
    """What a stack of convolutions sees of its receptive field. Made by `gridding`."""

    rates: tuple[int, ...]
    kernel: int = 3

    @property
    def side(self) -> int:
        """Side of the receptive field, in pixels of the stack's input."""
        return 1 + (self.kernel - 1) * sum(self.rates)

    @cached_property
    def seen(self) -> tuple[int, ...]:
        """The positions, from 0 to `side` - 1, that reach one output along one axis: exact, by adding up taps.

        A pixel is seen if both of its coordinates are here, as every kernel is a full square.
        """
        positions = {0}
        for rate in self.rates:
            positions = {p + rate * tap for p in positions for tap in range(self.kernel)}
        return tuple(sorted(positions))

    @property
    def share(self) -> float:
        """The share of the pixels in the receptive field, in (0, 1], that influence one output pixel."""
        return (len(self.seen) / self.side) ** 2

    @property
    def holes(self) -> bool:
        """Whether any pixel of the receptive field is not seen: the gridding effect."""
        return len(self.seen) < self.side

    @property
    def distance(self) -> int:
        """M_2 of Wang et al., equation 2: their bound for the gap between pixels that the later layers leave to the first.

        Their rule asks for at most the kernel's size. It is met by (2, 2, 2), too: a common factor must be looked for
        besides, and `holes` alone decides.
        """
        gap = self.rates[-1]
        for rate in reversed(self.rates[1:-1]):
            gap = max(gap - 2 * rate, 2 * rate - gap, rate)
        return gap

    @property
    def factor(self) -> int:
        """The greatest common divisor of the rates; above 1 neighbouring outputs see separate sets of pixels."""
        return math.gcd(*self.rates)

    @cached_property
    def hybrid(self) -> tuple[int, ...]:
        """As many rates that see every pixel, of a receptive field as near to this one as so many layers allow."""
        if not self.holes:
            return self.rates
        parts = (_without_holes(part, self.kernel) for part in _parts(self.rates))
        return tuple(rate for part in parts for rate in part)

    def __str__(self) -> str:
        field = f"{self.side}x{self.side}"
        if not self.holes:
            return f"rates {self.rates}: one output pixel sees all of its {field} field."
        why = f"all rates share the factor {self.factor}" if self.factor > 1 else "the rates grow too fast"
        better = Gridding(self.hybrid, self.kernel)
        return (
            f"rates {self.rates}: one output pixel sees {len(self.seen) ** 2} of the {self.side**2} pixels "
            f"({self.share:.0%}) of its {field} field: gridding, as {why}. "
            f"Rates {better.rates} see all of {better.side}x{better.side}."
        )


def gridding(rates: Sequence[int], *, kernel: int = 3) -> Gridding:
    """What convolutions of stride 1, one after the other with these dilation rates, see of their receptive field.

    Example: `gridding((2, 2, 2)).share == 49 / 169`, and `gridding((2, 2, 2)).hybrid == (1, 2, 3)`.

    `kernel` is the side of the square kernels. Raises ConfigError for no rates, and for a rate or a kernel that is no
    whole number of at least 1.
    """
    if not rates:
        raise ConfigError("no dilation rates: give one a convolution, as in (1, 2, 3).")
    check_positive(kernel=kernel, **{f"dilation rate {place}": rate for place, rate in enumerate(rates, 1)})
    return Gridding(tuple(rates), kernel)


def warn_of_gridding(stacks: Iterable[Sequence[int]], *, kernel: int = 3) -> None:
    """Warn once, with `GriddingWarning`, of every distinct stack of rates that leaves pixels out; say what would not."""
    found = [gridding(rates, kernel=kernel) for rates in dict.fromkeys(map(tuple, stacks))]
    told = [str(stack) for stack in found if stack.holes]
    if told:
        warnings.warn(" ".join(told), GriddingWarning, stacklevel=3)


def gridding_of(model: nn.Module, *, stages: Sequence[str] | None = None) -> dict[str, Gridding]:
    """The stages of a network whose own convolutions leave pixels out, by layer name.

    Example: `gridding_of(torchvision.models.segmentation.fcn_resnet50(), stages=["backbone.layer4"])`.

    `stages` are layers whose convolutions run one after the other, as in a ResNet's stage; shortcuts beside them add no
    pixel. Without it `model.stages` is taken. What is judged is each stage alone, as in the paper, from its last
    convolution with a stride on: what the layers before it blur together is not counted in its favour. A stage with
    kernels of several sizes (1x1 apart) is passed over. Raises ConfigError where no stages are known.
    """
    names = getattr(model, "stages", None) if stages is None else stages
    if names is None:
        raise ConfigError(f"{type(model).__name__} does not say what its stages are. Name them: stages=['layer4'].")
    found: dict[str, Gridding] = {}
    for name in names:
        chain = _chain(model.get_submodule(name))
        kernels = {kernel for _, kernel in chain}
        if len(kernels) == 1:
            stack = gridding([rate for rate, _ in chain], kernel=kernels.pop())
            found |= {name: stack} if stack.holes else {}
    return found


def _chain(stage: nn.Module) -> list[tuple[int, int]]:
    """(rate, kernel) of the convolutions that look at more than one pixel, behind the last one with a stride."""
    chain: list[tuple[int, int]] = []
    for layer in stage.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size[0] > 1:
            chain = [*chain, (layer.dilation[0], layer.kernel_size[0])] if layer.stride[0] == 1 else []
    return chain


def _parts(rates: tuple[int, ...]) -> list[tuple[int, ...]]:
    """A stack cut into groups; a rest of one layer, which could not be mended alone, joins the group before it."""
    starts = list(range(0, len(rates), GROUP))
    if len(rates) % GROUP == 1 and len(starts) > 1:
        starts.pop()
    return [rates[start:end] for start, end in zip(starts, [*starts[1:], len(rates)], strict=True)]


def _without_holes(rates: tuple[int, ...], kernel: int) -> tuple[int, ...]:
    """Rising rates without holes, as even as there are, for the same receptive field or the widest there is."""
    widest = sum(kernel**layer for layer in range(len(rates)))  # n layers have kernel**n taps to lay side by side
    return min(_rising(len(rates), min(sum(rates), widest), kernel), key=lambda r: (r[-1], [-rate for rate in r]))


def _rising(layers: int, total: int, kernel: int, before: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    """All rising rates without holes that sum up to `total`.

    The first position that the smaller rates do not reach must be reached with one tap of the next rate, or by none.
    """
    if not layers:
        if not total:
            yield before
        return
    reach = 1 + (kernel - 1) * sum(before)
    for rate in range(before[-1] if before else 1, min(reach, total // layers) + 1):
        yield from _rising(layers - 1, total - rate, kernel, (*before, rate))
