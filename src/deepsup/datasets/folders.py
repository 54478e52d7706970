"""Images in one folder a class, read as they are needed."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from deepsup.datasets.splits import Share, Split, derived_seed
from deepsup.errors import DatasetError

# What ImageNet's trained networks expect; any fixed shift and scale does for the others.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
# Evaluation resizes the shorter side a little beyond the crop, as ImageNet's 256 for 224.
_MARGIN = 256 / 224


@final
class FolderSplit(Split):
    """Images on disk as RGB, resized and cropped to `size`, normalised with ImageNet's statistics.

    Example: `FolderSplit([(Path("a.png"), 0), (Path("b.png"), 1)], class_names=["cat", "dog"], size=64)`.

    `augment="standard"` takes a random part of 8 to 100 % of the area, resizes it to `size` and mirrors half of the
    images (each drawn from seed, epoch and sample); otherwise the shorter side is resized and the centre cut out.
    `workers` processes read ahead; neither their number nor their speed changes a batch. An image that cannot be
    read raises DatasetError with its path when its turn comes.
    """

    def __init__(
        self,
        samples: Sequence[tuple[Path, int]],
        *,
        class_names: Sequence[str],
        size: int,
        augment: str = "none",
        workers: int = 0,
    ) -> None:
        labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
        super().__init__(labels=labels, class_names=class_names, channels=3, size=size, augment=augment)
        self.paths = tuple(path for path, _ in samples)
        self.workers = workers
        self._transform = _transform(size, augment=augment)

    def _read(
        self, plan: Iterator[Share], *, seed: int, epoch: int, device: torch.device | str | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        loader = DataLoader(
            _Epoch(self.paths, self.labels, transform=self._transform, keys=(seed, epoch)),
            batch_sampler=[share.rows.tolist() for share in plan],
            num_workers=self.workers,
            collate_fn=_collate,
            generator=torch.Generator(),  # otherwise the loader would draw from the global stream
        )
        mean, std = (torch.tensor(value).view(1, 3, 1, 1).to(device) for value in (_MEAN, _STD))
        for batch in loader:
            if isinstance(batch, DatasetError):
                raise batch
            images, labels = batch
            yield (images.to(device).to(torch.float32) / 255 - mean) / std, labels.to(device)


class _Epoch(TorchDataset[Any]):
    """One epoch's view of the files: item i is the same whoever reads it and whenever."""

    def __init__(
        self, paths: Sequence[Path], labels: Tensor, *, transform: Callable[[Any], Tensor], keys: tuple[int, int]
    ) -> None:
        self.paths = paths
        self.labels = labels
        self.transform = transform
        self.keys = keys

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | DatasetError:
        try:
            image = read_image(self.paths[index])
        except DatasetError as error:
            return error  # returned, since an exception in a worker arrives wrapped in that worker's traceback
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would also seed the accelerators, whose state is not forked here.
            torch.default_generator.manual_seed(derived_seed("augment", *self.keys, index))
            return self.transform(image), self.labels[index]


def read_image(path: Path) -> Any:
    """Read an image file as a PIL image in RGB; DatasetError when that fails.

    Example: `read_image(Path("photo.jpg")).size`.
    """
    pillow = importlib.import_module("PIL.Image")
    try:
        with path.open("rb") as file:
            return pillow.open(file).convert("RGB")
    except (OSError, SyntaxError, ValueError, struct.error, pillow.DecompressionBombError) as error:
        raise DatasetError(
            f"cannot read the image {path}: {error}. Delete it, or replace it by a file that opens."
        ) from None


def _collate(items: list[tuple[Tensor, Tensor] | DatasetError]) -> tuple[Tensor, Tensor] | DatasetError:
    images, labels = [], []
    for item in items:
        if isinstance(item, DatasetError):
            return item
        images.append(item[0])
        labels.append(item[1])
    return torch.stack(images), torch.stack(labels)


def _transform(size: int, *, augment: str) -> Callable[[Any], Tensor]:
    """From a PIL image to uint8 `(3, size, size)`."""
    transforms = importlib.import_module("torchvision.transforms.v2")
    if augment == "standard":
        steps = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    else:
        steps = [transforms.Resize(round(size * _MARGIN)), transforms.CenterCrop(size)]
    composed: Callable[[Any], Tensor] = transforms.Compose([*steps, transforms.PILToTensor()])
    return composed


def folder_samples(folder: Path, *, class_names: Sequence[str]) -> list[tuple[Path, int]]:
    """All image files below `folder/<class name>/`, sorted, with the class's position as label; links are followed.

    Example: `folder_samples(Path("data/train"), class_names=["cat", "dog"])`. A class without a folder has none.
    """
    reader = importlib.import_module("torchvision.datasets.folder")
    positions = {name: label for label, name in enumerate(class_names)}
    found = reader.make_dataset(str(folder), positions, extensions=reader.IMG_EXTENSIONS, allow_empty=True)
    return [(Path(path), label) for path, label in found]


def class_folders(folder: Path) -> list[str]:
    """The names of the class folders below `folder`, sorted; hidden ones do not count."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
