"""Classes that count in inverse proportion to how often they occur."""

from __future__ import annotations

import inspect

from deepsup import losses, methods, specs
from deepsup.datasets import Dataset
from deepsup.errors import ConfigError
from deepsup.settings.training import TrainConfig


def balanced(shares: dict[str, float]) -> list[float]:
    """`1 / (C share)` for each of C classes, so that the mean over all labels is 1; 0 for a class that does not occur.

    >>> balanced({"a": 0.75, "b": 0.25})
    [0.666667, 2.0]
    """
    present = sum(share > 0 for share in shares.values())
    return [round(1 / (present * share), 6) if share else 0.0 for share in shares.values()]


def with_class_weight(config: TrainConfig, data: Dataset) -> TrainConfig:
    """The settings with the numbers of `class_weight: balanced` in the main output's loss.

    Raises `ConfigError` for a loss that has no such option or numbers of its own, and for labels that were not all counted.
    """
    if config.class_weight is None:
        return config
    method = methods.get(config.supervise.method if config.supervise else "none").under(config.main_loss)
    base = losses.show(config.main_loss or method.main_loss)
    name, options = losses.LOSSES.read(base)
    if "class_weight" not in inspect.signature(losses.LOSSES[name]).parameters:
        raise ConfigError(
            f"class_weight=balanced: the loss {base} weighs no classes. Set loss=cross_entropy, or leave it out."
        )
    if "class_weight" in options:
        raise ConfigError(f"class_weight=balanced beside loss={base}, which has its own. Give one of them.")
    shares = data.found.training.shares
    if shares is None:
        raise ConfigError(
            f"class_weight=balanced: the labels of {data.name} were not all counted. Give the loss its numbers."
        )
    weights = {"class_weight": balanced(shares)}
    return config.model_copy(update={"loss": specs.show_call(name, {**options, **weights})})
