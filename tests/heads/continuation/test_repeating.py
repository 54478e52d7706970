"""Branches that repeat the rest of the trunk: against the trunk itself, against networks of that size, and against print."""

from __future__ import annotations

import copy
import io
import math
import pickle
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import heads, networks
from deepsup.errors import ContinuationError, HeadError
from deepsup.features import Feature
from deepsup.heads.continuation import continuation
from deepsup.heads.cost import price
from deepsup.layers.selectors import INPUT
from deepsup.layers.taps import taps_on
from tests.support.activations import FEATURES, activation

CLASSES = 7


def tv(name: str, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # GoogLeNet announces a change of its initialisation
        return torchvision.models.get_model(name, num_classes=CLASSES, **options)


def zoo(name: str) -> nn.Module:
    return timm.create_model(name, num_classes=CLASSES)


def own(name: str) -> nn.Module:
    return networks.build(f"deepsup:{name}", classes=CLASSES)


def given(model: nn.Module, layer: str, size: int) -> Feature:
    """What a layer gives out for images of that size, channels first; nothing is left behind in the model."""
    found: list[Tensor] = []
    twin = copy.deepcopy(model)
    twin.get_submodule(layer).register_forward_hook(lambda m, a, out: found.append(out))
    with torch.no_grad():
        twin(torch.zeros(2, 3, size, size))
    return Feature(tuple(found[0].shape[1:]), "NLC" if found[0].ndim == 3 else "NCHW")


def repeat(model: nn.Module, layer: str, size: int = 32, **options: Any) -> nn.Module:
    return continuation(given(model, layer, size), CLASSES, model=model, layer=layer, **options)


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def resnet18() -> nn.Module:
    return tv("resnet18")


# --- the same as the trunk ------------------------------------------------------------------------------------------

TRUNKS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "resnet18, a stage": (resnet18, "layer2", 32),
    "resnet18, a block": (resnet18, "layer3.0", 32),
    "squeezenet, before a ReLU in place": (partial(tv, "squeezenet1_1"), "features.9.squeeze", 32),
    "densenet, concatenations": (partial(tv, "densenet121"), "features.denseblock3", 32),
    "mobilenet, squeeze and excitation": (partial(tv, "mobilenet_v3_small"), "features.8", 32),
    "googlenet, more outputs in training": (partial(tv, "googlenet", init_weights=False), "inception4e", 64),
    "resnet with pads for shortcuts": (partial(own, "resnet-20"), "layer1", 16),
    "wide resnet": (partial(own, "wrn-16-8"), "layer2", 8),
    "timm's convnext, drop path": (partial(zoo, "convnext_atto"), "stages.1", 64),
    "timm's efficientnet, activations inside norms": (partial(zoo, "efficientnet_b0"), "blocks.4", 32),
    "timm's regnet": (partial(zoo, "regnety_002"), "s3", 32),
}


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_with_the_trunks_own_weights_it_is_the_trunks_own_rest(trunk: str, training: bool) -> None:
    build, layer, size = TRUNKS[trunk]
    model = build().train(training)
    rest = repeat(model, layer, size).train(training)
    state = model.state_dict()
    assert set(rest.state_dict()) < set(state)
    rest.load_state_dict({name: state[name] for name in rest.state_dict()})
    seen: dict[str, Tensor] = {}

    def keep(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        out.retain_grad()
        seen.update(out=out, value=out.detach().clone(), random=torch.get_rng_state())
        return out.clone()  # what follows may work in place

    handle = model.get_submodule(layer).register_forward_hook(keep)
    theirs = model(torch.randn(4, 3, size, size))
    handle.remove()
    theirs = theirs if isinstance(theirs, Tensor) else theirs.logits
    theirs.square().sum().backward()

    x = seen["value"].clone().requires_grad_()
    torch.set_rng_state(seen["random"])  # dropout draws what it drew there
    ours = rest(x)
    ours.square().sum().backward()
    assert torch.equal(ours, theirs)
    assert torch.equal(x, seen["value"])  # not overwritten
    assert seen["out"].grad is not None
    assert torch.equal(x.grad, seen["out"].grad)
    weights = dict(model.named_parameters())
    for name, parameter in rest.named_parameters():
        assert torch.equal(parameter.grad, weights[name].grad), name
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in rest.state_dict().items())


def test_layers_keep_their_names_and_nothing_else_comes_along() -> None:
    model = resnet18()
    expected = [name for name in model.state_dict() if name.startswith(("layer4", "fc"))]
    assert list(repeat(model, "layer3").state_dict()) == expected


