"""Label maps as pictures: classes in colours, laid over an image, and where a prediction is right and wrong.

Arrays in, arrays out: images are uint8 (H, W, 3), label maps whole numbers (H, W). numpy and Pillow are loaded when
they are first needed; without them a `MissingPackageError` says what to install.
"""

from __future__ import annotations

import colorsys
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepsup.errors import ClassCountError, ConfigError, DatasetError
from deepsup.specs import require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]
    Labels = NDArray[np.integer[Any]]

_need = functools.partial(require, purpose="drawing label maps", install="deepsup[report]")

Colour = tuple[int, int, int]

IGNORE: Final = 255
"""The label that does not count, in a picture; as a tensor's label it is below zero. Neither has a colour of its own."""

VOID: Final[Colour] = (0, 0, 0)

HATCH: Final[tuple[Colour, Colour]] = (VOID, (96, 96, 96))
"""The stripes of `hatched`."""

LEGEND: Final[dict[str, Colour]] = {
    "true": (86, 180, 233),
    "missed": (240, 228, 66),
    "false": (213, 94, 0),
    "wrong": (213, 94, 0),
    "does not count": VOID,
}
"""What the colours of `error_map` say: two classes use the first three, more use `wrong`; the rest is the dimmed image.

Sky blue, yellow and vermillion of Okabe and Ito's colours: they stay apart by lightness alone, so for every eye.
"""

_FIRST: Final[tuple[Colour, ...]] = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66),
    (128, 128, 128),
)  # fmt: skip
"""Okabe and Ito's colours, and grey; black is left for what does not count."""

_GOLDEN: Final = 0.61803398875  # steps of it go round the circle of hues without coming near an earlier one for long
_DIM: Final = 0.4
_STRIPES: Final = 60  # along the longer side of a picture
_GREY: Final = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


def palette(n: int) -> tuple[Colour, ...]:
    """Return `n` different colours, always the same: a longer palette begins with the shorter.

    >>> palette(2)
    ((0, 114, 178), (230, 159, 0))
    """
    colours = dict.fromkeys(_FIRST)
    step = 0
    while len(colours) < n:
        hue, light = step * _GOLDEN % 1.0, (0.38, 0.62, 0.8)[step % 3]
        red, green, blue = colorsys.hls_to_rgb(hue, light, 0.65)
        colours.setdefault((round(255 * red), round(255 * green), round(255 * blue)))
        step += 1
    return tuple(colours)[:n]


def coloured(labels: Labels, colours: Sequence[Sequence[int]], *, ignore: int = IGNORE) -> Picture:
    """Return labels (H, W) as colours (H, W, 3): label `i` in `colours[i]`, what does not count in black.

    What does not count is `ignore` and every label below zero. Raises `ClassCountError` for a label without a colour.
    """
    np = _need("numpy")
    labels = _flat(labels)
    counts = _counts(labels, ignore=ignore)
    highest = int(labels[counts].max(initial=0))
    if highest >= len(colours):
        raise ClassCountError(
            f"label {highest} was found, and the palette has {len(colours)} colours, one a class from 0 on. Give a "
            f"colour for every class (label_maps.palette({highest + 1})), or the label to leave out as ignore={highest}."
        )
    table = np.asarray([*colours, VOID], dtype=np.uint8).reshape(-1, 3)
    drawn: Picture = table[np.where(counts, labels, len(colours))]
    return drawn


def overlay(
    image: Picture,
    labels: Labels,
    colours: Sequence[Sequence[int]],
    *,
    alpha: float = 0.5,
    ignore: int = IGNORE,
) -> Picture:
    """Return the image with its labels laid over it; `alpha` of 0 is the image, 1 the labels alone.

    What does not count is left as it is in the image.
    """
    np = _need("numpy")
    if not 0 <= alpha <= 1:
        raise ConfigError(
            f"asked for an overlay with alpha={alpha}. Give a number from 0 (the image) to 1 (the labels)."
        )
    labels = _flat(labels)
    image = _like(image, labels)
    mixed = (1 - alpha) * image.astype(np.float32) + alpha * coloured(labels, colours, ignore=ignore)
    drawn: Picture = np.where(_counts(labels, ignore=ignore)[..., None], np.rint(mixed).astype(np.uint8), image)
    return drawn


