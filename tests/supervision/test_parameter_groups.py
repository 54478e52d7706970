"""Settings of the optimiser for trunk and heads apart."""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import nn

import deepsup as ds
from deepsup import datasets, losses, networks
from deepsup.errors import ConfigError, NonFiniteError
from deepsup.methods import METHODS
from deepsup.settings.training import OptimizerConfig
from deepsup.supervision.parameter_groups import too_fast
from deepsup.training import optimizers
from tests.support.small_nets import Plain, images
from tests.support.supervised_nets import supervised


def test_two_groups_with_the_heads_on_their_own_rate() -> None:
    net = supervised()
    model, heads = ds.parameter_groups(net, lr=0.1, weight_decay=1e-4, head_lr_factor=10, head_weight_decay=0.0)
    assert (model["name"], model["lr"], model["weight_decay"]) == ("model", 0.1, 1e-4)
    assert (heads["name"], heads["lr"], heads["weight_decay"]) == ("heads", 1.0, 0.0)
    assert [id(p) for p in model["params"]] == [id(p) for p in net.model.parameters()]
    assert [id(p) for p in heads["params"]] == [id(p) for p in net.heads.parameters()]
    assert [g["weight_decay"] for g in ds.parameter_groups(net, lr=0.1, weight_decay=1e-4)] == [1e-4, 1e-4]
    assert len(torch.optim.SGD(ds.parameter_groups(net, lr=0.1)).param_groups) == 2


def test_frozen_parameters_are_left_out_and_empty_groups_too() -> None:
    net = supervised()
    net.model.conv1.requires_grad_(False)
    assert len(ds.parameter_groups(net, lr=0.1)[0]["params"]) == 4
    net.model.requires_grad_(False)
    assert [g["name"] for g in ds.parameter_groups(net, lr=0.1)] == ["heads"]


def test_a_plain_or_stripped_model_has_one_group() -> None:
    model = Plain()
    for plain in (model, ds.strip(supervised(model)), ds.attach(model, ds.plan(model, images(), method="none"))):
        (group,) = ds.parameter_groups(plain, lr=0.1)
        assert group["name"] == "model"
        assert len(group["params"]) == 6


def test_a_head_that_shares_a_layer_with_the_model_is_optimised_once() -> None:
    model = Plain()
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.fc)
    net = supervised(model, ["relu2"], head=head)
    groups = ds.parameter_groups(net, lr=0.1)
    assert len([p for g in groups for p in g["params"]]) == 6
    torch.optim.SGD(groups)


DSN = ("dsn", "dsn-released", "dsn(loss='cross_entropy')", "dsn-released(loss='cross_entropy')")


@pytest.mark.parametrize("method", DSN)
def test_a_methods_own_rates_are_the_default(method: str) -> None:
    model = networks.build("deepsup:nin", classes=10)
    net = ds.attach(model, ds.plan(model, torch.zeros(2, 3, 16, 16), method=method))
    groups = {g["name"]: g for g in ds.parameter_groups(net, lr=0.5, weight_decay=0.1)}
    # cifar-10.prototxt: blobs_lr 0.001 of the companions, 0.1 of cccp6, twice as much for biases, which do not decay
    heads = 0.0005 / (10 if method == "dsn" else 1)  # multiclass hinges are ten times as steep with ten classes
    weights = {"model": 0.5, "classifier": 0.05, "heads": pytest.approx(heads)}
    assert {name: g["lr"] for name, g in groups.items() if "/" not in name} == weights
    if released := method.startswith("dsn-released"):
        assert {n: (g["lr"], g["weight_decay"]) for n, g in groups.items() if "/" in n} == {
            f"{name}/bias": (2 * rate, 0.0) for name, rate in {**weights, "heads": 0.0005}.items()
        }
        assert [id(p) for p in groups["classifier/bias"]["params"]] == [id(model.cccp6.bias)]
    else:
        assert list(groups) == list(weights)
    cascaded = [model.cccp6.weight] if released else model.cccp6.parameters()
    assert [id(p) for p in groups["classifier"]["params"]] == [id(p) for p in cascaded]
    assert groups["heads"]["weight_decay"] == (0.1 if method.startswith("dsn-released") else 0.0)
    said = ds.parameter_groups(net, lr=0.5, weight_decay=0.1, head_lr_factor=2, head_weight_decay=0.3)
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in said] == [("model", 0.5, 0.1), ("heads", 1.0, 0.3)]
    settings = OptimizerConfig.model_validate({"lr": 0.5})
    built = {g["name"]: g["lr"] for g in optimizers.build(net, settings).param_groups}
    assert {name: rate for name, rate in built.items() if "/" not in name} == weights