# --- the sizes of published branches --------------------------------------------------------------------------------


def millions(spec: str, layer: str, channels: int, **options: Any) -> float:
    """Parameters of a branch on a network of 1000 classes (torchvision) or 100 (ours); a minus for the network itself."""
    with torch.device("meta"):
        if spec.startswith("deepsup"):
            model, classes, side = networks.build(spec, classes=100), 100, 16
        else:
            model, classes, side = torchvision.models.get_model(spec), 1000, 14
        if not layer:
            return count(model) / 1e6
        branch = continuation(Feature((channels, side, side), "NCHW"), classes, model=model, layer=layer, **options)
    return count(branch) / 1e6


@pytest.mark.parametrize(
    ("spec", "expansion", "early", "late", "published"),
    [  # facts from the released code and its tables: main, early, late, or their sum alone
        ("resnet18", 1, [1, 2], [2], (11.69, 9.83, 31.97, 53.5)),
        ("resnet34", 1, [3, 2], [3], (None, None, None, 84.8)),
        ("resnet50", 4, [3, 2], [3], (25.56, 16.30, 58.67, 100.5)),
        ("resnet101", 4, [12, 2], [3], (None, None, None, 129.6)),
        ("resnet152", 4, [18, 2], [3], (60.19, 33.06, 58.67, 151.9)),
    ],
)
def test_imagenet_resnets_have_the_published_number_of_parameters(
    spec: str, expansion: int, early: list[int], late: list[int], published: tuple[float | None, ...]
) -> None:
    found = [
        millions(spec, "", 0),
        millions(spec, "layer2", 128 * expansion, blocks=early),
        millions(spec, "layer3", 256 * expansion, width=2, blocks=late),
    ]
    digits = (2, 2, 2, 1)
    for value, wanted, places in zip((*found, sum(found)), published, digits, strict=True):
        assert wanted is None or abs(value - wanted) <= 0.51 * 10**-places, (found, sum(found))


@pytest.mark.parametrize(
    ("spec", "channels", "early", "late", "published"),
    [
        ("deepsup:resnet-32", (16, 32), [5, 3], [5], 2.15),
        ("deepsup:resnet-110", (16, 32), [9, 9], [18], 7.77),
        ("deepsup:wrn-28-10", (160, 320), [4, 2], [4], 164.2),
    ],
)
def test_cifar_networks_have_the_published_number_of_parameters(
    spec: str, channels: tuple[int, int], early: list[int], late: list[int], published: float
) -> None:
    branches = [
        millions(spec, "layer1", channels[0], blocks=early),
        millions(spec, "layer2", channels[1], width=2, blocks=late),
    ]
    assert millions(spec, "", 0) + sum(branches) == pytest.approx(published, rel=2e-3)


# --- width and blocks -----------------------------------------------------------------------------------------------


def test_more_blocks_are_the_network_that_has_them() -> None:
    rest = repeat(own("resnet-20"), "layer1", blocks=[5, 5])
    deeper = shapes(own("resnet-32"))
    assert shapes(rest) == {name: shape for name, shape in deeper.items() if name in shapes(rest)}
    assert {name for name in deeper if name.startswith(("layer2", "layer3", "fc"))} == set(shapes(rest))


@pytest.mark.parametrize(("factor", "depth"), [(2, 38), (0.5, 14), (0.34, 14), (1 / 3, 8)])
def test_a_factor_of_blocks_is_rounded_up(factor: float, depth: int) -> None:
    model = own("resnet-20")
    assert shapes(repeat(model, "layer1", blocks=factor)).keys() == {
        name for name in shapes(own(f"resnet-{depth}")) if name.startswith(("layer2", "layer3", "fc"))
    }


def test_half_the_width_is_the_network_of_half_the_width() -> None:
    def build(width: float) -> nn.Module:
        return networks.build("deepsup:mobilenet-v1", classes=CLASSES, options={"width": width})

    images = Feature((3, 32, 32), "NCHW")
    assert shapes(continuation(images, CLASSES, model=build(1), layer=INPUT, width=0.5)) == shapes(build(0.5))


