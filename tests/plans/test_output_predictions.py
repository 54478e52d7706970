"""What a plan says that outputs are: from the user's word, the losses, the configuration, the layers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepsup as ds
from deepsup.errors import ConfigError, HeadError, OutputError

X = torch.randn(2, 6, 4)


class Tagger(nn.Module):
    def __init__(self, classes: int = 9) -> None:
        super().__init__()
        self.body = nn.Linear(4, 8)
        self.act = nn.ReLU()
        self.fc = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.body(x)))


def vector(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, classes))


def test_tokens_are_found_by_their_last_layer_and_their_branches_score_every_token() -> None:
    plan = ds.plan(Tagger(), X, at=["act"])
    assert "main: cross_entropy of 9 classes on the last axis, (N, L, 9), by the last Linear 'fc'" in str(plan)
    (branch,) = plan.branches
    assert branch.head == "tokenwise"
    assert branch.prediction is not None
    assert (branch.prediction.axis, branch.prediction.classes) == (1, 9)
    assert branch.predicts
    assert ds.Plan.from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize(("task", "kind", "loss"), [("labels", "labels", "binary"), ("values", "values", "mse")])
def test_a_task_says_the_kind_and_the_usual_loss_of_main_and_branches(task: str, kind: str, loss: str) -> None:
    plan = ds.plan(vector(), torch.randn(2, 4), at=["1"], task=task)
    assert plan.prediction is not None
    assert plan.prediction.kind == kind
    assert plan.main_loss == loss
    assert [(b.loss, b.prediction and b.prediction.kind) for b in plan.branches] == [(loss, kind)]


def test_a_loss_says_the_kind() -> None:
    for loss, kind in (("huber", "values"), (nn.BCEWithLogitsLoss(), "labels"), (lambda s, t: s.sum(), "other")):
        plan = ds.plan(vector(), torch.randn(2, 4), at=["1"], loss=loss)
        assert plan.prediction is not None
        assert plan.prediction.kind == kind


def test_words_that_contradict_one_another_are_refused() -> None:
    x = torch.randn(2, 4)
    with pytest.raises(
        HeadError, match=r"'cross_entropy' of 'main' reads classes, and that output gives values\. Losses"
    ):
        ds.plan(vector(), x, at=["1"], task="values", loss="cross_entropy")
    with pytest.raises(HeadError, match=r"loss 'kl' of 'main<-1' reads classes or labels, .* values: hint"):
        ds.plan(vector(), x, at=["1"], task="values", method="dhm", head="pool")
    with pytest.raises(ConfigError, match=r"classes_axis=2: the classes of an output of shape \(2, 3\)"):
        ds.plan(vector(), x, at=["1"], classes_axis=2)
    with pytest.raises(ConfigError, match="there is no task 'regression'"):
        ds.plan(vector(), x, at=["1"], task="regression")


def test_an_axis_that_is_said_wins() -> None:
    plan = ds.plan(Tagger(), X, at=["act"], classes_axis=1, head=lambda f, c: nn.Linear(8, 9))
    assert plan.prediction is not None
    assert (plan.prediction.axis, plan.classes) == (1, 6)


class Configured(nn.Module):
    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.net = vector(config.get("num_labels", 3))
        self.config = SimpleNamespace(**config)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def test_the_first_batch_has_the_last_word() -> None:
    net = ds.attach(
        Tagger(), plan := ds.plan(Tagger(), X, at=["act"], classes_axis=1, head=lambda f, c: nn.Linear(8, 9))
    )
    objective, outputs = ds.Objective(plan), net(X)
    for _ in range(2):  # what was refused once is refused again
        with pytest.raises(
            OutputError, match=r"fit classes on the last axis; planned were 6 classes on axis 1.*classes_axis=-1"
        ):
            objective(outputs, torch.zeros(2, 6, dtype=torch.long))
    plan = ds.plan(model := Tagger(), X, at=["act"])
    objective, outputs = ds.Objective(plan), ds.attach(model, plan)(X)
    for _ in range(2):
        with pytest.raises(HeadError, match="real values need loss='mse'"):
            objective(outputs, torch.full((2, 6, 9), 2.5))


class Tree(nn.Module):
    """Boxes and classes at once, as detectors give them."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.boxes, self.logits = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        h = self.body(x)
        return {"boxes": self.boxes(h), "more": [self.logits(h), self.logits(h) * 2]}


