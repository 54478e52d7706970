"""Where branches go: names, selectors, picks, the probe."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import deepsup as ds
from deepsup.errors import (
    BranchNameError,
    ClassCountError,
    ConfigError,
    DeepsupError,
    LayerError,
    LayerNotCalledError,
    LayerReusedError,
    OutputError,
    UnknownLayerError,
)
from tests.support.method_steps import Case
from tests.support.odd_nets import Branchy, telling
from tests.support.small_nets import CLASSES, Plain, images, labels

AT = ["conv1", "relu2"]


def test_a_layer_called_input_is_a_layer() -> None:
    class In(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input, self.out = nn.Linear(16, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.relu(self.input(x)))

    model, x = In(), torch.randn(4, 16)
    net = ds.attach(model, ds.plan(model, x, ["input"]))
    assert torch.equal(net(x).aux["input"], net.heads["input"](model.input(x)))
    ds.strip(net)
    other = ds.plan(model, x, method="dml")
    assert [b.layer for b in other.branches] == ["<input>"]
    assert ds.attach(model, other)(x).aux["peer1"].shape == (4, 4)


def test_reserved_names_are_refused() -> None:
    for name in ("main", "ensemble", "previous", "y"):
        with pytest.raises(BranchNameError, match=f"no branch may be called '{name}'"):
            Case("aux", {name: "layer1"})


@pytest.mark.parametrize(
    ("at", "names", "layers"),
    [
        ("conv1", ["conv1"], ["conv1"]),
        (["relu2", "conv1"], ["conv1", "relu2"], ["conv1", "relu2"]),  # in running order
        ("conv*", ["conv1", "conv2"], ["conv1", "conv2"]),
        (["conv*", "conv1", "type:Conv2d"], ["conv1", "conv2"], ["conv1", "conv2"]),
        ("30%", ["relu1"], ["relu1"]),
        ({"early": "conv1", "late": "100%"}, ["early", "late"], ["conv1", "relu2"]),
        ({"c": "conv*"}, ["c.conv1", "c.conv2"], ["conv1", "conv2"]),
        ({"a": "conv1", "b": "conv1"}, ["a", "b"], ["conv1", "conv1"]),
        ((s for s in AT), AT, AT),
    ],
)
def test_branches_are_named_after_their_layers_unless_at_names_them(at: Any, names: Any, layers: Any) -> None:
    plan = ds.plan(Plain(), images(), at)
    assert (list(plan.names), [b.layer for b in plan.branches]) == (names, layers)


def test_a_layout_for_an_unknown_layer_is_refused() -> None:
    with pytest.raises(DeepsupError, match="layer9"):
        ds.plan(Plain(), images(), AT, layout={"layer9": "NHWC"})


def test_a_layout_that_does_not_fit_is_refused() -> None:
    with pytest.raises(OutputError, match="layout 'NLC' does not fit a 3-dimensional activation"):
        ds.plan(Plain(), images(), AT, layout={"conv1": "NLC"})


def test_no_branch_may_be_called_main() -> None:
    with pytest.raises(BranchNameError, match="no branch may be called 'main'"):
        ds.plan(Plain(), images(), {"main": "conv1"})
    model = nn.Sequential()
    model.add_module("main", nn.Linear(3, 4))
    model.add_module("fc", nn.Linear(4, CLASSES))
    with pytest.raises(BranchNameError, match=r"Name it: at=\{'NAME': 'main'\}"):
        ds.plan(model, torch.randn(2, 3), "main")
    assert ds.plan(model, torch.randn(2, 3), {"trunk": "main"}).names == ("trunk",)


def test_a_class_count_that_the_model_does_not_have() -> None:
    assert ds.plan(Plain(), images(), AT, classes=CLASSES).classes == CLASSES
    with pytest.raises(ClassCountError) as caught:
        ds.plan(Plain(), images(), AT, classes=10)
    message = "Plain predicts 5 classes, but classes=10 was asked. Build the model with 10 classes."
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("model", "at", "error"),
    [
        (Branchy(), "never", LayerNotCalledError),
        (Branchy(), "twice", LayerReusedError),
        (Branchy(), "cut", LayerError),
        (Branchy(), "stemm", UnknownLayerError),
        (Branchy(), ["stem", "*x"], UnknownLayerError),
    ],
)
def test_a_layer_that_cannot_be_supervised(model: nn.Module, at: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        ds.plan(model, torch.randn(2, 3), at)


@pytest.mark.parametrize("at", ["conv@0", "conv@hidden", "block@2", "block@1", "block@1.note"])
def test_a_pick_that_is_not_there_is_a_layer_error(at: str) -> None:
    with pytest.raises(LayerError, match=f"layer '{at.split('@')[0]}' has no output '{at.split('@')[1]}'; it returned"):
        ds.plan(telling(), images(), at)


def test_two_branches_may_read_two_tensors_of_one_layer() -> None:
    plan = ds.plan(telling(), images(), {"map": "block@0", "vector": "block@1.deep"})
    assert {b.name: str(b.feature) for b in plan.branches} == {"map": "4x14x14", "vector": "4"}
    assert {b.name: b.pick for b in plan.branches} == {"map": (0,), "vector": (1, "deep")}


def test_a_pick_of_a_layer_goes_with_a_main_of_the_model() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = telling()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = self.net(x)
            return {"a": y * 0, "b": y}

    plan = ds.plan(Both(), images(), {"vector": "net.block@1.deep"}, main="b")
    assert (plan.main, str(plan.branches[0].feature)) == (("b",), "4")


def test_a_layout_is_that_of_the_tensor_that_is_picked() -> None:
    class VectorAndMap(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.mean((2, 3)), x.permute(0, 2, 3, 1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.fc = VectorAndMap(), nn.Linear(3, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.block(x)[0])

    (branch,) = ds.plan(Net(), images(), "block@1", layout={"block": "NHWC"}).branches
    assert branch.feature == ds.Feature((16, 16, 3), "NHWC")


def sigmoid_net(depth: int = 8) -> nn.Sequential:
    """Gradients vanish towards its input."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(16, 16), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Linear(16, CLASSES))


