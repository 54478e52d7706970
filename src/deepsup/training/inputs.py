"""How a run prepares its images, kept beside its settings, so that a new image can be read without the data set.

`RUN/inputs.json`: `task`, `classes` (names), `palette` (a colour each, of label maps), `channels`, `size` (the side that
images of one label are resized to, of identities height and width), `mean` and `std` a channel; `ranges`, what is white in
images of more than 8 bits: in whole numbers, and in floats. Of tokens `channels` is how many symbols there are, `size` the
length, and the rest is empty. `built` is what the network was built for: classes, channels and size.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from deepsup import documents, label_maps, networks, ownership
from deepsup.datasets import Dataset, IdentitySplit, folder_split, identity_views, preparation
from deepsup.datasets.image_files import in_colour, read_rgb
from deepsup.datasets.image_ranges import Ranges
from deepsup.datasets.layouts import is_map
from deepsup.datasets.paired_transforms import Pixels, resized, scaled_size
from deepsup.datasets.token_files import read_inputs
from deepsup.datasets.value_maps import resized_image
from deepsup.errors import ConfigError
from deepsup.settings.data import DataConfig
from deepsup.specs import WHOLE, Limit, between, is_number, one_of
from deepsup.tasks import TASKS

FILE = "inputs.json"
_GREY = (0.299, 0.587, 0.114)
_LARGEST = 2**15  # pixels


def _is_list(value: object, of: Callable[[object], bool]) -> bool:
    return isinstance(value, tuple) and all(map(of, value))


def _is_colour(value: object) -> bool:
    return _is_list(value, lambda n: WHOLE.fits(n) and between(0, 255).fits(n)) and len(value) == 3  # type: ignore[arg-type]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and WHOLE.fits(value) and value >= 1


def _is_side(value: object) -> bool:
    return WHOLE.fits(value) and between(1, _LARGEST).fits(value)


_NUMBERS = Limit("a list of numbers", lambda v: _is_list(v, is_number))
_LIMITS = {  # of what the file says; tuples are its lists
    "task": one_of(*TASKS),
    "classes": Limit("a list of texts", lambda v: _is_list(v, lambda name: isinstance(name, str))),
    "palette": Limit("a list of colours, three numbers from 0 to 255 each", lambda v: _is_list(v, _is_colour)),
    "channels": Limit("a whole number of at least 1", _is_count),
    "size": Limit(
        f"a whole number from 1 to {_LARGEST}, or two", lambda v: _is_side(v) or (_is_list(v, _is_side) and len(v) == 2)
    ),
    "mean": _NUMBERS,
    "std": _NUMBERS,
    "built": Limit(
        "three whole numbers of at least 1", lambda v: v is None or (_is_list(v, _is_count) and len(v) == 3)
    ),
}


@dataclass(frozen=True)
class Inputs:
    """What is in `inputs.json`."""

    task: str
    classes: tuple[str, ...]
    palette: tuple[label_maps.Colour, ...]
    channels: int
    size: int | tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    ranges: tuple[int | None, float | None] = (None, None)
    built: tuple[int, int, int] | None = None

    @classmethod
    def of(cls, data: Dataset, *, classes: int | None = None) -> Inputs:
        """Those of a data set; `classes` is how many the network scores, where that is known."""
        split = data.validation
        mean, std = (getattr(split, name, torch.zeros(0)).flatten().tolist() for name in ("mean", "std"))
        palette = getattr(split, "palette", ())
        ranges = getattr(split, "ranges", Ranges())
        sides = (data.channels, split.shape if isinstance(split, IdentitySplit) else split.size)
        built = None if classes is None else (classes, data.train.channels, data.train.size)
        white = (ranges.whole, ranges.real)
        return cls(data.task, data.class_names, palette, *sides, tuple(mean), tuple(std), white, built)

    def save(self, folder: Path) -> None:
        """Write them into a run's folder."""
        ownership.write_text(folder, FILE, json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Inputs:
        """Read them. Raises `ConfigError` where a folder has none."""
        try:
            told: dict[str, Any] = documents.parsed(documents.content(folder / FILE))
            values: dict[str, Any] = {key: _frozen(value) for key, value in told.items()}
            for name, limit in _LIMITS.items():
                if name in values and not limit.fits(values[name]):
                    raise ValueError(f"{name} is {values[name]!r:.100}, and needs to be {limit.says}")
            return cls(**values)
        except FileNotFoundError:
            raise ConfigError(
                f"{folder} does not say how its images were prepared: it has no {FILE}. Runs of an older deepsup have none; "
                "start the run once more in another folder."
            ) from None
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"{folder / FILE} is damaged ({error}). Start the run once more in another folder."
            ) from None

    @property
    def length(self) -> int:
        """The size as one number, of tokens how long a sequence is."""
        return self.size if isinstance(self.size, int) else max(self.size)

    @property
    def tokens(self) -> Tensor | None:
        """Two sequences that can be shown to a net of tokens, always the same; None of images."""
        return networks.tokens(self.channels, self.length) if self.task == "tokens" else None

    def read(self, path: Path, settings: DataConfig) -> tuple[Tensor, Tensor]:
        """An image file as validation sees it (1, C, H, W), and its pixels (H0, W0, 3), uint8, turned as the file says; of a
        file of tokens twice its `inputs` (N, L).

        Raises `DatasetError` with the name of a file that cannot be read.
        """
        if self.task == "tokens":
            x = read_inputs(path, symbols=self.channels, length=self.length)
            return x, x
        ranges = Ranges(*self.ranges)
        pixels = read_rgb(path, ranges)
        original = torch.from_numpy(pixels)
        if isinstance(self.size, tuple):
            x = identity_views.view("none", self.size)(in_colour(path, ranges))
        elif TASKS[self.task].whole_images:
            x = self._map(pixels, settings)
        elif is_map(settings.name):
            size = (settings.size, settings.size) if isinstance(settings.size, int) else settings.size
            x = resized_image(original.permute(2, 0, 1).contiguous(), size)
        elif settings.name == "folder" or self.task in ("labels", "values"):
            (cut,) = folder_split.augmentations(self.task)["none"](self.size)
            x = cut(in_colour(path, ranges))
        else:
            x = self._square(original)
        mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (self.mean, self.std))
        return ((x.float() / 255 - mean) / std)[None], original

    def sizes_differ(self, settings: DataConfig) -> bool:
        """Whether images keep shapes of their own, as those of label maps do where neither tiles nor a size fix them."""
        whole = TASKS[self.task].whole_images or is_map(settings.name)
        return whole and settings.tile is None and not isinstance(settings.size, tuple)

    def steps(self, settings: DataConfig) -> list[dict[str, Any]]:
        """What `read` does to an image, for other programs, in order; resizing is bilinear with antialiasing."""
        if self.task == "tokens":
            return [{"read": "whole numbers (N, L)", "symbols": self.channels, "length": self.length}]
        white = {"white in whole numbers": self.ranges[0], "white in floats": self.ranges[1]}
        found: list[dict[str, Any]] = [{"read": "RGB of 8 bits, turned as EXIF says", **white}]
        if isinstance(self.size, tuple):
            found += [{"resize": list(self.size)}]
        elif TASKS[self.task].whole_images:
            found += [] if settings.prepare == "none" else [{"prepare": settings.prepare}]
            found += _resizing(settings.size)
        elif is_map(settings.name):
            found += [] if settings.size is None else [{"resize": _two(settings.size)}]
        elif self.task in ("labels", "values"):
            found += [{"resize": _two(self.size)}]
        elif settings.name == "folder":
            found += [{"resize shorter side": round(self.size * folder_split.MARGIN)}, {"centre crop": _two(self.size)}]
        else:
            found += [{"grey": list(_GREY)}] if self.channels == 1 else []
            found += [{"resize": _two(self.size)}]
        return [*found, {"divide": 255}, {"subtract mean": list(self.mean), "divide by std": list(self.std)}]

    def _map(self, pixels: Any, settings: DataConfig) -> Tensor:
        """Prepared and resized, uint8 (C, H, W)."""
        prepare = preparation.get(settings.prepare)
        made = pixels if prepare is None else prepare(pixels)[..., None]
        image = torch.from_numpy(np.ascontiguousarray(made)).permute(2, 0, 1)
        size = scaled_size((image.shape[1], image.shape[2]), settings.size)
        return resized(Pixels(image, image.new_zeros(image.shape[1:])), size).image

    def _square(self, original: Tensor) -> Tensor:
        """Grey where the data is, and resized to its side, 0..255."""
        image = original.permute(2, 0, 1).float()
        if self.channels == 1:
            image = (image * torch.tensor(_GREY).view(3, 1, 1)).sum(0, keepdim=True)
        assert isinstance(self.size, int)
        side = (self.size, self.size)
        return functional.interpolate(image[None], side, mode="bilinear", antialias=True, align_corners=False)[0]


def _two(size: int | tuple[int, int]) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)


def _resizing(size: int | tuple[int, int] | None) -> list[dict[str, Any]]:
    """As `scaled_size` has it."""
    if size is None:
        return []
    return [{"resize shorter side": size}] if isinstance(size, int) else [{"resize": list(size)}]


def _frozen(value: Any) -> Any:
    """Lists as tuples, within each other too."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
