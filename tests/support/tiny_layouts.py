"""Small data sets with a label a pixel, in every layout that is read, written where a test asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SHAPE = (24, 32)


def blocks(seed: int, *, shape: tuple[int, int] = SHAPE, labels: Sequence[int] = (0, 1, 2), side: int = 4) -> Any:
    """A mask of squares whose labels are drawn, each of `labels` at least once."""
    rows, columns = -(-shape[0] // side), -(-shape[1] // side)
    random = np.random.default_rng(seed)
    drawn = random.permutation(np.resize(np.array(labels), rows * columns)).reshape(rows, columns)
    return np.kron(drawn, np.ones((side, side), int))[: shape[0], : shape[1]].astype(np.uint8)


def picture(mask: Any, *, factor: int = 20) -> Any:
    """An image that says what is in the mask: red is `factor` times the label, green its complement, blue constant."""
    red = np.minimum(mask.astype(int) * factor, 255)
    return np.stack([red, 255 - red, np.full_like(red, 77)], 2).astype(np.uint8)


def save(path: Path, pixels: Any, *, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)
    return path


def write_camvid(root: Path, *, train: int = 4, validation: int = 2, ending: str = ".png") -> Path:
    for part, count in (("train", train), ("val", validation)):
        for number in range(count):
            mask = blocks(number + 10 * (part == "val"), labels=range(12))
            save(root / part / f"seq_{number}{ending}", picture(mask))
            save(root / f"{part}annot" / f"seq_{number}.png", mask)
    return root


def disc(shape: tuple[int, int], radius: float) -> Any:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return (rows - shape[0] // 2) ** 2 + (columns - shape[1] // 2) ** 2 <= radius**2


def write_drive(root: Path, *, images: int = 2, shape: tuple[int, int] = (40, 36), radius: float = 12) -> Path:
    """Photographs whose field of view is a disc, with vessels drawn in columns."""
    for part, first in (("training", 21), ("test", 1)):
        for number in range(first, first + images):
            stem = f"{number:02}"
            vessels = np.zeros(shape, np.uint8)
            vessels[:, number % 5 :: 6] = 255
            random = np.random.default_rng(number)
            save(root / part / "images" / f"{stem}_{part}.tif", random.integers(0, 256, (*shape, 3), dtype=np.uint8))
            save(root / part / "1st_manual" / f"{stem}_manual1.gif", vessels)
            save(root / part / "mask" / f"{stem}_{part}_mask.gif", disc(shape, radius).astype(np.uint8) * 255)
            if part == "test":
                second = Image.fromarray(np.roll(vessels, 1, 1) // 255).convert("P")
                second.putpalette([4, 2, 4, 252, 254, 252, 192, 2, 0] + [0] * 759)
                (root / part / "2nd_manual").mkdir(parents=True, exist_ok=True)
                second.save(root / part / "2nd_manual" / f"{stem}_manual2.gif")
    return root


def write_ade20k(root: Path, *, names: bool = True) -> Path:
    for part, count in (("training", 2), ("validation", 1)):
        for number in range(count):
            mask = blocks(number, labels=(0, 1, 75, 150))
            save(root / "images" / part / f"ADE_{number}.jpg", picture(mask, factor=1))
            save(root / "annotations" / part / f"ADE_{number}.png", mask)
    if names:
        rows = [f"{n}\t0.1\t9\t9\tthing {n}, object {n}" for n in range(1, 151)]
        (root / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]) + "\n")
    return root


def write_cityscapes(root: Path, *, kinds: Sequence[str] = ("labelIds",)) -> Path:
    for part, city in (("train", "aachen"), ("train", "ulm"), ("val", "lindau")):
        ids = blocks(len(city), labels=(0, 7, 26, 33, 5))
        stem = f"{city}_000000_000019"
        save(root / "leftImg8bit" / part / city / f"{stem}_leftImg8bit.png", picture(ids, factor=5))
        trained = np.full_like(ids, 255)
        for number, label in ((7, 0), (26, 13), (33, 18)):
            trained[ids == number] = label
        for kind in kinds:
            pixels = ids if kind == "labelIds" else trained
            save(root / "gtFine" / part / city / f"{stem}_gtFine_{kind}.png", pixels)
        save(root / "gtFine" / part / city / f"{stem}_gtFine_instanceIds.png", ids)
    return root


def write_pairs(
    root: Path,
    *,
    train: int = 3,
    validation: int = 2,
    mask: Callable[[int], Any] = blocks,
    stored: Callable[[Any], Any] = lambda mask: mask,
    mode: str | None = None,
    classes: str | None = None,
) -> Path:
    for part, count in (("train", train), ("val", validation)):
        for number in range(count):
            labels = mask(number + 10 * (part == "val"))
            save(root / part / "images" / f"{number}.png", picture(labels))
            save(root / part / "masks" / f"{number}.png", stored(labels), mode=mode)
    if classes is not None:
        (root / "classes.txt").write_text(classes)
    return root
