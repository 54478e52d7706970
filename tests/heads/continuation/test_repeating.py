"""Branches that repeat the rest of the trunk: against the trunk itself, against networks of that size, and against print."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import pytest
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
from tests.support.continuations import CLASSES, Head, after_one, count, given, own, repeat, resnet18, shapes, tv, zoo

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


@lru_cache(maxsize=1)
def trunk_on_meta(spec: str) -> nn.Module:
    with torch.device("meta"):
        if spec.startswith("deepsup"):
            return networks.build(spec, classes=100)
        return torchvision.models.get_model(spec)


def millions(spec: str, layer: str, channels: int, **options: Any) -> float:
    """Parameters of a branch on a network of 1000 classes (torchvision) or 100 (ours); a minus for the network itself."""
    model = trunk_on_meta(spec)
    if not layer:
        return count(model) / 1e6
    classes, side = (100, 16) if spec.startswith("deepsup") else (1000, 14)
    with torch.device("meta"):
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