def test_hed_released_learns_at_the_rates_of_its_prototxt() -> None:
    """lr_mult and decay_mult of train_val.prototxt, layer by layer, and base_lr of solver.prototxt."""
    model = networks.build("deepsup:hed", classes=1, options={"released": True})
    net = ds.attach(model, ds.plan(model, torch.zeros(1, 3, 16, 16), method="hed-released"))
    built = optimizers.build(net, OptimizerConfig.model_validate({"weight_decay": 2e-4}))
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in built.param_groups for p in g["params"]}
    assert len(rates) == len(list(net.parameters()))
    for name, p in model.named_parameters():
        times = 100 if name.startswith("conv5") else 0.01 if name.startswith("side") else 0.001 if "fuse" in name else 1
        bias = name.endswith("bias")
        assert rates[id(p)] == (pytest.approx(1e-6 * times * (1 + bias)), 0.0 if bias else 2e-4), name
    for settings, rate in (
        ({"lr": 0.1}, 0.1),
        ({"name": "adam"}, 1e-3),
    ):  # what the user says wins, and Adam has its own
        assert optimizers.build(net, OptimizerConfig.model_validate(settings)).param_groups[0]["lr"] == rate


@pytest.mark.parametrize(
    ("spec", "side"),
    [("deepsup:nin", 16), ("torchvision:resnet18", 32), ("deepsup:resnet-18-3x3", 16), ("deepsup:resnet-20", 32)],
)
@pytest.mark.parametrize(
    ("method", "rate"),  # the second rate is the trainer's own
    [("dsn", 0.01), ("dsn", 0.02), ("dsn-released", 0.01), ("dsn-released", 0.02), ("dsn(loss='cross_entropy')", 0.02)],
)
def test_the_defaults_of_dsn_do_not_diverge(method: str, spec: str, side: int, rate: float) -> None:
    found = _steps(method, spec, side, rate)
    assert max(found) < 40 * found[0]
    assert found[-1] < found[0]


@pytest.mark.parametrize(
    "method", ["aux", "cnds", "googlenet", "sdn", "adaloss", "equilibrium", "byot", "one", "dsl", "dhm"]
)
def test_the_defaults_of_the_other_methods_do_not_diverge(method: str) -> None:
    found = _steps(method, "deepsup:resnet-20", 32, 0.02)
    assert max(found) < 5 * found[0]


@pytest.mark.parametrize("method", ["dsn", "dsn-released"])
@pytest.mark.parametrize(
    ("spec", "side"), [("deepsup:wrn-16-2", 32), ("deepsup:nin", 32), ("deepsup:densenet-22-6", 16)]
)
def test_dsn_with_the_trainers_defaults_does_not_diverge_where_it_did(method: str, spec: str, side: int) -> None:
    """Digits share their background, and so do all places of an activation: hinges of wide maps are steep."""
    found = _steps(method, spec, side, None, drawn=False)
    assert max(found) < 1.5 * found[0]
    assert sum(found[-3:]) < 0.7 * sum(found[:3])