def test_depthwise_grouped_and_gating_layers_follow() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)
            self.depthwise = nn.Conv2d(8, 16, 3, groups=8)
            self.norm = nn.GroupNorm(4, 16)
            self.grouped = nn.Conv2d(16, 24, 1, groups=4, bias=False)
            self.prelu = nn.PReLU(24)
            self.gate = nn.Conv2d(24, 1, 1)
            self.transposed = nn.ConvTranspose2d(24, 12, 2, stride=2, groups=2)
            self.instance = nn.InstanceNorm2d(12, affine=True)
            self.out = nn.Linear(12, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = self.prelu(self.grouped(self.norm(self.depthwise(self.stem(x)))))
            x = self.instance(self.transposed(x * torch.sigmoid(self.gate(x))))
            return self.out(x.mean((2, 3)))

    model = Net()
    rest = repeat(model, "stem", 8, width=1.5)
    assert rest.depthwise.groups == 8
    assert {name: shape for name, shape in shapes(rest).items() if "bias" not in name} == {
        "depthwise.weight": (16, 1, 3, 3),  # two for each channel that comes in, and these stay 8
        "norm.weight": (16,),
        "grouped.weight": (36, 4, 1, 1),
        "prelu.weight": (36,),
        "gate.weight": (1, 36, 1, 1),
        "transposed.weight": (36, 9, 2, 2),
        "instance.weight": (18,),
        "out.weight": (CLASSES, 18),
    }
    assert rest(torch.randn(3, 8, 8, 8)).shape == (3, CLASSES)


@pytest.mark.parametrize(
    ("build", "layer", "size"),
    [
        (partial(tv, "densenet121"), "features.transition3", 32),
        (partial(tv, "googlenet", init_weights=False), "inception4e", 64),
        (partial(tv, "mobilenet_v3_small"), "features.8", 32),
        (partial(tv, "shufflenet_v2_x0_5"), "stage3", 32),
        (partial(zoo, "convnext_atto"), "stages.2", 64),
        (partial(zoo, "regnety_002"), "s3", 32),
        (partial(own, "densenet-bc-100-12"), "transition2", 16),
    ],
    ids=lambda value: str(value.args[0]) if isinstance(value, partial) else None,
)
def test_twice_the_width_runs_and_learns(build: Callable[[], nn.Module], layer: str, size: int) -> None:
    model = build()
    feature = given(model, layer, size)
    rest = repeat(model, layer, size, width=2)
    rest(torch.randn(3, *feature.shape)).sum().backward()
    assert all(p.grad is not None for p in rest.parameters())
    assert count(rest) > 2 * count(repeat(model, layer, size))


def test_what_cannot_be_traced_is_resized_as_it_runs() -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x if x.shape[-1] > 1 else -x))

    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), Deciding(), nn.Flatten(), nn.Linear(32, CLASSES))
    rest = repeat(model, "0", 2, width=2)
    assert {name: shape for name, shape in shapes(rest).items() if name.endswith("weight")} == {
        "1.weight": (16, 8, 1, 1),
        "2.conv.weight": (16, 16, 1, 1),
        "2.norm.weight": (16,),
        "4.weight": (CLASSES, 64),
    }
    assert rest(torch.randn(3, 8, 2, 2)).shape == (3, CLASSES)


def test_densenet_goes_on_with_more_layers_than_it_had() -> None:
    rest = repeat(own("densenet-bc-100-12"), "transition2", 16, width=3, blocks=[32])
    growth, channels = 3 * 12, given(own("densenet-bc-100-12"), "transition2", 16).channels
    for number in range(32):
        assert rest.get_submodule(f"layer3.{number}.new.conv1").weight.shape == (4 * growth, channels, 1, 1)
        channels += growth
    assert rest.fc.weight.shape == (CLASSES, channels)


def test_another_number_of_classes_changes_the_last_layer_alone() -> None:
    model = tv("squeezenet1_1")  # whose classifier is a convolution
    feature = given(model, "features.10", 64)
    same, other = (continuation(feature, n, model=model, layer="features.10") for n in (CLASSES, 3))
    assert {name for name in shapes(same) if shapes(same)[name] != shapes(other)[name]} == {
        "classifier.1.weight",
        "classifier.1.bias",
    }
    assert other(torch.randn(2, *feature.shape)).shape == (2, 3)


# --- fresh, and nothing of the model's is touched -------------------------------------------------------------------


