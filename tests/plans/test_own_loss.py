"""The loss that a model has of its own is main's, or it is said that it is none of ours."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup.errors import ConfigError, HeadError
from deepsup.plans.own_loss import OwnLoss, own_loss

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
TEXT = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
Own = Callable[[Tensor, Tensor], Tensor]


class Configured(nn.Module):
    """As classes of transformers are: a configuration, an output with names, a loss of its own where labels are given."""

    def __init__(self, own: Own, *, last: nn.Module | None = None, **config: Any) -> None:
        super().__init__()
        self.config, self.own = SimpleNamespace(model_type="tiny", **config), own
        self.body, self.act, self.last = nn.Linear(4, 8), nn.ReLU(), last or nn.Linear(8, 3)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.last(self.act(self.body(x)))
        loss = None
        if labels is not None:
            self.config.problem_type = "written by the forward"
            loss = self.own(logits, labels)
        return SimpleOutput(logits=logits) if loss is None else SimpleOutput(loss=loss, logits=logits)


class Mapped(Configured):
    """Scores at half the size of the image."""

    def __init__(self, own: Own, **config: Any) -> None:
        super().__init__(own, **config)
        self.body = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.last = nn.Conv2d(8, 3, 1)


class SimpleOutput(dict):  # type: ignore[type-arg]
    """A mapping with attributes, as transformers' outputs are."""

    __getattr__ = dict.get


def classes(s: Tensor, y: Tensor, **more: Any) -> Tensor:
    return F.cross_entropy(s.flatten(0, -2), y.flatten(), **more)


def shifted(s: Tensor, y: Tensor) -> Tensor:
    return classes(s[:, :-1], y[:, 1:])


def enlarged(s: Tensor, y: Tensor, ignore: int = -100) -> Tensor:
    size = tuple(y.shape[1:])
    return F.cross_entropy(F.interpolate(s, size=size, mode="bilinear", align_corners=False), y, ignore_index=ignore)


