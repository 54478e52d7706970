"""Losses and metrics that fit what images are labelled for."""

from __future__ import annotations

import pytest

from deepsup.errors import ConfigError
from deepsup.settings import configs, training
from deepsup.settings.goals import usual_loss


def run(name: str, **settings: str) -> training.TrainConfig:
    config = configs.parse({"data": {"name": name, "root": "somewhere"}, **settings})
    assert isinstance(config, training.TrainConfig)
    return config


def test_the_usual_ones_follow_the_task() -> None:
    assert [usual_loss(task) for task in ("classification", "segmentation", "labels", "values")] == [
        None,
        None,
        "binary",
        "mse",
    ]
    assert (run("values").main_loss, run("values").score_name) == ("mse", "R²")
    assert (run("labels").main_loss, run("labels").score_name) == ("binary", "mAP")
    assert (run("folder").main_loss, run("folder").score_name) == (None, "accuracy")
    assert run("values", loss="huber(delta=2)").main_loss == "huber(delta=2)"


@pytest.mark.parametrize(
    ("name", "loss", "able"),
    [
        ("values", "cross_entropy", "mse, l1, huber"),
        ("values", "binary", "mse, l1, huber"),
        ("labels", "mse", "binary"),
        ("labels", "cross_entropy", "binary"),
        ("folder", "mse", "cross_entropy"),
        ("pairs", "l1", "cross_entropy"),
    ],
)
def test_a_loss_of_something_else_is_refused(name: str, loss: str, able: str) -> None:
    with pytest.raises(ConfigError, match=f"loss: {loss} reads .*, and {name} has .* It can be .*{able}"):
        run(name, loss=loss)


@pytest.mark.parametrize(
    ("name", "metric"), [("values", "mAP"), ("labels", "R²"), ("folder", "MAE"), ("values", "MSE")]
)
def test_a_metric_of_another_task_is_refused(name: str, metric: str) -> None:
    with pytest.raises(ConfigError, match=f"metric: {name} has no metric '{metric}'"):
        run(name, metric=metric)
    assert run("values", metric="RMSE").score_name == "RMSE"


@pytest.mark.parametrize(
    "option", ["views: 2", "overlap: true", "crop: 8", "tile: 8", "patches: 2", "prepare: vessels"]
)
@pytest.mark.parametrize("name", ["values", "labels"])
def test_options_of_other_tasks_are_refused(name: str, option: str) -> None:
    key, _, value = option.partition(": ")
    with pytest.raises(ConfigError, match=f"{key}: not for {name}"):
        configs.load(None, [f"data.name={name}", f"data.{key}={value}"])


@pytest.mark.parametrize("metric", ["MAE", "RMSE"])
def test_a_comparison_refuses_an_error_as_its_score(metric: str) -> None:
    base = {"data": {"name": "values", "root": "somewhere"}, "metric": metric}
    with pytest.raises(ConfigError, match=f"metric: {metric} is an error, the lower the better, .*base.metric=R²"):
        configs.parse({"base": base, "methods": ["none", "aux"]})
    configs.parse({"base": base | {"metric": None}, "methods": ["none", "aux"]})


@pytest.mark.parametrize("name", ["values", "labels", "value-maps"])
def test_a_control_that_is_a_loss_of_classes_is_refused(name: str) -> None:
    for method, refused in (("label-smoothing", True), ("none", False), ("dsn", False)):
        settings = {"data": {"name": name, "root": "somewhere"}, "supervise": {"method": method}}
        if refused:
            with pytest.raises(
                ConfigError, match=f"method '{method}' is the loss .* of classes and nothing else, and {name}"
            ):
                configs.parse(settings)
        else:
            configs.parse(settings)
    configs.parse({"data": {"name": "folder"}, "supervise": {"method": "label-smoothing"}})
