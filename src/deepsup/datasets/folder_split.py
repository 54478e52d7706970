"""Images in files, with a class, labels or numbers each, read as they are needed."""

from __future__ import annotations

import importlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from deepsup import specs
from deepsup.datasets.image_files import in_colour
from deepsup.datasets.image_listing import BESIDE, folders_in, listed
from deepsup.datasets.image_ranges import Ranges
from deepsup.datasets.normalisation import IMAGENET_MEAN, IMAGENET_STD
from deepsup.datasets.splits import Split, checked_labels, derived_seed, sent
from deepsup.datasets.transforms import Hole, Magnitude
from deepsup.datasets.whole_images import WHOLE, Recipes, Transform
from deepsup.errors import ConfigError, DatasetError

# Evaluation resizes the shorter side a little beyond the crop, as ImageNet's 256 for 224.
MARGIN = 256 / 224


@final
class FolderSplit(Split):
    """Images on disk as RGB, resized and cropped to `size`, normalised with ImageNet's statistics.

    Example: `FolderSplit([(Path("a.png"), 0), (Path("b.png"), 1)], class_names=["cat", "dog"], size=64)`.

    `augment="standard"` takes a random part of 8 to 100 % of the area, resizes it to `size` and mirrors half of the
    images, as torchvision's recipe for ImageNet; "contrastive" is a pair of views, that one and a second one with
    changed colours; with "none" the shorter side is resized and the centre cut out. Everything is drawn from seed,
    epoch, sample and view. `ranges` say what is white in images of more than 8 bits. `workers` processes read ahead;
    neither their number nor their speed changes a batch. An
    image that cannot be read raises DatasetError with its path when its turn comes.

    Of the tasks "labels" and "values" a sample comes with C numbers (NaN does not count), of which `class_names` are the
    names; images are resized whole, since a part need not show what they are about, and `augment` is "none" or "flips".
    """

    def __init__(
        self,
        samples: Sequence[tuple[Path, Any]],
        *,
        class_names: Sequence[str],
        size: int,
        augment: str = "none",
        views: int = 1,
        workers: int = 0,
        ranges: Ranges | None = None,
        task: str = "classification",
    ) -> None:
        self.task = task
        known = augmentations(task)
        made, options = known.read(augment)
        recipe = known[made](size, **options)
        super().__init__(
            samples=len(samples),
            class_names=class_names,
            channels=3,
            shape=(size, size),
            augment=augment,
            kinds=len(recipe) if made != "none" else 0,
            views=views,
        )
        one = task == "classification"
        labels = torch.tensor([label for _, label in samples], dtype=torch.int64 if one else torch.float32)
        if not one and labels.shape != (len(samples), self.classes):
            raise DatasetError(
                f"{len(samples)} images of {self.classes} {task} came with {tuple(labels.shape)} numbers."
            )
        self.labels = checked_labels(labels, classes=self.classes) if one else labels
        self.paths = tuple(path for path, _ in samples)
        self.workers = workers
        self.ranges = ranges or Ranges()
        self.mean, self.std = IMAGENET_MEAN, IMAGENET_STD
        self._transforms = tuple(recipe[view % len(recipe)] for view in range(views))

    def _read(
        self, plan: list[Tensor], *, seed: int, epoch: int, device: torch.device | str | None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        epoch_of = Epoch(self.picture, self.labels, transforms=self._transforms, keys=(seed, epoch))
        return loaded(epoch_of, plan, workers=self.workers, device=device)

    def picture(self, index: int) -> Any:
        """A PIL image in RGB, turned as its file says."""
        return in_colour(self.paths[index], self.ranges)


class Epoch(TorchDataset[Any]):
    """One epoch's view of images, which `picture` gives by number: item i is the same whoever reads it and whenever."""

    def __init__(
        self, picture: Callable[[int], Any], labels: Tensor, *, transforms: Sequence[Transform], keys: tuple[int, int]
    ) -> None:
        self.picture, self.labels = picture, labels
        self.transforms = transforms
        self.keys = keys

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | DatasetError:
        try:
            image = self.picture(index)
        except DatasetError as error:
            return error  # returned, since an exception in a worker arrives wrapped in that worker's traceback
        views = []
        with torch.random.fork_rng(devices=[]):
            for view, transform in enumerate(self.transforms):
                # torch.manual_seed would also seed the accelerators, whose state is not forked here.
                torch.default_generator.manual_seed(derived_seed("augment", *self.keys, index, view))
                views.append(transform(image))
        return torch.stack(views), self.labels[index]


def loaded(
    epoch: Epoch, plan: Sequence[Tensor], *, workers: int, device: torch.device | str | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of these rows, normalised by ImageNet's statistics on `device`; the first image that cannot be read is raised."""
    loader = DataLoader(
        epoch,
        batch_sampler=[rows.tolist() for rows in plan],
        num_workers=workers,
        collate_fn=collated,
        pin_memory=device is not None and torch.device(device).type == "cuda",
        generator=torch.Generator(),  # otherwise the loader would draw from the global stream
    )
    mean, std = (value.view(1, 3, 1, 1).to(device) for value in (IMAGENET_MEAN, IMAGENET_STD))
    for batch in loader:
        if isinstance(batch, DatasetError):
            raise batch
        images, labels = (sent(part, device) for part in batch)
        yield (images.to(torch.float32) / 255 - mean) / std, labels


def collated(items: list[tuple[Tensor, Tensor] | DatasetError]) -> tuple[Tensor, Tensor] | DatasetError:
    """Images `(views, 3, H, W)` one by one as a batch, view by view; the first error in place of it."""
    images, labels = [], []
    for item in items:
        if isinstance(item, DatasetError):
            return item
        images.append(item[0])
        labels.append(item[1])
    together = torch.stack(images, 1)
    return together.flatten(0, 1), torch.cat([torch.stack(labels)] * len(together))


AUGMENTATIONS: Recipes = specs.Registry("augmentation", ConfigError)


def augmentations(task: str) -> Recipes:
    """What images of a task may go through: those with labels or numbers stay whole."""
    return AUGMENTATIONS if task == "classification" else WHOLE


@AUGMENTATIONS.register
def none(size: int) -> tuple[Transform, ...]:
    v2 = _v2()
    return (_steps(v2.Resize(round(size * MARGIN)), v2.CenterCrop(size)),)


@AUGMENTATIONS.register
def standard(size: int) -> tuple[Transform, ...]:
    v2 = _v2()
    return (_steps(v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()),)


@AUGMENTATIONS.register
def contrastive(size: int) -> tuple[Transform, ...]:
    """The pair of views in the released ImageNet code of contrastive deep supervision (Zhang et al. 2022)."""
    v2 = _v2()
    colours = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
    second = (v2.RandomResizedCrop(size, scale=(0.2, 1.0)), v2.RandomHorizontalFlip(), colours, v2.RandomGrayscale(0.2))
    return (*standard(size), _steps(*second))


@AUGMENTATIONS.register
def randaugment(size: int, *, operations: Hole = 2, magnitude: Magnitude = 9) -> tuple[Transform, ...]:
    """`standard` and `operations` random changes of colour or place: RandAugment (Cubuk et al. 2020)."""
    v2 = _v2()
    return (_steps(v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), v2.RandAugment(operations, magnitude)),)


def _v2() -> Any:
    return importlib.import_module("torchvision.transforms.v2")


def _steps(*steps: Any) -> Transform:
    """From a PIL image to uint8 `(3, size, size)`."""
    v2 = _v2()
    composed: Transform = v2.Compose([*steps, v2.PILToTensor()])
    return composed


def folder_samples(folder: Path, *, class_names: Sequence[str]) -> tuple[list[tuple[Path, int]], Counter[str]]:
    """All image files below `folder/<class name>/`, sorted, with the class's position as label; and what is none, counted.

    Example: `folder_samples(Path("data/train"), class_names=["cat", "dog"])`. A class without a folder has none. Links are
    followed, and each file counts once; DatasetError for one that two classes have.
    """
    samples: list[tuple[Path, int]] = []
    skipped = Counter({BESIDE: len(listed(folder).files)})
    owners: dict[str, tuple[Path, int]] = {}
    for label, name in enumerate(class_names):
        if not (folder / name).is_dir():
            continue
        found = listed(folder / name, below=True)
        skipped += found.skipped
        for path in found.files:
            other, owner = owners.setdefault(os.path.realpath(path), (path, label))
            if owner != label:
                raise DatasetError(
                    f"{other} and {path} are one file, through a link, in two classes. Decide which of them it is of."
                )
            samples.append((path, label))
    return samples, skipped


def class_folders(folder: Path) -> list[str]:
    """The names of the class folders below `folder`, sorted; hidden ones do not count."""
    return [path.name for path in folders_in(folder)]