def first_axis(s: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(s, y)


def hot(s: Tensor, y: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(s, y)


def squared(s: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(s.squeeze(), y.squeeze())


ONE = nn.Linear(8, 1)
FOUND = {
    "classes": (Configured(classes), X, OwnLoss("cross_entropy", 1)),
    "labels": (Configured(hot), X, OwnLoss("binary", None)),
    "values": (Configured(squared), X, OwnLoss("mse", None)),
    "labels of maps": (Mapped(hot), IMAGE, OwnLoss("binary", None)),
    "one value": (Configured(squared, last=ONE), X, OwnLoss("mse", None)),
    "one value, flat": (Configured(lambda s, y: F.mse_loss(s.squeeze(-1), y, reduction="mean"), last=ONE), X, None),
    "distances": (Configured(F.l1_loss, last=ONE), X, OwnLoss("l1", None)),
    "tokens": (Configured(classes), TEXT, OwnLoss("cross_entropy", -1)),
    "as many tokens as classes": (Configured(classes, last=nn.Linear(8, 7)), TEXT, OwnLoss("cross_entropy", -1)),
    "of axis 1": (Configured(first_axis, last=nn.Linear(8, 7)), TEXT, OwnLoss("cross_entropy", 1)),
    "next token": (Configured(shifted), TEXT, OwnLoss("cross_entropy(shift=1)", -1)),
    "smoothed": (
        Configured(lambda s, y: classes(s, y, label_smoothing=0.1), label_smoothing=0.1),
        TEXT,
        OwnLoss("cross_entropy(smoothing=0.1)", -1),
    ),
    "maps": (Mapped(enlarged), IMAGE, OwnLoss("cross_entropy", 1)),
    "maps with 255": (
        Mapped(lambda s, y: enlarged(s, y, 255), semantic_loss_ignore_index=255),
        IMAGE,
        OwnLoss("cross_entropy(ignore_index=255)", 1),
    ),
}
OTHERS = {
    "a penalty": Configured(lambda s, y: classes(s, y) + s.square().mean()),
    "half": Configured(lambda s, y: classes(s, y) / 2),
    "weighed": Configured(lambda s, y: classes(s, y, weight=torch.tensor([1.0, 2, 3]))),
}


@pytest.mark.parametrize("name", FOUND)
def test_the_models_own_loss_is_found_and_the_model_left_alone(name: str) -> None:
    model, sample, wanted = FOUND[name]
    before, state = dict(vars(model.config)), torch.random.get_rng_state()
    found = own_loss(model, sample, None)
    assert found == (wanted or OwnLoss("mse", None))
    assert vars(model.config) == before
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["labels", "next token", "maps with 255", "as many tokens as classes"])
def test_main_and_branches_of_a_plan_learn_by_it(name: str) -> None:
    model, sample, wanted = FOUND[name]
    assert wanted is not None
    plan = ds.plan(model, sample, at=["act"])
    assert plan.main_loss == plan.branches[0].loss == wanted.loss
    assert plan.prediction is not None
    assert plan.prediction.axis == (wanted.axis or 1)
    said = ds.plan(model, sample, at=["act"], loss="cross_entropy", classes_axis=wanted.axis)
    assert said.main_loss == "cross_entropy"  # what is said counts


@pytest.mark.parametrize(
    ("name", "task", "loss"),
    [
        ("next token", "tokens", "cross_entropy(shift=1)"),
        ("labels", "classification", "cross_entropy"),
        ("labels", "values", "mse"),
        ("classes", "labels", "binary"),
        ("distances", "values", "l1"),
    ],
)
def test_of_losses_for_a_task_that_is_said_the_own_one_is_taken(name: str, task: str, loss: str) -> None:
    model, sample, _ = FOUND[name]
    assert ds.plan(model, sample, at=["act"], task=task).main_loss == loss


def by_type(s: Tensor, y: Tensor) -> Tensor:
    return hot(s, y) if y.is_floating_point() else classes(s, y)


def test_floats_that_the_model_itself_reads_as_labels_are_asked_for() -> None:
    model, y = Configured(by_type), torch.tensor([[1.0, 0, 0], [0, 0, 1]])
    scores = model(X)["logits"].detach()
    plan = ds.Plan.from_dict(ds.plan(model, X, method="none").to_dict())
    assert torch.equal(ds.Objective(plan)({"logits": scores}, y.argmax(1)).total, F.cross_entropy(scores, y.argmax(1)))
    for _ in range(2):
        with pytest.raises(
            HeadError, match=r"floats \(2, 3\) is several labels .* task='labels'\), or task='classification'"
        ):
            ds.Objective(plan)({"logits": scores}, y)
    said = {"labels": hot(scores, y), "classification": F.cross_entropy(scores, y)}
    for task, expected in said.items():
        plan = ds.plan(model, X, method="none", task=task)
        assert torch.allclose(ds.Objective(plan)({"logits": scores}, y).total, expected)
    plan = ds.plan(model, X, method="none")
    assert torch.equal(ds.Objective(plan, loss="cross_entropy")({"logits": scores}, y).total, said["classification"])
    plan = ds.plan(Configured(F.cross_entropy), X, method="none")  # both read shares
    assert torch.equal(ds.Objective(plan)({"logits": scores}, y).total, said["classification"])


def test_a_method_that_has_a_loss_of_classes_keeps_it_and_the_own_axis_counts() -> None:
    plan = ds.plan(Configured(classes), X, method="label-smoothing")
    assert str(plan.main_loss).startswith("cross_entropy(smoothing")
    plan = ds.plan(Configured(first_axis, last=nn.Linear(8, 7)), TEXT, at=["act"])
    assert str(plan.prediction) == "7 classes on axis 1, (N, 7, L), by its own loss"


@pytest.mark.parametrize("name", OTHERS)
def test_one_that_is_none_of_ours_is_refused_unless_a_loss_is_said(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"Configured has a loss of its own, and none of deepsup's equals it; of labels drawn"
    ):
        ds.plan(OTHERS[name], X, at=["act"])
    assert ds.plan(OTHERS[name], X, at=["act"], loss="cross_entropy").main_loss == "cross_entropy"
    assert ds.plan(OTHERS[name], X, at=["act"], task="labels").main_loss == "binary"


def test_a_model_that_takes_labels_of_another_kind_is_refused() -> None:
    def boxes(s: Tensor, y: Any) -> Tensor:
        raise TypeError("labels must be a list of boxes")

    with pytest.raises(ConfigError, match=r"takes no labels that were drawn for it \(labels must be a list of boxes\)"):
        own_loss(Configured(boxes), X, None)


def test_one_that_does_not_count_void_labels_otherwise_is_told_apart() -> None:
    def over_all(s: Tensor, y: Tensor) -> Tensor:
        return classes(s, y, reduction="sum") / y.numel()

    with pytest.raises(ConfigError, match="none of deepsup's equals it"):
        own_loss(Configured(over_all), TEXT, None)

    def without_holes(s: Tensor, y: Tensor) -> Tensor:
        if bool((y < 0).any()):
            raise IndexError("label -100 is out of range")
        return classes(s, y)

    assert own_loss(Configured(without_holes), TEXT, None) == OwnLoss("cross_entropy", -1)


@pytest.mark.parametrize("spread", [0.0, 1e-4, 1e-2])
@pytest.mark.parametrize("name", ["next token", "tokens", "as many tokens as classes", "of axis 1"])
def test_an_untrained_model_that_says_the_same_of_everything_is_told_apart_all_the_same(
    name: str, spread: float
) -> None:
    model, sample, wanted = FOUND[name]
    model = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.last.parameters():
            p.mul_(spread)
    before = copy.deepcopy(model.state_dict())
    assert own_loss(model, sample, None) == wanted
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_model_without_a_loss_of_its_own_has_none() -> None:
    assert own_loss(Configured(lambda s, y: None), X, None) is None  # type: ignore[arg-type, return-value]
    assert own_loss(nn.Linear(4, 3), X, None) is None
    assert own_loss(Configured(classes), torch.randn(2, 5), None) is None  # the dry run says why it does not run
