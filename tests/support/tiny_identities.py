"""Small data sets of identities in the layouts that are read: drawn figures, written where a test asks for them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from deepsup.datasets.stick_figures import drawn

MARKET = ("bounding_box_train", "query", "bounding_box_test")
TRAIN = [f"{who}_c{camera}s1_{n:06}_01.jpg" for who in ("0002", "0007", "0011") for camera in (1, 2) for n in range(2)]
QUERY = ["0003_c1s1_000001_00.jpg", "0005_c2s1_000001_00.jpg"]
GALLERY = [
    "0003_c1s1_000002_01.jpg",  # the query's own camera
    "0003_c2s1_000003_01.jpg",
    "0005_c1s1_000002_01.jpg",
    "0000_c1s1_000001_01.jpg",
    "-1_c2s1_000001_01.jpg",
]


def write_names(folder: Path, names: Iterable[str], *, first: int = 0) -> None:
    """A figure a name, none like another."""
    names = list(names)
    figures = drawn(first + 1, len(names), cameras=1, images=1, seed=3).images
    for name, image in zip(names, figures, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        # at the best quality JPEG keeps enough of a figure
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / name, quality=95)


def write_market(
    root: Path,
    *,
    train: Iterable[str] = TRAIN,
    query: Iterable[str] = QUERY,
    gallery: Iterable[str] = GALLERY,
    folders: tuple[str, str, str] = MARKET,
) -> Path:
    for part, (folder, names) in enumerate(zip(folders, (train, query, gallery), strict=True)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        write_names(root / folder, names, first=100 * part)
    return root


OWN = ("train", "query", "gallery")


def write_own(root: Path, *, cameras: bool = True) -> Path:
    """A folder an identity; who it is says the folder alone."""

    def file(who: str, camera: int, n: int) -> str:
        return f"{who}/c{camera}_{n}.png" if cameras else f"{who}/{10 * camera + n}.png"

    train = [file(who, camera, n) for who in ("cleo", "anna", "bert") for camera in (1, 2) for n in (0, 1)]
    query = [file(who, 1, 0) for who in ("dora", "emil")]
    gallery = [file(who, 2, 0) for who in ("dora", "emil", "0", "-1")]
    return write_market(root, train=train, query=query, gallery=gallery, folders=OWN)