def vectors(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(8, 16), labels(8)) for _ in range(count)]


def test_auto_attaches_where_the_probe_says() -> None:
    model, data = sigmoid_net(), vectors()
    plan = ds.plan(model, data[0][0], "auto", batches=data)
    assert list(plan.names) == ds.probe(model, data).recommend("drop")
    assert len(plan.names) >= 2


def test_auto_follows_the_rule_of_the_method() -> None:
    model, data = sigmoid_net(20), vectors()
    plan = ds.plan(model, data[0][0], "auto", method="cnds", head="pool", batches=data)
    assert list(plan.names) == ds.probe(model, data).recommend("threshold")
    assert len(plan.names) == 1


def test_auto_that_finds_nothing_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"no gradient vanishes by the rule 'threshold'.* for example at=\['50%'\]"):
        ds.plan(Plain(), images(), "auto", method="cnds", batches=[(images(4), labels(4))])


def test_auto_reads_the_prediction_that_main_names() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = sigmoid_net()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = self.net(x)
            return {"a": y * 0, "b": y}

    data = vectors()
    with pytest.raises(OutputError, match="Say which one is meant"):
        ds.plan(Two(), data[0][0], "auto", batches=data)
    plan = ds.plan(Two(), data[0][0], "auto", batches=data, main="b")
    assert plan.main == ("b",)
    assert plan.branches


@pytest.mark.parametrize("at", [[], {}, [None], [nn.ReLU()], 0.5, object()])
def test_at_takes_at_least_one_name(at: Any) -> None:
    with pytest.raises((ConfigError, UnknownLayerError)):
        ds.plan(Plain(), images(), at)


def test_numbers_are_names_too() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
    assert ds.plan(model, images(), [1]).names == ("1",)


def test_a_depth_that_means_a_layer_already_chosen_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at= means layer 'relu1' twice, as 'relu1' and as '1%'"):
        ds.plan(Plain(), images(), ["relu1", "1%"])