def test_it_begins_anew() -> None:
    model = tv("resnext50_32x4d")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.fill_(3.0)
    rest = repeat(model, "layer3")
    first, second = rest.get_submodule("layer4.0"), rest.get_submodule("layer4.1")
    assert first.conv2.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 1024 / 32)), rel=0.02)  # in 32 groups
    assert second.conv1.weight.std().item() == pytest.approx(math.sqrt(2 / 1024), rel=0.02)
    norm = first.bn2
    assert (norm.weight == 1).all()
    assert not norm.bias.any()
    assert not norm.running_mean.any()
    assert rest.fc.weight.abs().max() <= 1 / math.sqrt(2048)
    assert rest.fc.weight.std().item() == pytest.approx(1 / math.sqrt(3 * 2048), rel=0.05)


def test_parameters_that_no_layer_can_draw_keep_their_values() -> None:
    model = tv("convnext_tiny")  # a scale of 1e-6 for every channel
    rest = repeat(model, "features.5", 64, width=2, blocks=[4])
    scales = [p for name, p in rest.named_parameters() if name.endswith("layer_scale")]
    assert [p.shape for p in scales] == [(2 * 768, 1, 1)] * 4
    assert all(torch.equal(p, torch.full_like(p, 1e-6)) for p in scales)


def test_weights_that_are_read_past_their_layer_are_fresh_too() -> None:
    class Reading(Head):  # as attention with a bias of its own reads qkv.weight
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(64, 64, bias=False)

        def between(self, x: Tensor) -> Tensor:
            return F.linear(x, self.inner.weight)

    model = Reading()
    nn.init.constant_(model.inner.weight, 7.0)
    weight = after_one(model).get_parameter("inner.weight")
    assert 0.1 < weight.abs().max() <= 1 / 8  # as nn.Linear draws it