def error_map(
    prediction: Labels, truth: Labels, image: Picture, *, classes: int | None = None, ignore: int = IGNORE
) -> Picture:
    """Return where a prediction is right and wrong, in the colours of `LEGEND`, over the image in dim grey.

    Two classes (0 nothing, 1 the thing looked for): what was found, missed and falsely found. More classes: what is
    wrong. What does not count in the truth is black. `classes=None` takes labels of 0 and 1 alone for two classes.
    """
    np = _need("numpy")
    prediction, truth = _flat(prediction), _flat(truth)
    if prediction.shape != truth.shape:
        raise ConfigError(
            f"the prediction is {_size(prediction)} and the truth {_size(truth)} pixels (height x width). "
            "Enlarge the scores to the size of the labels before the classes are chosen."
        )
    drawn = dimmed(_like(image, truth))
    counts = _counts(truth, ignore=ignore)
    if classes is None:
        classes = 2 if max(int(m[counts].max(initial=0)) for m in (prediction, truth)) < 2 else 3
    if classes == 2:
        drawn[(prediction == 1) & (truth == 1)] = LEGEND["true"]
        drawn[(prediction != 1) & (truth == 1)] = LEGEND["missed"]
        drawn[(prediction == 1) & (truth != 1)] = LEGEND["false"]
    else:
        drawn[prediction != truth] = LEGEND["wrong"]
    drawn[~counts] = VOID
    return np.ascontiguousarray(drawn, dtype=np.uint8)  # type: ignore[no-any-return]


def hatched(picture: Picture, truth: Labels, *, ignore: int = IGNORE) -> Picture:
    """Return the picture with stripes over what does not count in the truth: no class and no image looks like that."""
    np = _need("numpy")
    truth = _flat(truth)
    drawn = _like(picture, truth).copy()
    rows, columns = np.indices(truth.shape, sparse=True)
    stripes = (rows + columns) // max(1, max(truth.shape) // _STRIPES) % 2
    table, void = np.asarray(HATCH, dtype=np.uint8), ~_counts(truth, ignore=ignore)
    drawn[void] = table[stripes][void]
    return drawn


def dimmed(image: Picture) -> Picture:
    """Return the image in dark grey, (H, W, 3): a ground on which colours can be told apart."""
    np = _need("numpy")
    grey = np.rint(_DIM * (np.asarray(image).astype(np.float32) @ np.asarray(_GREY, dtype=np.float32)))
    drawn: Picture = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    return drawn


def read_labels(path: str | Path) -> Labels:
    """Read a label map (H, W) from a picture whose pixels are class numbers (grey or with a palette)."""
    np = _need("numpy")
    picture = _opened(path)
    if picture.mode not in ("L", "P"):
        raise DatasetError(
            f"{path} is a picture of mode {picture.mode}, and a label map has one number of 8 bits a pixel (mode L or P). "
            "Is it a coloured copy of the labels? Give the file with the class numbers."
        )
    labels: Labels = np.array(picture, dtype=np.uint8)
    return labels


def read_picture(path: str | Path) -> Picture:
    """Read an image as uint8 (H, W, 3); a grey one has three equal channels."""
    np = _need("numpy")
    picture: Picture = np.array(_opened(path).convert("RGB"), dtype=np.uint8)
    return picture


def write_picture(path: str | Path, picture: Labels) -> Path:
    """Write a picture (H, W, 3) or a label map (H, W), both uint8, to a file whose ending says how: .png keeps all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _need("PIL.Image").fromarray(picture).save(target)
    return target


def png(picture: Labels, palette: Sequence[Colour] = ()) -> bytes:
    """The bytes of a picture (H, W, 3) or a label map (H, W), both uint8, as PNG; numbers of classes in a palette's colours."""
    buffer = io.BytesIO()
    image = _need("PIL.Image").fromarray(picture)
    if palette:
        image.putpalette([part for colour in palette for part in colour])
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _opened(path: str | Path) -> Any:
    file = Path(path)
    if not file.is_file():
        raise DatasetError(f"there is no picture {file}. Check the path, or write it again.")
    try:
        picture = _need("PIL.Image").open(io.BytesIO(file.read_bytes()))
        picture.load()
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's SyntaxError: a broken PNG
        raise DatasetError(f"{file} cannot be read as a picture ({error}). It is damaged: write it again.") from error
    return picture


def _flat(labels: Labels) -> Labels:
    found: Labels = _need("numpy").asarray(labels)
    if found.ndim != 2 or found.dtype.kind not in "iu":
        raise ConfigError(
            f"a label map is whole numbers of shape (height, width), found {found.dtype} of shape {found.shape}. "
            "Draw one map of a batch at a time, after the classes were chosen (argmax)."
        )
    return found


def _like(image: Picture, labels: Labels) -> Picture:
    """Return the image if it has the size of the labels and is what we draw on."""
    found: Picture = _need("numpy").asarray(image)
    if found.shape != (*labels.shape, 3) or found.dtype != "uint8":
        raise ConfigError(
            f"labels of {_size(labels)} pixels (height x width) need an image of uint8 and shape "
            f"{(*labels.shape, 3)}, found {found.dtype} of shape {found.shape}. A tensor (3, H, W) is turned with "
            ".permute(1, 2, 0).numpy(); a grey image repeats its channel."
        )
    return found


def _counts(labels: Labels, *, ignore: int) -> Any:
    return (labels != ignore) & (labels >= 0)


def _size(labels: Labels) -> str:
    return " x ".join(map(str, labels.shape))
