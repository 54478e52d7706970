"""Data sets with one label an image, each as a training and a validation split."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from deepsup.datasets.array_split import ArraySplit
from deepsup.datasets.folder_split import FolderSplit, class_folders, folder_samples
from deepsup.datasets.found import Files
from deepsup.datasets.image_survey import ranges_of, survey
from deepsup.datasets.layouts import layout
from deepsup.datasets.normalisation import channel_statistics
from deepsup.datasets.published_files import read_cifar, read_idx, read_original, read_svhn
from deepsup.datasets.request import DEFAULT_ROOT, Dataset, Request
from deepsup.errors import DatasetError
from deepsup.specs import require


@layout("classification")
def digits(request: Request) -> Dataset:
    """1,797 grey digits of 8x8 pixels, inside scikit-learn; a fifth of them is validation."""
    bunch = require("sklearn.datasets", purpose="the dataset digits").load_digits()
    images = torch.as_tensor(bunch.images, dtype=torch.float32)[:, None] / 16
    labels = torch.as_tensor(bunch.target)
    side = request.side or 16
    # Enlarged once and before augmentation: crops of the 8x8 originals would lose half of the digit.
    images = functional.interpolate(images, (side, side), mode="bilinear", align_corners=False)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    held_out = -(-len(images) // 5)
    train, validation = order[held_out:], order[:held_out]
    return _in_memory(
        request,
        train=(images[train], labels[train]),
        validation=(images[validation], labels[validation]),
        class_names=[str(digit) for digit in range(10)],
    )


@layout("classification")
def mnist(request: Request) -> Dataset:
    """Handwritten digits, 28x28, in torchvision's layout."""
    return _idx(request, _published("mnist").MNIST)


@layout("classification")
def fashion_mnist(request: Request) -> Dataset:
    """Pictures of clothes, 28x28, in torchvision's layout."""
    return _idx(request, _published("fashion-mnist").FashionMNIST)


@layout("classification")
def cifar10(request: Request) -> Dataset:
    """Ten kinds of things, 32x32 in colour, in torchvision's layout."""
    return _cifar(request, _published("cifar10").CIFAR10)


@layout("classification")
def cifar100(request: Request) -> Dataset:
    """A hundred kinds of things, 32x32 in colour, in torchvision's layout."""
    return _cifar(request, _published("cifar100").CIFAR100)


def _idx(request: Request, source: Any) -> Dataset:
    root = request.root or DEFAULT_ROOT
    places = [root / source.__name__ / "raw", root]
    stems = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
    if request.download and _idx_files(places, stems) is None:
        _download(partial(source, train=False), root, request.name)
    paths = _idx_files(places, stems)
    if paths is None:
        looked = ", ".join(f"{stem}[.gz]" for stem in stems)
        raise DatasetError(_missing(request.name, looked, " or ".join(map(str, places))))
    images, labels, test_images, test_labels = (
        read_idx(path, dimensions=3 if "images" in path.name else 1) for path in paths
    )
    for at, pictures, targets in ((0, images, labels), (2, test_images, test_labels)):
        if len(pictures) != len(targets):
            raise DatasetError(f"{paths[at]} has {len(pictures)} images, {paths[at + 1]} has {len(targets)} labels.")
    return _in_memory(
        request,
        train=(images[:, None], labels),
        validation=(test_images[:, None], test_labels),
        class_names=source.classes,
    )


def _idx_files(folders: list[Path], stems: list[str]) -> list[Path] | None:
    """The four files in the first folder that has them all."""
    for folder in folders:
        found = [path for stem in stems for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()]
        by_stem = {path.name.removesuffix(".gz"): path for path in reversed(found)}
        if len(by_stem) == len(stems):
            return [by_stem[stem] for stem in stems]
    return None


def _cifar(request: Request, source: Any) -> Dataset:
    root = request.root or DEFAULT_ROOT
    files = [*source.train_list, *source.test_list, (source.meta["filename"], source.meta["md5"])]
    folder = root if (root / files[-1][0]).is_file() else root / source.base_folder
    if request.download and folder != root:
        _download(partial(source, train=False), root, request.name)
    absent = [name for name, _ in files if not (folder / name).is_file()]
    if absent:
        raise DatasetError(_missing(request.name, ", ".join(absent), str(folder)))
    meta = read_original(folder / source.meta["filename"], md5=source.meta["md5"])
    return _in_memory(
        request,
        train=read_cifar(folder, source.train_list),
        validation=read_cifar(folder, source.test_list),
        class_names=meta[source.meta["key"]],
    )