def test_the_model_and_the_random_state_are_left_alone() -> None:
    model = resnet18().eval()
    model.layer3.requires_grad_(False)
    calls: list[int] = []
    model.layer4.register_forward_hook(lambda m, a, out: calls.append(1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [(m.training, len(m._forward_hooks)) for m in model.modules()]
    feature = given(model, "layer2", 32)
    calls.clear()
    random = torch.get_rng_state()
    with torch.device("meta"):
        continuation(feature, CLASSES, model=model, layer="layer2", width=2, blocks=[1, 3])
    assert torch.equal(torch.get_rng_state(), random)
    rest = continuation(feature, CLASSES, model=model, layer="layer2")
    assert [(m.training, len(m._forward_hooks)) for m in model.modules()] == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not {p.data_ptr() for p in rest.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert all(p.requires_grad for p in rest.parameters())
    assert rest.training
    rest(torch.randn(2, *feature.shape))
    assert calls == []


def test_a_supervised_model_can_be_repeated_without_its_taps() -> None:
    model = own("resnet-20")
    net = ds.attach(model, ds.plan(model, torch.zeros(2, 3, 16, 16), at=["layer2", "layer3"], method="aux"))
    for layer in ("layer1", INPUT):
        feature = Feature((16, 16, 16) if layer == "layer1" else (3, 16, 16), "NCHW")
        assert not taps_on(continuation(feature, CLASSES, model=model, layer=layer))
    assert len(taps_on(net)) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_is_built_in_the_models_precision(dtype: torch.dtype) -> None:
    feature = Feature((16, 8, 8), "NCHW")
    rest = continuation(feature, CLASSES, model=own("resnet-20").to(dtype), layer="layer1", width=2)
    assert {p.dtype for p in rest.parameters()} == {dtype}
    assert rest(torch.randn(2, 16, 8, 8, dtype=dtype)).dtype == dtype


# --- whole peers ----------------------------------------------------------------------------------------------------


def test_the_input_as_a_layer_repeats_the_whole_model() -> None:
    model = own("resnet-20")
    peer = continuation(Feature((3, 32, 32), "NCHW"), CLASSES, model=model, layer=INPUT)
    assert type(peer) is type(model)
    assert shapes(peer) == shapes(model)
    assert not torch.equal(peer.conv1.weight, model.conv1.weight)
    peer.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(peer.eval()(x), model.eval()(x))


def test_a_peer_needs_no_graph() -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) if x.sum() > 0 else self.fc(-x)

    peer = continuation(Feature((4,), "NC"), CLASSES, model=Deciding(), layer=INPUT)
    assert peer(torch.randn(3, 4)).shape == (3, CLASSES)


def test_a_peer_of_a_model_with_more_outputs_gives_out_scores_alone() -> None:
    model = tv("googlenet", init_weights=False)
    peer = continuation(Feature((3, 64, 64), "NCHW"), CLASSES, model=model, layer=INPUT)
    assert peer(torch.randn(2, 3, 64, 64)).shape == (2, CLASSES)
    assert not any("aux" in name for name in peer.state_dict())


# --- training and evaluation ----------------------------------------------------------------------------------------


class Head(nn.Module):
    """Two linear layers with something between them."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 64)
        self.two = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        x = self.one(x)
        return self.two(self.between(x) if mask is None else x * mask)

    def between(self, x: Tensor) -> Tensor:
        return x


def after_one(model: nn.Module) -> nn.Module:
    return continuation(Feature((64,), "NC"), CLASSES, model=model, layer="one")


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


# --- copies, compilation, price -------------------------------------------------------------------------------------


def test_copies_and_files_compute_the_same() -> None:
    rest = repeat(own("wrn-16-8"), "layer2", 8, width=0.5).eval()
    file = io.BytesIO()
    torch.save(rest, file)
    file.seek(0)
    x = torch.randn(5, 256, 4, 4)
    for twin in (copy.deepcopy(rest), pickle.loads(pickle.dumps(rest)), torch.load(file, weights_only=False)):
        assert shapes(twin) == shapes(rest)
        assert torch.equal(twin(x), rest(x))
        assert twin.fc.weight.data_ptr() != rest.fc.weight.data_ptr()


def test_it_compiles_as_one_graph_for_any_batch() -> None:
    rest = repeat(own("resnet-20"), "layer2", 16, width=2).eval()
    compiled = torch.compile(rest, fullgraph=True, backend="eager")
    for batch in (2, 5):
        x = torch.randn(batch, 32, 8, 8)
        assert torch.equal(compiled(x), rest(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert rest(x).dtype == torch.bfloat16


def test_dhm_trains_and_strips() -> None:
    model, images = own("resnet-20"), torch.randn(4, 3, 16, 16)
    plan = ds.plan(model, images, method="dhm")
    net = ds.attach(model, plan).train()
    ds.Objective(plan)(net(images), torch.tensor([0, 1, 2, 3]), progress=0.5).total.backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
    twin = pickle.loads(pickle.dumps(net)).eval()
    net.eval()
    with ds.supervising(net), ds.supervising(twin), torch.no_grad():
        ours, theirs = net(images).aux, twin(images).aux
    assert ours.keys() == {"early", "late"} == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert ds.strip(net) is model


def test_its_price_is_what_it_holds() -> None:
    model = own("resnet-20")
    feature = given(model, "layer1", 32)
    found = price("early", "continuation(blocks=[2, 1])", feature, CLASSES, model=model, layer="layer1")
    rest = repeat(model, "layer1", blocks=[2, 1])
    assert found.params == count(rest)
    assert found.shape == (2, CLASSES)
    convolutions = 32 * 16**2 * 9 * (16 + 3 * 32) + 64 * 8**2 * 9 * (32 + 64)
    assert found.flops == 2 * (convolutions + 64 * CLASSES)


# --- what cannot be repeated ----------------------------------------------------------------------------------------


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


def test_attention_of_fixed_heads_cannot_be_widened() -> None:
    model = tv("vit_b_32", image_size=32)
    layer = "encoder.layers.encoder_layer_10"
    with pytest.raises(ContinuationError, match=r"no rule says how wide '.*in_proj_weight' has to be.*Ask for width=1"):
        continuation(Feature((2, 768), "NLC"), CLASSES, model=model, layer=layer, width=2)


def test_it_has_to_know_the_model() -> None:
    with pytest.raises(ContinuationError, match="needs model= and layer="):
        continuation(Feature((4,), "NC"), CLASSES, model=None, layer="fc")  # type: ignore[arg-type]


def test_continuation_repeats_what_follows_the_layer() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    with pytest.raises(HeadError, match="head 'continuation' is made from the model that it supervises"):
        heads.build("continuation", FEATURES["NCHW"], CLASSES)
    for text, width in (("continuation", 8), ("continuation(width=2)", 16)):
        head = heads.build(text, FEATURES["NCHW"], CLASSES, model=model, layer="1")
        assert [m.out_channels for m in head.modules() if isinstance(m, nn.Conv2d)] == [width]
        assert head(activation(FEATURES["NCHW"])).shape == (3, CLASSES)
        assert not {id(p) for p in head.parameters()} & {id(p) for p in model.parameters()}
        x = activation(FEATURES["NCHW"])
        assert not heads.zero(head, FEATURES["NCHW"])(x).any()
