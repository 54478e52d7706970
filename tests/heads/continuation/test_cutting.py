"""Where a model is cut, and which of its outputs the rest makes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsup.errors import ContinuationError, HeadError
from deepsup.features import Feature
from deepsup.heads.continuation import continuation
from deepsup.layers.selectors import INPUT
from tests.support.continuations import CLASSES, Head, after_one, own, resnet18, shapes


def test_functional_dropout_knows_whether_it_trains() -> None:
    class Dropping(Head):
        def between(self, x: Tensor) -> Tensor:
            return F.dropout(torch.relu(x), 0.25, training=self.training)

    rest = after_one(Dropping())
    x = torch.ones(500, 64)
    rest.two.weight.data.fill_(1 / 64)
    rest.two.bias.data.zero_()
    trained = rest(x)
    assert trained.std() > 0.01
    assert trained.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(rest.eval()(x), torch.ones(500, CLASSES))


def test_a_layer_that_looks_at_its_own_flag_goes_on_doing_so() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(64)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x) + 100 if self.training else self.norm(x)

    class Net(Head):
        def __init__(self) -> None:
            super().__init__()
            self.noisy = Noisy()

        def between(self, x: Tensor) -> Tensor:
            return self.noisy(x)

    rest = after_one(Net())
    rest.two.weight.data.fill_(1 / 64)
    rest.two.bias.data.zero_()
    x = torch.randn(3, 64)
    assert torch.allclose(rest(x), torch.full((3, CLASSES), 100.0), atol=1e-3)
    assert torch.allclose(rest.eval()(x), torch.zeros(3, CLASSES), atol=1e-5)


def test_what_is_overwritten_before_it_is_read_counts() -> None:
    class InPlace(Head):
        def between(self, x: Tensor) -> Tensor:
            x.mul_(3)
            return x

    model = InPlace()
    rest = after_one(model)
    rest.load_state_dict({name: model.state_dict()[name] for name in rest.state_dict()})
    x = torch.randn(2, 64)
    before = x.clone()
    assert torch.equal(rest(x), model.two(3 * before))
    assert torch.equal(x, before)


def test_of_several_outputs_the_usual_one_is_the_prediction() -> None:
    class Dictionary(Head):
        def forward(self, x: Tensor) -> Any:
            x = self.one(x)
            return {"hidden": x * 2, "logits": self.two(x)}

    assert after_one(Dictionary())(torch.randn(3, 64)).shape == (3, CLASSES)


class Fields(NamedTuple):
    hidden: Any
    fine: Any


@dataclass
class Record:
    coarse: Any
    fine: Any


@pytest.mark.parametrize("layer", ["one", INPUT])
@pytest.mark.parametrize(
    ("wrap", "main"),
    [
        (lambda a, b: (a, b), (1,)),
        (lambda a, b: [a, b], (1,)),
        (lambda a, b: {"logits": a, "fine": b}, ("fine",)),
        (lambda a, b: {"out": a, "all": (a, {"fine": b})}, ("all", 1, "fine")),
        (Fields, ("fine",)),
        (Record, ("fine",)),
        (lambda a, b: {"logits": a, "all": Fields(a, b)}, ("all", "fine")),
    ],
    ids=["tuple", "list", "dict", "nested", "named tuple", "dataclass", "named tuple inside"],
)
def test_of_several_outputs_the_one_that_main_picks_is_made(wrap: Any, main: Any, layer: str) -> None:
    class Several(Head):
        def __init__(self) -> None:
            super().__init__()
            self.coarse = nn.Linear(64, CLASSES)

        def forward(self, x: Tensor) -> Any:
            x = self.one(x)
            return wrap(self.coarse(x), self.two(x))

    model, feature = Several(), Feature((64 if layer == "one" else 4,), "NC")
    rest = continuation(feature, CLASSES, model=model, layer=layer, main=main)
    assert "two.weight" in shapes(rest)
    assert "coarse.weight" not in shapes(rest)
    rest.load_state_dict({n: v for n, v in model.state_dict().items() if n in rest.state_dict()})
    x = torch.randn(3, 4)
    assert torch.equal(rest(x if layer == INPUT else model.one(x)), model.two(model.one(x)))
    usual = (
        continuation(feature, CLASSES, model=model, layer=layer) if wrap is not Record and wrap is not Fields else None
    )
    assert usual is None or "coarse.weight" in shapes(usual)  # the first, or the one with a usual name


def test_main_may_be_an_output_of_training_alone() -> None:
    class Switched(Head):
        def __init__(self) -> None:
            super().__init__()
            self.more = nn.Linear(64, CLASSES)

        def forward(self, x: Tensor) -> Any:
            x = F.dropout(self.one(x), 0.5, self.training)
            return {"logits": self.two(x), "more": self.more(x)} if self.training else self.two(x)

    rest = continuation(Feature((64,), "NC"), CLASSES, model=Switched(), layer="one", main=("more",))
    assert list(shapes(rest)) == ["more.weight", "more.bias"]
    x = torch.randn(3, 64)
    assert torch.equal(rest.eval()(x), rest.more(x))
    assert not torch.equal(rest.train()(x), rest.more(x))
    for main in ((), ("logits",)):
        rest = continuation(Feature((64,), "NC"), CLASSES, model=Switched(), layer="one", main=main)
        assert list(shapes(rest)) == ["two.weight", "two.bias"]


def test_a_pick_of_an_output_that_is_not_there_is_refused_and_of_a_bare_tensor_ignored() -> None:
    class Dictionary(Head):
        def forward(self, x: Tensor) -> Any:
            return {"logits": self.two(self.one(x))}

    with pytest.raises(ContinuationError, match=r"the model returns dict, in which no tensor at 'fine' is found"):
        continuation(Feature((64,), "NC"), CLASSES, model=Dictionary(), layer="one", main=("fine",))
    rest = continuation(Feature((64,), "NC"), CLASSES, model=Head(), layer="one", main=("fine",))
    assert rest(torch.randn(3, 64)).shape == (3, CLASSES)


class Locked(Head):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class Deciding(Head):
    def between(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Switching(Head):
    def between(self, x: Tensor) -> Tensor:
        return x + 1 if self.training else x


class Unread(Head):
    def forward(self, x: Tensor) -> Any:
        self.one(x)
        return self.two(torch.cat([x] * 16, 1))


class Asking(Head):
    def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
        return self.two(self.one(x) + y)


def weight_normed() -> nn.Module:
    model = resnet18()
    nn.utils.parametrizations.weight_norm(model.layer4[0].conv1)
    return model


@pytest.mark.parametrize(
    ("build", "layer", "options", "says"),
    [
        (
            resnet18,
            "layer3.0.conv1",
            {},
            "the rest of ResNet after 'layer3.0.conv1' cannot be repeated: 'layer3.0.downsample.0' also reads what "
            "'layer2.1.relu' computes, which passes by 'layer3.0.conv1'. Choose a layer that everything passes through, such "
            "as 'layer2' or 'layer3.0', or give the branch a head of your own.",
        ),
        (resnet18, "layer3.0.relu", {}, "the layer runs 2 times in one forward, so what follows it is ambiguous"),
        (resnet18, "fc", {}, "nothing runs after the layer, it makes the prediction itself. Tap an earlier layer."),
        (resnet18, "layer9", {}, "ResNet has no layer 'layer9'"),
        (
            resnet18,
            "layer3.0",
            {"width": 2},
            "'layer3.1' adds activations of 512x4x4 and 256x4x4 a sample. Both parts of a sum need one width. A shortcut that "
            "adds its input unchanged gets it where the next block changes the width anyway: tap the end of a stage, or ask "
            "for width=1.",
        ),
        (
            resnet18,
            "layer2",
            {"blocks": [1]},
            "blocks=[1] does not fit the stages that follow: 2 in 'layer3', 2 in 'layer4'. Write one count for each: "
            "blocks=[2, 2].",
        ),
        (partial(own, "plain-12"), "relu3", {"blocks": 2}, "the stages that follow: none"),
        (resnet18, "layer2", {"blocks": [0, 2]}, "blocks=[0, 2] must be a list with one count of at least 1"),
        (resnet18, "layer2", {"blocks": True}, "blocks=True must be a list"),
        (resnet18, "layer2", {"width": 0}, "width=0 must be a positive number"),
        (weight_normed, "layer2", {}, "the weight of 'layer4.0.conv1' is computed from other parameters"),
        (Locked, "one", {}, "Locked cannot be copied, so what follows a layer cannot be repeated: TypeError"),
        (Deciding, "one", {}, "torch.fx cannot trace the model's own forward: TraceError"),
        (Switching, "one", {}, "does one thing in training and another in evaluation at 'add'"),
        (Unread, "one", {}, "the model's prediction does not depend on the layer's output"),
        (Asking, "one", {}, "missing 1 required positional argument: 'y'"),
    ],
)
def test_what_cannot_be_repeated_says_why_and_what_to_do(
    build: Callable[[], nn.Module], layer: str, options: dict[str, Any], says: str
) -> None:
    channels = {"layer3.0": 256, "layer2": 128}.get(layer, 64)
    with pytest.raises(ContinuationError) as caught, torch.device("meta"):
        continuation(Feature((channels, 4, 4), "NCHW"), CLASSES, model=build(), layer=layer, **options)
    assert says in str(caught.value)
    assert isinstance(caught.value, HeadError)