@pytest.mark.parametrize(
    "loss",
    ["squared_hinge", "squared_hinge(form='one-vs-rest')", "cross_entropy"],
    ids=["multiclass", "released", "softmax"],
)
@pytest.mark.parametrize("classes", [10, 100])
def test_no_step_of_a_companion_of_dsn_overshoots(loss: str, classes: int) -> None:
    """SGD with momentum m oscillates without bound on a parabola once rate * curvature passes 2 (1 + m): here, of the
    classifier alone, the curvature being the largest of its loss (Hessian in the scores) times the largest of its inputs."""
    torch.manual_seed(0)
    model = networks.build("deepsup:densenet-40-12", classes=classes)
    x = _digits(8)[0]
    plan = ds.plan(model, x[:2], method=f'dsn(loss="{loss}")')
    net = ds.attach(model, plan).train()
    built = optimizers.build(net, OptimizerConfig.model_validate({}))
    rate = next(g["lr"] for g in built.param_groups if g["name"] == "heads")
    value = losses.get(loss)
    reads: dict[str, torch.Tensor] = {}
    for name, head in net.heads.items():
        linear = next(m for m in head.modules() if isinstance(m, nn.Linear))
        linear.register_forward_hook(lambda _m, given, _o, name=name: reads.__setitem__(name, given[0].detach()))
    net(x)
    for name in plan.names:
        inputs = torch.linalg.matrix_norm(reads[name], 2) ** 2 / len(x)
        scores = torch.zeros(1, classes)
        bend = torch.autograd.functional.hessian(lambda s: value(s, torch.tensor([0])), scores).view(classes, classes)
        assert rate * float(torch.linalg.eigvalsh(bend)[-1] * inputs) < 2 * (1 + 0.9), name


def test_a_rate_that_is_set_is_taken_and_losses_of_slopes_up_to_1_need_no_other() -> None:
    model = networks.build("deepsup:nin", classes=10)
    for method, given, rate in (
        ("dsn", None, 0.002),
        ("dsn", 0.5, 0.5),
        ("dsn(loss='cross_entropy')", None, 0.02),
        ("dhm", None, 0.02),
    ):
        own = networks.build("deepsup:resnet-8", classes=10) if method == "dhm" else copy.deepcopy(model)
        net = ds.attach(own, ds.plan(own, torch.zeros(2, 3, 32, 32), method=method))
        built = optimizers.build(net, OptimizerConfig.model_validate({"lr": given}))
        assert next(g["lr"] for g in built.param_groups if g["name"] == "model") == rate
    many = networks.build("deepsup:nin", classes=40)  # hinges are summed over classes
    net = ds.attach(many, ds.plan(many, torch.zeros(2, 3, 32, 32), method="dsn"))
    assert optimizers.build(net, OptimizerConfig()).param_groups[0]["lr"] == pytest.approx(0.002 / 4)


def _digits(number: int, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = next(iter(datasets.load("digits", size=side).train.batches(number, seed=0, epoch=0, shuffle=True)))
    return x.repeat(1, 3, 1, 1), y


def _steps(method: str, spec: str, side: int, rate: float | None, *, drawn: bool = True) -> list[float]:
    torch.manual_seed(0)
    model = networks.build(spec, classes=10)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(16, 3, side, side, generator=generator), torch.arange(16) % 10
    if not drawn:
        x, y = _digits(16, side)
    at = None if METHODS.get(method, METHODS["dsn"]).places else ["layer1", "layer2"]
    plan = ds.plan(model, x[:2], at, method=method)
    net = ds.attach(model, plan).train()
    optimizer = optimizers.build(net, OptimizerConfig.model_validate({"lr": rate}))
    found = []
    for _ in range(12):
        optimizer.zero_grad()
        total = ds.Objective(plan)(net(x), y, progress=0.0).total
        total.backward()
        optimizer.step()
        found.append(float(total.detach()))
    assert all(math.isfinite(loss) for loss in found), found
    return found


def test_an_optimiser_that_is_too_fast_is_named() -> None:
    model = Plain()
    net = ds.attach(model, ds.plan(model, images(), ["relu1"], method="dsn"))
    fast = torch.optim.SGD(net.parameters(), lr=0.1)
    assert too_fast(net, fast) == (
        "method 'dsn' needs its heads at 0.0001 of the model's rate, and this optimiser has them at 1"
    )
    assert too_fast(net, torch.optim.SGD(ds.parameter_groups(net, lr=0.1))) == ""
    assert too_fast(model, fast) == ""
    batches = [(images(), torch.arange(len(images())) % 5)]
    fast = torch.optim.SGD(net.parameters(), lr=1e6)
    with pytest.raises(NonFiniteError, match=r"Method 'dsn' needs its heads at 0\.0001 .*head_lr_factor null"):
        ds.fit(net, batches, optimizer=fast, epochs=30)


def in_timms_groups(model: nn.Module, **options: float) -> set[tuple[float, float, frozenset[str]]]:
    names = {id(p): n for n, p in model.named_parameters()}
    made = create_optimizer_v2(model, "sgd", lr=0.1, weight_decay=0.05, **options)
    return {
        (round(0.1 * g.get("lr_scale", 1.0), 9), g["weight_decay"], frozenset(names[id(p)] for p in g["params"]))
        for g in made.param_groups
    }


TINY_VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 5}


