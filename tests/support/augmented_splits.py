"""What tests of datasets share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from deepsup.datasets import ArraySplit, Split
from deepsup.datasets.transforms import RANGE

torch.set_num_threads(1)


Batch = tuple[Tensor, Tensor]


def draws(count: int, width: int = 11) -> Tensor:
    return torch.randint(0, RANGE, (count, width), generator=torch.Generator().manual_seed(0))


def bytes_split(count: int = 11, *, side: int = 20, channels: int = 3, **options: Any) -> ArraySplit:
    """Random bytes whose label is their index, normalised by made-up statistics."""
    images = torch.randint(0, 256, (count, channels, side, side), generator=torch.Generator().manual_seed(1))
    statistics = {"mean": torch.full((channels,), 0.4), "std": torch.full((channels,), 0.2)}
    names = [str(i) for i in range(count)]
    return ArraySplit(images.to(torch.uint8), torch.arange(count), class_names=names, **statistics, **options)


def epoch_of(split: Split, batch_size: int = 4, **arguments: Any) -> list[Batch]:
    return list(split.batches(batch_size, **{"seed": 3, "epoch": 1, "shuffle": True} | arguments))


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) > 0 and all(
        torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(left, right, strict=True)
    )


AUGMENTED = ["standard", "reflect", "cutout(length=6)", "contrastive(length=6)"]


class Watch(TorchDispatchMode):
    """Sees every operation: refuses those that wait for a device's numbers, notes what moves between devices.

    What reads a CPU tensor without an operation, such as `tolist`, is seen on the device "meta", which has no numbers.
    """

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[torch.Size] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        waits = any(name in func.__name__ for name in self.WAITING)
        waits |= func.__name__.startswith("index") and any(_is_mask(each) for each in args[1:])
        assert not waits, f"{func} waits for the device"
        target = kwargs.get("device")
        if "_to_copy" in func.__name__ and target is not None and torch.device(target) != args[0].device:
            self.moved.append(args[0].shape)
        return func(*args, **kwargs)


def _is_mask(indices: Any) -> bool:
    each = indices if isinstance(indices, (list, tuple)) else [indices]
    return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in each)


def numbered(sizes: list[int]) -> list[Batch]:
    """Batches of samples that are all different, so that a sample tells where it came from."""
    ids = torch.arange(sum(sizes)).split(sizes)
    return [(each.float().view(-1, 1), each) for each in ids]


class Small(nn.Module):
    """Remembers in which memory layout it read its images and kept its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2)
        self.conv2 = nn.Conv2d(8, 8, 3, stride=2)
        self.fc = nn.Linear(8, 11)
        self.layouts: list[tuple[bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        tensors = (x, self.conv2.weight)
        if self.training:
            self.layouts.append(tuple(t.is_contiguous(memory_format=torch.channels_last) for t in tensors))
        return self.fc(self.conv2(self.conv1(x).relu()).relu().mean((2, 3)))
