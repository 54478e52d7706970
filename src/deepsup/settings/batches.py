"""What a method needs of batches: two crops of each image, or the samples of the batch before, switched on with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from deepsup import methods
from deepsup.datasets.layouts import task_of
from deepsup.errors import ConfigError
from deepsup.settings.data import DataConfig
from deepsup.settings.section import Settings
from deepsup.tasks import TASKS


class MixConfig(Settings):
    """Training images mixed with one another, and their labels with them."""

    mixup: float | None = Field(default=None, gt=0)
    """Each image and its label becomes the weighted mean of itself and another, the weight drawn from Beta(`mixup`, `mixup`)
    for a batch (Zhang et al. 2018; 0.2 is usual); null is no mixup. Only with one label an image."""
    cutmix: float | None = Field(default=None, gt=0)
    """A rectangle of each image is another's, and the label in proportion (Yun et al. 2019; 1 is usual); null is no cutmix. Where
    both are set, each batch has one of them."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Of the batches that are mixed; the others are as they are."""

    @property
    def on(self) -> bool:
        """Whether anything is mixed."""
        return self.mixup is not None or self.cutmix is not None

    def check(self, data: DataConfig) -> None:
        """Raise `ConfigError` where labels cannot be mixed, or batches hold samples that belong together."""
        if self.on and data.task != "classification":
            raise ConfigError(
                f"mix.{'cutmix' if self.mixup is None else 'mixup'} mixes one label an image, and {data.name} has "
                f"{TASKS[data.task].labelled}. Take it out."
            )
        if self.on and (data.views > 1 or data.overlap):
            together = "data.views=2" if data.views > 1 else "data.overlap"
            raise ConfigError(f"mix would mix what {together} puts into a batch to be compared. Set one of them.")


CROPS = "standard"  # the augmentation that tells two crops apart, where none is set


def as_needed(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a run with `data.views`, `data.overlap` and `data.augment` as its method needs them, where they are not
    set; what is set stays, and is checked as ever.
    """
    data, method = settings.get("data", {}), _method(settings)
    if method is None or not isinstance(data, Mapping) or not _of_images(data):
        return settings
    found: dict[str, Any] = {}
    if method.views > 1 and "views" not in data:
        found = {"views": method.views} | ({} if "augment" in data else {"augment": CROPS})
    if method.overlap and data.get("overlap") is None:
        found = {"overlap": True}
        if (
            data.get("augment", "none") != "none" and "views" not in data
        ):  # repeated samples come in an augmentation of their own
            found |= {"views": 2}
    return {**settings, "data": {**data, **found}} if found else settings


def said(name: str | None, data: DataConfig) -> str:
    """What the batches of a run hold because of its method, as a sentence; "" for most."""
    method = None if name is None else methods.get(name)
    if method is not None and method.views > 1 and data.views > 1:
        set_to = f"data.views is {data.views}, data.augment {data.augment}"
        return f"method '{method.name}' compares two crops of each image: {set_to}."
    if method is not None and method.overlap and data.overlap:
        again = "in an augmentation of their own" if data.views > 1 else "as they were"
        return (
            f"method '{method.name}' learns from the batch before: data.overlap is on, and images come back once, {again} "
            f"(data.views is {data.views})."
        )
    return ""


def _method(settings: Mapping[str, Any]) -> methods.Method | None:
    supervise = settings.get("supervise")
    if not isinstance(supervise, Mapping) or not isinstance(supervise.get("method"), str):
        return None
    try:
        return methods.get(supervise["method"])
    except ConfigError:  # said where the settings are checked
        return None


def _of_images(data: Mapping[str, Any]) -> bool:
    """Whether the data set has a class an image, which views and overlap are for."""
    name = data.get("name", "digits")
    try:
        return isinstance(name, str) and "views" in TASKS[task_of(name)].options
    except ConfigError:
        return False
