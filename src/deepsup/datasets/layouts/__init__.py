"""Where each data set keeps its files: a function that loads it, registered with its task where it is written.

A new data set is a function in one of these files, or in a new one, which is found by being there:

>>> @layout("classification")
... def my_pictures(request: Request, *, part: int = 1) -> Dataset: ...
>>> task_of("my-pictures(part=2)")
'classification'
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeAlias

from deepsup import specs
from deepsup.datasets.request import Dataset
from deepsup.errors import ConfigError

Task: TypeAlias = str  # one of `deepsup.tasks.TASKS`
Layout: TypeAlias = Callable[..., Dataset]

LAYOUTS: specs.Registry[Layout] = specs.Registry("dataset", ConfigError, dashes=True)
_TASKS: dict[Layout, Task] = {}


def layout(task: Task) -> Callable[[Layout], Layout]:
    """Make the function below known as the data set of its name, with one label an image, or with a label a pixel."""

    def register(load: Layout) -> Layout:
        _TASKS[LAYOUTS.register(load)] = task
        return load

    return register


def task_of(text: str) -> Task:
    """The task of a data set, with or without options; of one that is not known it is classification."""
    name = text.partition("(")[0].strip()
    return _TASKS[LAYOUTS[name]] if name in LAYOUTS else "classification"


def is_map(text: str) -> bool:
    """Whether a data set, with or without options, has numbers a pixel."""
    return text.partition("(")[0].strip() == "value-maps"


def with_labels_a_pixel() -> str:
    """The names of the data sets for segmentation, as an error lists them."""
    return ", ".join(name for name in LAYOUTS if task_of(name) == "segmentation")


specs.import_all(sys.modules[__name__])
