"""Images as odd cameras and programs save them: turned, of many bits, with few, in pages, see-through."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ORIENTATION = 0x0112
GREY = np.arange(0, 240, 12, dtype=np.uint8).reshape(4, 5)
COLOURS = np.stack([GREY, 255 - GREY, GREY // 2], 2)


def write(path: Path, pixels: Any, *, mode: str | None = None, orientation: int | None = None, **options: Any) -> Path:
    """An image file of these pixels, with EXIF's orientation if one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(pixels))
    if orientation is not None:
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        options["exif"] = exif
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def write_palette(path: Path, indices: Any, palette: list[tuple[int, int, int]], **options: Any) -> Path:
    """A file that stores `indices` (H, W) into a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(indices, np.uint8)).convert("P")
    image.putpalette([part for colour in palette for part in colour])
    image.putdata(np.asarray(indices).ravel().tolist())
    image.save(path, **options)
    return path


def write_png(path: Path, samples: Any, *, depth: int, kind: int) -> Path:
    """A PNG by its specification: `depth` bits a sample; `kind` 0 grey, 2 RGB, 4 grey with transparency, 6 RGB with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.asarray(samples)
    height, width = rows.shape[:2]
    data = b"".join(b"\0" + _packed(row.ravel(), depth) for row in rows)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, content) for name, content in chunks))
    return path


def write_pages(path: Path, pages: list[Any]) -> Path:
    """One file with several images in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = map(Image.fromarray, pages)
    first.save(path, save_all=True, append_images=others)
    return path


def _packed(row: Any, depth: int) -> bytes:
    bits = "".join(format(int(sample), f"0{depth}b") for sample in row)
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
