"""Prediction of large images tile by tile, averaged where tiles overlap."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from deepsup import losses
from deepsup.errors import ConfigError, OutputError
from deepsup.evaluation.devices import forward as forward_in_engine
from deepsup.features import main_prediction, replaced
from deepsup.supervision.attaching import Outputs
from deepsup.supervision.objectives import Objective
from deepsup.tasks.outputs import loss_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Forward = Callable[[nn.Module, Any], Any]
"""What takes the place of `net(x)`."""

Predicted = Tensor | Mapping[str, Tensor]
Window = tuple[int | slice, ...]
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@torch.no_grad()
def tiled(
    forward: Callable[[Tensor], Predicted],
    x: Tensor,
    *,
    side: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    binary: bool | Callable[[str, Tensor], bool] = False,
    align_corners: bool | Callable[[str], bool] = False,
    batch_size: int = 16,
) -> Tensor | dict[str, Tensor]:
    """Scores of whole images from overlapping tiles: probabilities are averaged wherever tiles overlap.

    Example: `tiled(model, x, side=48, stride=5).softmax(1)`, as retina-unet predicts vessels.

    `x` is `(N, C, *spatial)` with one to three spatial dimensions. `forward` gets `(n, C, *side)`, up to `batch_size` tiles
    of any of the images, and returns scores `(n, K, ...)`, or several by name, which are enlarged to the tile
    (`align_corners`). The last tile of a row ends where the image ends, so it may overlap more than the others. Without
    `stride` tiles overlap by half; with `stride=side` as little as possible. An image smaller than a tile is filled up
    with zeros, at the end of each dimension, and what was filled up is cut off again.

    Returns `(N, K, *spatial)` float32 for a tensor, a dict for names: logarithms of the averaged softmax, so that the
    softmax of the result is the average; with `binary` the logits of the averaged sigmoid. Both options may be functions of
    an output's name, `binary` also of its scores. Raises ConfigError for sizes
    that are not possible, OutputError when `forward` does not return scores.
    """
    spatial = x.shape[2:]
    if len(spatial) not in _MODES:
        raise ConfigError(f"tiled prediction needs images (N, C, ...) of 1 to 3 dimensions; found {tuple(x.shape)}.")
    sides = _each(side, len(spatial), "side")
    strides = _each(stride if stride is not None else [-(-s // 2) for s in sides], len(spatial), "stride")
    if any(step > length for step, length in zip(strides, sides, strict=True)):
        raise ConfigError(
            f"stride={strides} is larger than side={sides}: pixels between the tiles would have no scores."
        )
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} must be at least 1.")
    missing = [max(length - size, 0) for size, length in zip(spatial, sides, strict=True)]
    if any(missing):
        x = functional.pad(x, [pad for fill in reversed(missing) for pad in (0, fill)])
    starts = [_starts(size, length, step) for size, length, step in zip(x.shape[2:], sides, strides, strict=True)]
    sums: dict[str, _Sum] = {}
    named = True
    for places in _chunks(product(range(len(x)), *starts), batch_size):
        windows = [_window(place, sides) for place in places]
        found = forward(torch.stack([x[window] for window in windows]))
        named = isinstance(found, Mapping)
        for name, scores in _by_name(found).items():
            aligned = align_corners(name) if callable(align_corners) else align_corners
            scores = _enlarged(scores, len(places), sides, aligned)
            if name not in sums:
                sums[name] = _Sum(x, scores, binary=binary(name, scores) if callable(binary) else binary)
            sums[name].add(scores, windows)
    inner = (slice(None), slice(None), *(slice(size) for size in spatial))
    results = {name: total.scores()[inner] for name, total in sums.items()}
    return results if named else results[""]


def in_tiles(
    objective: Objective,
    *,
    side: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    batch_size: int = 16,
    fabric: Fabric | None = None,
) -> Forward:
    """A forward that works tile by tile (see `tiled`) and returns what the net returns, its maps at the size of the image."""
    pick = objective.plan.main if objective.plan else ()
    known = objective.predictions
    if objective.kind("main") == "values":
        raise ConfigError(
            "tiles are put together from probabilities, and this output gives values. Score whole images."
        )

    def sigmoid(name: str, scores: Tensor) -> bool:
        return scores.shape[1] == 1 or objective.kind(name) == "labels"

    def aligned(name: str) -> bool:
        return bool(losses.option(loss_of(name, objective), "align_corners", False))

    def run(net: nn.Module, x: Any) -> Any:
        last: list[Any] = []

        def scores_of(tiles: Tensor) -> dict[str, Tensor]:
            last[:] = [forward_in_engine(net, tiles, fabric)]
            main, aux = last[0] if isinstance(last[0], Outputs) else (last[0], {})
            given = {"main": main_prediction(main, pick), **aux}
            objective.settle(given, tiles.new_zeros((len(tiles), *tiles.shape[2:]), dtype=torch.long))
            return _maps(objective.first(given))

        sizes: dict[str, Any] = {"side": side, "stride": stride, "batch_size": batch_size}
        found = tiled(scores_of, x, binary=sigmoid, align_corners=aligned, **sizes)
        assert isinstance(found, dict)
        found = {name: known[name].back(s) if name in known else s for name, s in found.items()}
        whole = found.pop("main")
        (output,) = last
        if isinstance(output, Outputs):
            return Outputs(whole if isinstance(output.main, Tensor) else replaced(output.main, pick, whole), found)
        return whole if isinstance(output, Tensor) else replaced(output, pick, whole)

    return run


def _maps(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """All of them. Raises `ConfigError` for an output that is no map."""
    flat = [name for name, s in scores.items() if s.ndim != scores["main"].ndim]
    if flat:
        raise ConfigError(
            f"tiles are put together from maps, and the output '{flat[0]}' is none: {tuple(scores[flat[0]].shape)}. "
            "Score whole images: data.tile=null."
        )
    return scores


class _Sum:
    """Probabilities summed over tiles, and for sigmoids those of the contrary: near 1 they have the digits."""

    def __init__(self, x: Tensor, scores: Tensor, *, binary: bool) -> None:
        shape = (len(x), scores.shape[1], *x.shape[2:])
        self.binary = binary
        self.likely = torch.zeros(shape, device=scores.device)
        self.other = torch.zeros(shape if binary else (len(x), 1, *x.shape[2:]), device=scores.device)

    def add(self, scores: Tensor, windows: Sequence[Window]) -> None:
        likely = scores.sigmoid() if self.binary else scores.softmax(1)
        other = (-scores).sigmoid() if self.binary else torch.ones_like(scores[:, :1])
        for window, mine, its in zip(windows, likely, other, strict=True):
            self.likely[window] += mine
            self.other[window] += its

    def scores(self) -> Tensor:
        """Logits of the averaged sigmoids, or logarithms of the averaged softmax."""
        tiny = torch.finfo(torch.float32).tiny
        return self.likely.clamp_min_(tiny).log_() - self.other.clamp_min_(tiny).log_()


def _enlarged(scores: Tensor, tiles: int, sides: Sequence[int], align_corners: bool) -> Tensor:
    if not isinstance(scores, Tensor) or scores.ndim != len(sides) + 2 or len(scores) != tiles:
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise OutputError(
            f"forward must return scores (n, K, ...) of its {tiles} tiles of {tuple(sides)}; found {shape}."
        )
    scores = scores.float()
    if scores.shape[2:] == torch.Size(sides):
        return scores
    mode = _MODES[len(sides)]
    return functional.interpolate(scores, list(sides), mode=mode, align_corners=align_corners)


def _starts(size: int, side: int, stride: int) -> list[int]:
    """Where tiles begin along one dimension; the last one ends where the image does."""
    return [min(stride * number, size - side) for number in range(math.ceil((size - side) / stride) + 1)]


def _window(place: tuple[int, ...], sides: Sequence[int]) -> Window:
    """The tile of image number `place[0]` that starts at the rest of `place`."""
    spans = (slice(start, start + side) for start, side in zip(place[1:], sides, strict=True))
    return (place[0], slice(None), *spans)


def _chunks(places: Iterator[tuple[int, ...]], count: int) -> Iterator[list[tuple[int, ...]]]:
    chunk: list[tuple[int, ...]] = []
    for place in places:
        chunk.append(place)
        if len(chunk) == count:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _by_name(found: Predicted) -> Mapping[str, Tensor]:
    return found if isinstance(found, Mapping) else {"": found}


def _each(value: int | Sequence[int], count: int, what: str) -> list[int]:
    sides = [value] * count if isinstance(value, int) else list(value)
    if len(sides) != count or any(type(side) is not int or side < 1 for side in sides):
        raise ConfigError(f"{what}={value!r} must be one whole number of at least 1, or {count} of them.")
    return sides
