"""A small folder of images, written where a test asks for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, *, seed: int, width: int = 20, height: int = 14, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def write_pets(root: Path) -> Path:
    """Seven training images of two classes and four for validation, in several formats, none of them square."""
    for i in range(4):
        write_image(root / "train" / "cat" / f"{i}.png", seed=i)
        write_image(root / "val" / "dog" / f"{i}.JPG", seed=10 + i, mode="L")
    for i in range(3):
        write_image(root / "train" / "dog" / "more" / f"{i}.jpg", seed=20 + i, width=11, height=33)
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    (root / "train" / ".cache").mkdir()
    return root
