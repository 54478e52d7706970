"""How large the values of a tensor are, measured cheaply enough to do it for every layer in every step.

The mean of |gradient| is exact and makes no copy of the tensor. Median, 5th percentile and the share below a threshold
are exact for tensors of up to 4096 values; of larger ones they come from 512 values at fixed pseudo-random positions, the
same in every step, drawn by a generator of their own. Shares and ranks estimated so have a standard error of 1 to 2 % of
the values; more positions would cost more than the 5 % of a training step that a probe may take. Where the mean alone is
asked for (activations), it comes from such a sample too: right to a few percent.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

EXACT = 4096  # up to so many values all are looked at
SAMPLE = 512  # of more
CHUNK = 2**18  # 1 MiB of float32: absolute values are made in pieces that stay in the processor's cache
DIGITS = 6  # that are kept: more than the sums are good for, and a third of the length in a journal

Key = tuple[str, str]  # what, and in which layer


@dataclass(frozen=True)
class Magnitudes:
    """|values| of one tensor, an entry an iteration; all 0 (and `vanished` 1) where an iteration skipped it.

    `median` and `p5` (5th percentile) interpolate between neighbours; `vanished` is the share of values under the
    threshold, in [0, 1].
    """

    mean: tuple[float, ...]
    median: tuple[float, ...] = ()
    p5: tuple[float, ...] = ()
    vanished: tuple[float, ...] = ()


def average(values: tuple[float, ...]) -> float:
    """Mean over the iterations; NaN where nothing was measured."""
    return math.fsum(values) / len(values) if values else math.nan


class Meter:
    """Adds up magnitudes by key, iteration by iteration; the numbers stay on the device until `read`.

    >>> meter = Meter(1e-7)
    >>> meter.add(("weight", "conv1"), torch.ones(3))
    >>> meter.step()
    >>> meter.read()[("weight", "conv1")].mean
    (1.0,)
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._positions: dict[Any, Tensor] = {}
        self._ranks: Tensor | None = None
        self._done: list[_Step] = []
        self._new()

    def add(self, key: Key, tensor: Tensor, *, calls: int = 1) -> None:
        """Count a tensor under `key`; several in one iteration count as one, sampled as `calls` of them share a sample."""
        tensor = tensor.detach()
        if tensor.is_sparse:
            tensor = tensor.to_dense()
        self._count(key, _absolute_sum(tensor), tensor.numel())
        self._samples[key].append(self._sample(tensor, EXACT // calls, max(1, SAMPLE // calls)))

    def add_mean(self, key: Key, tensor: Tensor) -> None:
        """Count only the mean of a tensor under `key`: exact up to 4096 values, from a sample of larger ones."""
        values = self._sample(tensor.detach(), EXACT, SAMPLE)
        self._count(key, values.abs().mean() * tensor.numel(), tensor.numel())

    def step(self) -> None:
        """End the iteration."""
        by_size: dict[int, list[Key]] = defaultdict(list)
        samples = {key: torch.cat(parts) if len(parts) > 1 else parts[0] for key, parts in self._samples.items()}
        for key, values in samples.items():
            if values.numel():
                by_size[values.numel()].append(key)
        numbers = [torch.stack([s.to(self._device()) for s in self._sums.values()])] if self._sums else []
        for keys in by_size.values():  # one sort for all tensors of one size
            values = torch.stack([samples[key].to(self._device()) for key in keys]).abs_()
            if self._ranks is None:
                self._ranks = values.new_tensor((0.5, 0.05))
            numbers += [*torch.quantile(values, self._ranks, dim=1)]
            numbers += [(values < self.threshold).sum(1) / values.shape[1]]
        order = [key for keys in by_size.values() for key in keys]
        sizes = [len(keys) for keys in by_size.values()]
        self._done.append(_Step(dict(self._counts), order, sizes, torch.cat(numbers) if numbers else None))
        self._new()

    def read(self) -> dict[Key, Magnitudes]:
        """Everything that was measured, in one transfer from the device."""
        tensors = [step.numbers for step in self._done if step.numbers is not None]
        numbers = torch.cat(tensors).tolist() if tensors else []
        steps = []
        for step in self._done:
            length = 0 if step.numbers is None else len(step.numbers)
            steps.append(step.table(numbers[:length]))
            numbers = numbers[length:]
        keys = dict.fromkeys(key for step in steps for key in step)
        skipped = (0.0, 0.0, 0.0, 1.0)
        return {key: Magnitudes(*zip(*(step.get(key, skipped) for step in steps), strict=True)) for key in keys}

    def _new(self) -> None:
        self._sums: dict[Key, Tensor] = {}
        self._counts: dict[Key, int] = defaultdict(int)
        self._samples: dict[Key, list[Tensor]] = defaultdict(list)

    def _count(self, key: Key, total: Tensor, numel: int) -> None:
        self._counts[key] += numel
        self._sums[key] = self._sums[key] + total if key in self._sums else total

    def _device(self) -> torch.device:
        return next(iter(self._sums.values())).device  # the first layer's, where a model lies on several

    def _sample(self, tensor: Tensor, most: int, count: int) -> Tensor:
        """All values of a tensor that has at most so many, else `count` of them."""
        size = tensor.numel()
        if size <= most:
            return tensor.reshape(-1).float()
        key = (size, count, tensor.device)
        if key not in self._positions:
            own = torch.Generator().manual_seed(size)
            self._positions[key] = torch.randint(size, (count,), generator=own).to(tensor.device)
        return torch.take(tensor, self._positions[key]).float()  # reads any memory layout where it lies


@dataclass(frozen=True)
class _Step:
    """One iteration: how many values each sum is over, and the numbers, of which the sums come first."""

    counts: dict[Key, int]
    order: list[Key]  # of the keys with samples, in groups of so many
    sizes: list[int]
    numbers: Tensor | None

    def table(self, numbers: list[float]) -> dict[Key, tuple[float, float, float, float]]:
        means = {key: total / max(1, n) for (key, n), total in zip(self.counts.items(), numbers, strict=False)}
        sampled: dict[Key, tuple[float, ...]] = {}
        start, first = len(self.counts), 0
        for size in self.sizes:
            columns = [numbers[at : at + size] for at in range(start, start + 3 * size, size)]  # median, p5, vanished
            sampled |= dict(zip(self.order[first : first + size], zip(*columns, strict=True), strict=True))
            start, first = start + 3 * size, first + size
        rest = dict.fromkeys(means, (0.0, 0.0, 1.0)) | sampled
        return {key: (_short(mean), *map(_short, rest[key])) for key, mean in means.items()}  # type: ignore[misc]


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _absolute_sum(tensor: Tensor) -> Tensor:
    """Sum of |values| in float32, without a copy of the whole tensor, whatever its memory layout.

    On processors the 1-norm of torch adds one value after the other: slow, and off in the fourth digit for millions of
    values. So the tensor is cut into pieces there, along its first axes.
    """
    if tensor.device.type != "cpu":
        norm: Tensor = torch.linalg.vector_norm(tensor, 1, dtype=torch.float32)
        return norm
    if tensor.numel() <= CHUNK:
        return tensor.abs().sum(dtype=torch.float32)
    dim = next(i for i, n in enumerate(tensor.shape) if n > 1)
    rows = max(1, CHUNK * tensor.shape[dim] // tensor.numel())
    return torch.stack([_absolute_sum(piece) for piece in torch.split(tensor, rows, dim)]).sum()
