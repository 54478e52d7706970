"""Drawn images with a CSV file of labels or numbers beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def draw(path: Path, *, red: float = 0.5, rest: float = 0.5, shape: tuple[int, int] = (20, 24)) -> Path:
    """An image of one colour: the shares of red, and of green and blue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((*shape, 3), np.uint8)
    pixels[..., 0], pixels[..., 1:] = round(255 * red), round(255 * rest)
    Image.fromarray(pixels).save(path)
    return path


def write_table(root: Path, name: str, lines: Sequence[str], *, images: int = 3) -> Path:
    """`root/NAME.csv` with these lines, and images `0.png`, `1.png`, ... beside it."""
    for number in range(images):
        draw(root / f"{number}.png", red=(number + 1) / 9)
    file = root / f"{name}.csv"
    file.write_text("\n".join(lines), "utf-8")
    return file


def write_colours(root: Path, *, images: int = 60) -> Path:
    """Images whose colour is in `values.csv` as two numbers from 0 to 1, and in `labels.csv` as labels, some not known."""
    random = np.random.default_rng(0)
    values, labels = ["image,red,rest"], ["image,red,rest"]
    for number in range(images):
        red, rest = random.random(2).round(3)
        draw(root / "shots" / f"{number}.png", red=red, rest=rest)
        name = f"shots/{number}.png"
        values.append(f"{name},{red},{'' if number == 3 else rest}")
        labels.append(f"{name},{int(red > 0.5)},{'NaN' if number == 3 else int(rest > 0.5)}")
    for kind, lines in (("values", values), ("labels", labels)):
        (root / f"{kind}.csv").write_text("\n".join(lines), "utf-8")
    return root


def settings(root: Path, name: str, output: Path, **changes: Any) -> dict[str, Any]:
    """Of a run on them that learns in a second."""
    data = {"name": name, "root": str(root), "size": 16, "batch_size": 16}
    return {
        "name": name,
        "model": "tests.support.tiny_runs:dropout_net",
        "data": data,
        "optimizer": {"name": "adam", "lr": 0.01},
        "epochs": 8,
        "engine": {"accelerator": "cpu", "threads": 1},
        "output": str(output),
        **changes,
    }


def write_maps(
    root: Path, *, train: int = 24, val: int = 6, channels: int = 1, shape: tuple[int, int] = (16, 24)
) -> Path:
    """Images of red and grey places, and maps that say how red each is, and how grey; a corner of each is not known."""
    random = np.random.default_rng(1)
    for part, count in (("train", train), ("val", val)):
        for number in range(count):
            cells = random.random((2, shape[0] // 4, shape[1] // 4))
            red, rest = np.kron(cells, np.ones((1, 4, 4)))
            pixels = np.rint(255 * np.stack([red, rest, rest], 2)).astype(np.uint8)
            file = root / part / "images" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
            values = np.stack([red, rest])[:channels].astype(np.float32)
            values[:, :4, :4] = np.nan
            (root / part / "maps").mkdir(exist_ok=True)
            np.save(root / part / "maps" / f"{number}.npy", values)
    return root