@pytest.mark.parametrize("layer_decay", [None, 0.7])
@pytest.mark.parametrize(
    ("name", "options", "at"), [("vit_tiny_patch16_224", TINY_VIT, "blocks.0"), ("resnet10t", {}, "layer1")]
)
def test_what_is_not_to_decay_and_how_rates_fall_with_depth_is_as_in_timm(
    name: str, options: dict[str, int], at: str, layer_decay: float | None
) -> None:
    model = timm.create_model(name, **options)
    decays = {} if layer_decay is None else {"layer_decay": layer_decay}
    names = {id(p): n for n, p in model.named_parameters()}
    expected = {names: (lr, decay) for lr, decay, names in in_timms_groups(model, **decays)}
    plain = ds.parameter_groups(model, lr=0.1, weight_decay=0.05, no_decay=True, layer_decay=layer_decay)
    net = supervised(model, [at])
    groups = ds.parameter_groups(net, lr=0.1, weight_decay=0.05, no_decay=True, layer_decay=layer_decay)
    for made in (plain, [g for g in groups if g["name"].startswith("model")]):
        found = {frozenset(names[id(p)] for p in g["params"]): (round(g["lr"], 9), g["weight_decay"]) for g in made}
        assert found == expected
    heads = {g["name"]: (g["lr"], g["weight_decay"]) for g in groups if g["name"].startswith("heads")}
    assert heads == {"heads": (0.1, 0.05), "heads/no decay": (0.1, 0.0)}
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in net.parameters()}


def test_decay_of_everything_stays_what_is_not_asked_otherwise() -> None:
    net = supervised(timm.create_model("resnet10t"), ["layer1"])
    assert [(g["name"], g["weight_decay"]) for g in ds.parameter_groups(net, lr=0.1, weight_decay=0.05)] == [
        ("model", 0.05),
        ("heads", 0.05),
    ]


def test_biases_that_a_release_learns_faster_do_so_without_decay_in_any_case() -> None:
    method = "dsn-released(loss='cross_entropy')"
    model = Plain()
    net = ds.attach(model, ds.plan(model, images(), ["relu1"], method=method))
    found = {g["name"]: g for g in ds.parameter_groups(net, lr=0.1, weight_decay=0.05, no_decay=True)}
    assert found["model/bias/no decay"]["lr"] == pytest.approx(0.2)
    assert {name: g["weight_decay"] for name, g in found.items() if "no decay" in name} == dict.fromkeys(
        [name for name in found if "no decay" in name], 0.0
    )


@pytest.mark.parametrize(
    ("model", "factor", "says"),
    [
        (Plain(), 0.7, "Plain does not. Take the model from timm"),
        (timm.create_model("resnet10t"), 1.5, r"in \(0, 1\]; found 1.5"),
    ],
)
def test_layer_decay_is_refused_where_layers_are_not_told(model: nn.Module, factor: float, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ds.parameter_groups(model, lr=0.1, layer_decay=factor)
