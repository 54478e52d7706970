"""Images and the masks that belong to them: found by name, read, checked against each other, kept while memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from deepsup.datasets.image_files import Bytes, Read, read_image, size_in
from deepsup.datasets.image_ranges import Ranges
from deepsup.datasets.image_survey import Facts, gathered
from deepsup.datasets.mask_files import VOID, MaskReader, as_photographed, read_drawing
from deepsup.datasets.normalisation import byte_counts, counted_statistics
from deepsup.datasets.paired_transforms import Pixels, resized, scaled_size
from deepsup.datasets.preparation import Preparation
from deepsup.errors import DatasetError

MEMORY = 2**30  # bytes of images and labels that a split keeps


class Pair(NamedTuple):
    """The files of one image; `view` is the drawing of its field of view, if it has one."""

    name: str
    image: Path
    mask: Path
    view: Path | None = None

    @property
    def files(self) -> list[tuple[Path, str]]:
        """Its files, each with what it is."""
        views = [(self.view, "field of view")] if self.view else []
        return [(self.image, "image"), (self.mask, "mask"), *views]


@dataclass(frozen=True)
class PairReader:
    """From files to what is served: turned, prepared, resized, void outside of the field of view.

    `masks` None stands for drawings in black and white: 0 and 1. `ranges` are those of images of more than 8 bits.
    """

    masks: MaskReader | None
    prepare: Preparation | None = None
    size: int | tuple[int, int] | None = None
    ranges: Ranges = field(default_factory=Ranges)

    @property
    def channels(self) -> int:
        """How many channels images have."""
        return 3 if self.prepare is None else 1

    def __call__(self, pair: Pair) -> Pixels:
        """The image `(C, H, W)` and its labels `(H, W)`, both uint8; DatasetError names the file that is wrong."""
        photo = read_image(pair.image, self.ranges)
        image, labels = photo.pixels, self._labels(pair, photo)
        _check_same(image.shape[:2], labels.shape, pair.image, pair.mask, what="mask")
        pixels = image if self.prepare is None else self.prepare(image)[..., None]
        both = Pixels(torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), torch.from_numpy(labels))
        return resized(both, scaled_size((labels.shape[0], labels.shape[1]), self.size))

    def _labels(self, pair: Pair, photo: Read) -> Bytes:
        read = self.masks.read(pair.mask) if self.masks else read_drawing(pair.mask, "mask")
        labels: Bytes = as_photographed(read, photo, (pair.image, pair.mask), what="mask").astype("uint8", copy=False)
        if pair.view is None:
            return labels
        drawn = read_drawing(pair.view, "field of view")
        view = as_photographed(drawn, photo, (pair.image, pair.view), what="field of view")
        _check_same(labels.shape, view.shape, pair.mask, pair.view, what="field of view")
        if not view.any():
            raise DatasetError(
                f"the field of view {pair.view} is empty: no pixel of {pair.image.name} would count. Replace it by the one "
                "that belongs to the image."
            )
        labels[~view] = VOID
        return labels


class Pairs:
    """The images of a split, read by number; kept in memory while all of them need less than `memory` bytes.

    Then every file is read, and checked, at once; otherwise each time when its turn comes. `shape` is that of the largest
    image, or of the first where images are not kept.
    """

    def __init__(self, pairs: Sequence[Pair], reader: PairReader, *, memory: int = MEMORY) -> None:
        if not pairs:
            raise DatasetError("a split needs at least one labelled image; this one is empty.")
        self.names = tuple(pair.name for pair in pairs)
        self.channels, self.ranges = reader.channels, reader.ranges
        self._pairs, self._reader = tuple(pairs), reader
        height, width = scaled_size(size_in(pairs[0].image), reader.size)
        fits = (self.channels + 1) * height * width * len(pairs) <= memory
        self._kept = gathered(reader, pairs, what="images") if fits else None
        shapes = [(pixels.labels.shape[0], pixels.labels.shape[1]) for pixels in self._kept or ()] or [(height, width)]
        self.shape = (max(shape[0] for shape in shapes), max(shape[1] for shape in shapes))

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Pixels:
        return self._reader(self._pairs[index]) if self._kept is None else self._kept[index]

    @property
    def in_memory(self) -> bool:
        """Whether images are kept."""
        return self._kept is not None

    def counts(self) -> Tensor | None:
        """How many pixels of all images have each of the 256 stored labels; None where images are not kept."""
        if self._kept is None:
            return None
        return torch.stack([torch.bincount(pixels.labels.flatten(), minlength=256) for pixels in self._kept]).sum(0)

    def file(self, index: int) -> Path:
        """Where an image comes from."""
        return self._pairs[index].image


def statistics(pairs: Iterable[Pair], reader: Callable[[Pair], Pixels]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel over all labelled pixels, images scaled to 0..1; one pass.

    A constant channel gets a standard deviation of 1. DatasetError where no pixel is labelled.
    """
    counts: Tensor | None = None
    for pair in pairs:
        image, labels = reader(pair)
        found = byte_counts(image[:, labels != VOID])
        counts = found if counts is None else counts + found
    if counts is None or not int(counts.sum()):
        raise DatasetError("no pixel of the training images is labelled, so that they cannot be standardised.")
    return counted_statistics(counts)


def matched(
    images: Mapping[str, Path],
    masks: Mapping[str, Path],
    *,
    views: Mapping[str, Path] | None = None,
    where: str,
    what: str = "mask",
) -> list[Pair]:
    """Images and masks (`what` errors call them) of the same key, sorted by it; DatasetError where one has no counterpart, or
    there is none.
    """
    if not images:
        raise DatasetError(f"no image file (png, jpg, tif, ...) in {where}.")
    parts = [(what, masks)] + ([("field of view", views)] if views is not None else [])
    for called, files in parts:
        for key in images:
            if key not in files:
                raise DatasetError(
                    f"the image {images[key]} has no {called}: looked for {key!r} among {_few(files)}. Add it, or take the "
                    "image away."
                )
        for key in files:
            if key not in images:
                raise DatasetError(
                    f"the {called} {files[key]} has no image: looked for {key!r} among {_few(images)}. Add it, or take the "
                    f"{called} away."
                )
    return [Pair(images[key].stem, images[key], masks[key], views[key] if views else None) for key in sorted(images)]


def _few(files: Mapping[str, Path]) -> str:
    folders = {path.parent for path in files.values()}
    return f"the {len(files)} files of {min(folders)}" if folders else "no files"


def misfit(pair: Pair, facts: Mapping[Path, Facts]) -> DatasetError | None:
    """What `PairReader` would raise of an image and a mask of unequal size, by what is known of their files."""
    image = facts[pair.image]
    for path, what in pair.files[1:]:
        sizes = [facts[path].size, *([facts[path].size[::-1]] if image.turned else [])]
        if image.size not in sizes:
            return _unequal(image.size, facts[path].size, pair.image, path, what=what)
    return None


def _check_same(one: tuple[int, ...], other: tuple[int, ...], first: Path, second: Path, *, what: str) -> None:
    if tuple(one) != tuple(other):
        raise _unequal(one, other, first, second, what=what)


def _unequal(one: tuple[int, ...], other: tuple[int, ...], first: Path, second: Path, *, what: str) -> DatasetError:
    return DatasetError(
        f"{first} is {one[0]}x{one[1]} (height x width), its {what} {second} is {other[0]}x{other[1]}. They must be of "
        "the same size; take the files that belong together."
    )
