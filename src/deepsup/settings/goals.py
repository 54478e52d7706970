"""What a run is trained for and judged by: the loss and the metric that fit what its images are labelled for."""

from __future__ import annotations

from collections.abc import Collection

from deepsup import losses, methods, networks
from deepsup.errors import ConfigError
from deepsup.predictions import KINDS, word
from deepsup.specs import closest
from deepsup.tasks import TASKS
from deepsup.tasks.task import metrics_of, named


def usual_loss(task: str) -> str | None:
    """The main output's loss by the task; None where the method has one, as all have for classes."""
    return None if word(task).kind == "class" else word(task).loss


def check_loss(loss: str | None, task: str, *, of: str) -> None:
    """Raise `ConfigError` for a loss that reads something else than the data set `of` has."""
    kind = word(task).kind
    takes = losses.describe(loss).kinds if loss is not None else ()
    if takes and kind not in takes:
        described = {name: losses.describe(name) for name in losses.LOSSES}
        able = [name for name, what in described.items() if what.scores and kind in what.kinds]
        raise ConfigError(
            f"loss: {loss} reads {' or '.join(KINDS[one] for one in takes)}, and {of} has {TASKS[task].labelled}. It can be "
            f"{', '.join(able)}, or null."
        )


def check_model(model: str, task: str, *, of: str) -> None:
    """Raise `ConfigError` for a network by name that reads images where the data set `of` has tokens, or the reverse."""
    reads, has = networks.reads(model), "tokens" if task == "tokens" else "images"
    if reads is not None and reads != has:
        forms = "deepsup:transformer-4 (or another depth)" if has == "tokens" else "deepsup:resnet-20"
        raise ConfigError(
            f"model: {model} reads {reads}, and {of} has {has}. Take one that reads these, such as {forms}, or "
            "package.module:factory of your own."
        )


def check_method(method: str, task: str, *, of: str) -> None:
    """Raise `ConfigError` for a control that is nothing but a loss of classes, where the data set `of` has none."""
    asked = methods.get(method)
    if asked.bare and usual_loss(task) and asked.main_loss != methods.get("none").main_loss:
        raise ConfigError(
            f"method '{asked.name}' is the loss {losses.show(asked.main_loss)} of classes and nothing else, and {of} has "
            f"{TASKS[task].labelled}. Leave it out."
        )


def check_metric(metric: str | None, task: str, *, of: str) -> None:
    """Raise `ConfigError` for a metric that the task of the data set `of` does not have, whatever the number of classes."""
    known = metrics_of(task, classes=2)
    if metric is not None and metric not in known:
        raise ConfigError(
            f"metric: {of} has no metric {metric!r}.{closest(metric, known)} It can be {', '.join(known)}, or null."
        )


def check_comparable(metrics: Collection[str]) -> None:
    """Raise `ConfigError` unless there is one metric by which all arms are judged, of which more is better."""
    if len(metrics) > 1:
        raise ConfigError(
            f"all arms are judged by one score; these have {' and '.join(sorted(metrics))}. Set base.metric."
        )
    (metric,) = metrics
    if (found := named(metric)) and found.lower:
        usual = TASKS[found.task].metric
        raise ConfigError(
            f"metric: {metric} is an error, the lower the better, and a comparison judges by scores from 0 to 1 of which more is "
            f"better. Set base.metric={usual}, or null; every run's journal has {metric} as well."
        )