def test_a_loss_of_ones_own_is_given_the_whole_output() -> None:
    def both(output: dict[str, Any], target: dict[str, Tensor]) -> Tensor:
        return (output["boxes"] - target["boxes"]).abs().mean() + ds.losses.cross_entropy(
            output["more"][1], target["y"]
        )

    x, target = torch.randn(2, 4), {"boxes": torch.zeros(2, 2), "y": torch.tensor([0, 2])}
    model = Tree()
    plan = ds.plan(
        model,
        x,
        at=["body"],
        main="*",
        loss=both,
        branch_loss=lambda s, t: ds.losses.cross_entropy(s, t["y"]),
        classes=3,
    )
    assert "custom:both of 3 numbers" in str(plan)
    net = ds.attach(model, plan)
    outputs = net(x)
    terms = ds.Objective(plan)(outputs, target)
    assert torch.equal(terms.parts["main"], both(outputs.main, target))
    assert torch.equal(terms.parts["body"], ds.losses.cross_entropy(outputs.aux["body"], target["y"]))
    terms.total.backward()
    with pytest.raises(ConfigError, match=r"main='\*' hands all that Tree returns to a loss of your own"):
        ds.plan(Tree(), x, at=["body"], main="*", classes=3)


@pytest.mark.parametrize("main", ["more.-1", "more.1"])
def test_main_may_be_a_path_that_counts_from_the_end(main: str) -> None:
    plan = ds.plan(model := Tree(), torch.randn(2, 4), at=["body"], main=main)
    assert (plan.classes, plan.main) == (3, ("more", 1))
    net = ds.attach(model, plan)
    outputs, y = net(torch.randn(2, 4)), torch.tensor([0, 2])
    assert torch.equal(
        ds.Objective(plan)(outputs, y).parts["main"], ds.losses.cross_entropy(outputs.main["more"][1], y)
    )


@pytest.mark.parametrize("tokens", [5, 3])
@pytest.mark.parametrize(
    ("method", "head"),
    [("dhm", None), ("one", None), ("dml-shared", None), ("aux", "main"), ("aux", "shared(continuation)")],
)
def test_heads_that_repeat_the_models_layers_have_their_classes_where_it_has_them(
    method: str, head: str | None, tokens: int
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    x, y = torch.randn(2, tokens, 4), torch.randint(0, 3, (2, tokens))  # also as many tokens as classes
    plan = ds.plan(model, x, at=["1"], task="tokens", method=method, head=head)
    outputs = ds.attach(model, plan)(x)
    parts = ds.Objective(plan)(outputs, y, progress=0.5).parts
    for branch in plan.branches:
        if branch.predicts:
            expected = nn.functional.cross_entropy(outputs.aux[branch.name].flatten(0, 1), y.flatten())
            assert torch.allclose(parts[branch.name], expected)


class Turned(nn.Module):
    """Scores every place by a convolution, with its classes on axis 1 or turned to the last."""

    def __init__(self, classes: int, *, last: bool) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv1d(8, classes, 1), last

    def forward(self, x: Tensor) -> Tensor:  # (N, L, 8)
        scores: Tensor = self.conv(x.movedim(-1, 1))
        return scores.movedim(1, -1) if self.last else scores


HEADS_OF_ONES_OWN = {
    "linear": (lambda f, c: nn.Linear(8, c), -1),
    "a module": (nn.Linear(8, 3), -1),
    "convolution": (lambda f, c: Turned(c, last=False), 1),
    "convolution, turned": (lambda f, c: Turned(c, last=True), -1),
}


@pytest.mark.parametrize("places", [3, 5])
@pytest.mark.parametrize("main", ["last", "first"])
@pytest.mark.parametrize("name", HEADS_OF_ONES_OWN)
def test_a_head_of_ones_own_has_its_classes_where_its_last_layer_has_them(name: str, main: str, places: int) -> None:
    head, axis = HEADS_OF_ONES_OWN[name]
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3) if main == "last" else Turned(3, last=False))
    x, y = torch.randn(2, places, 4), torch.randint(0, 3, (2, places))  # also as many places as classes
    plan = ds.plan(model, x, at={"b": "1"}, head=head)
    outputs = ds.attach(model, plan)(x)
    scores = outputs.aux["b"] if axis == -1 else outputs.aux["b"].movedim(1, -1)
    expected = nn.functional.cross_entropy(scores.flatten(0, 1), y.flatten())
    assert torch.allclose(ds.Objective(plan)(outputs, y).parts["b"], expected)


def test_a_head_that_does_not_tell_its_axis_is_asked() -> None:
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[..., :3]

    model, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(2, 3, 4)
    with pytest.raises(HeadError, match=r"both axes are as long, and no layer tells.* head\.classes_axis = 1, or -1"):
        ds.plan(model, x, at=["1"], head=Square())
    with pytest.raises(
        HeadError, match=r"gives \(2, 3, 5\), .* its last layer has its channels on axis -1, and axis 1 is as"
    ):
        ds.plan(model, x, at=["1"], head=nn.Linear(8, 5), branch_loss=nn.CrossEntropyLoss())
    for axis in (1, -1):
        head = Square()
        head.classes_axis = axis  # type: ignore[assignment]
        (branch,) = ds.plan(model, x, at=["1"], head=head).branches
        assert branch.prediction is not None
        assert branch.prediction.axis == axis
