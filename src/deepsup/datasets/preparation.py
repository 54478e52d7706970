"""What is done to every image of a data set before anything else, in training and validation alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from deepsup.errors import ConfigError
from deepsup.specs import closest, require

Bytes = NDArray[np.uint8]
Preparation = Callable[[Bytes], Bytes]

_OPENCV = {"purpose": "prepare='vessels', which equalises contrast,", "install": "deepsup[maps]"}
_CLIP, _TILES, _GAMMA = 2.0, (8, 8), 1.2
_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114


def vessels(image: Bytes) -> Bytes:
    """Photographs of the retina as orobix/retina-unet prepares them: `(H, W, 3)` to one channel `(H, W)`.

    Grey by luma, stretched to 0..255, contrast-limited histogram equalisation (limit 2, 8x8 tiles), gamma 1.2. The
    original first standardises by mean and deviation of all images and then stretches each image to 0..255; the
    stretching undoes any shift and scale, so that this is the same and an image's result depends on that image alone.
    """
    cv2 = require("cv2", **_OPENCV)
    grey = image.astype(np.float64) @ np.array([_RED, _GREEN, _BLUE])
    spread = grey.max() - grey.min()
    stretched = ((grey - grey.min()) / (spread if spread > 0 else 1) * 255).astype(np.uint8)
    equalised = cv2.createCLAHE(clipLimit=_CLIP, tileGridSize=_TILES).apply(stretched)
    table = ((np.arange(256) / 255) ** (1 / _GAMMA) * 255).astype(np.uint8)
    return np.asarray(table[equalised])


PREPARATIONS: dict[str, Preparation | None] = {"none": None, "vessels": vessels}


def get(name: str) -> Preparation | None:
    """The preparation of that name; ConfigError for one that does not exist, MissingPackageError without OpenCV."""
    if name not in PREPARATIONS:
        close = closest(name, PREPARATIONS, cutoff=0.3)
        raise ConfigError(f"no preparation is called {name!r}.{close} Preparations: {', '.join(PREPARATIONS)}.")
    if name == "vessels":
        require("cv2", **_OPENCV)
    return PREPARATIONS[name]