@layout("classification")
def svhn(request: Request) -> Dataset:
    """House numbers, 32x32 in colour, without the extra images."""
    source = _published("svhn").SVHN
    require("scipy.io", purpose="the dataset svhn")
    root = request.root or DEFAULT_ROOT
    files = {part: root / source.split_list[part][1] for part in ("train", "test")}
    for part, path in files.items():
        if request.download and not path.is_file():
            _download(partial(source, split=part), root, request.name)
    absent = [path.name for path in files.values() if not path.is_file()]
    if absent:
        raise DatasetError(_missing(request.name, ", ".join(absent), str(root)))
    return _in_memory(
        request,
        train=read_svhn(files["train"]),
        validation=read_svhn(files["test"]),
        class_names=[str(digit) for digit in range(10)],
    )


def _in_memory(
    request: Request, *, train: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor], class_names: Sequence[str]
) -> Dataset:
    mean, std = channel_statistics(train[0])  # of everything: a quick run normalises as the full run does
    shared: dict[str, Any] = {
        "class_names": request.known(class_names),
        "size": request.side,
        "mean": mean,
        "std": std,
    }
    images, labels = map(request.kept, request.among(*train))
    return Dataset(
        request.name,
        ArraySplit(images, labels, augment=request.augment, views=request.views, **shared),
        ArraySplit(*request.among(*validation), **shared),
    )


@layout("classification")
def folder(request: Request) -> Dataset:
    """Images of one's own, or ImageNet's, in `train/CLASS/` and `val/CLASS/`."""
    _published("folder")
    if request.root is None:
        raise DatasetError("the dataset 'folder' needs root=..., a folder with train/CLASS/* and val/CLASS/* images.")
    parts = {part: request.root / part for part in ("train", "val")}
    class_names = _class_names(request, parts)
    found = {part: folder_samples(place, class_names=class_names) for part, place in parts.items()}
    samples = {part: listing for part, (listing, _) in found.items()}
    empty = sorted(set(class_names) - {class_names[label] for _, label in samples["train"]})
    if empty:
        raise DatasetError(
            f"{parts['train']} has no image file (png, jpg, webp, ...) of: {', '.join(empty)}.{_others(found['train'][1])}"
        )
    if not samples["val"]:
        raise DatasetError(
            f"{parts['val']} has no image file (png, jpg, webp, ...) in any class folder.{_others(found['val'][1])}"
        )
    train = [samples["train"][row] for row in request.kept(torch.arange(len(samples["train"]))).tolist()]
    facts = survey((path, "image") for path, _ in (*train, *samples["val"]))
    shared: dict[str, Any] = {
        "class_names": class_names,
        "size": request.side or 224,
        "workers": request.workers,
        "ranges": ranges_of(facts.values()),
    }
    return Dataset(
        "folder",
        FolderSplit(train, augment=request.augment, views=request.views, **shared),
        FolderSplit(samples["val"], **shared),
        Files(facts, found["train"][1] + found["val"][1]),
    )


def _class_names(request: Request, parts: Mapping[str, Path]) -> list[str]:
    """Those of the class folders, where both parts have such as fit together."""
    for part, place in parts.items():
        if not place.is_dir():
            there = ", ".join(class_folders(place.parent)) if place.parent.is_dir() else ""
            raise DatasetError(
                f"{place} is not a folder. Looked in {place.parent} for train/ and val/, found: {there or 'nothing'}."
            )
        if not class_folders(place):
            raise DatasetError(f"{place} has no class folders. Put the images of each {part} class in its own folder.")
    class_names = class_folders(parts["train"])
    strange = sorted(set(class_folders(parts["val"])) - set(class_names))
    if strange:
        raise DatasetError(f"{parts['val']} has classes that {parts['train']} has not: {', '.join(strange)}.")
    class_names = request.known(class_names)
    if len(class_names) == 1:
        raise DatasetError(
            f"{parts['train']} has the class folder {class_names[0]!r} alone. With one class there is nothing to learn: give "
            "every class a folder."
        )
    return class_names


def _others(skipped: Counter[str]) -> str:
    told = ", ".join(f"{count} {reason}" for reason, count in skipped.items() if count)
    return f" Files that are none: {told}." if told else ""


def _published(name: str) -> Any:
    return require("torchvision.datasets", purpose=f"the dataset {name}")


def _download(source: Callable[..., Any], root: Path, name: str) -> None:
    """Let torchvision's own downloader fetch, check and unpack the files; it leaves good files alone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchvision also opens the files, see read_original
            source(root=str(root), download=True)
    except (RuntimeError, OSError, EOFError) as error:
        raise DatasetError(f"{name} could not be downloaded to {root}: {error}") from error


def _missing(name: str, files: str, place: str) -> str:
    return (
        f"{name} is not complete in {place}. Missing: {files}. Pass root=... (the folder that holds them), or "
        f"download=True (data.download=true on the command line) to fetch them."
    )
