"""The places of published branches in the published networks themselves, whatever these are called."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import networks
from deepsup.errors import ConfigError
from deepsup.layers.dry_run import trace
from deepsup.methods import METHODS
from deepsup.methods.method import Scene
from deepsup.methods.stage_ends import inner_stages
from deepsup.settings import configs
from deepsup.settings import training as settings
from tests.support.paper_nets import norm, score
from tests.support.small_nets import unsettled

DSN = ("dsn", "dsn-released", "dsn-released(loss='cross_entropy')")


class Renamed(nn.Module):
    """A network in network as others write it: names of their own, in a part of its own, in-place ReLUs, functions."""

    def __init__(self, normalised: bool = False) -> None:
        super().__init__()
        widths = [(3, 12, 5), (12, 10, 1), (10, 6, 1), (6, 12, 3), (12, 12, 1), (12, 12, 1), (12, 12, 3), (12, 12, 1)]
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in widths:
            layers += [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)]
            layers += [nn.BatchNorm2d(outputs)] if normalised else []
            layers += [nn.ReLU(inplace=True)]
        self.classifier = nn.Sequential(*layers, nn.Conv2d(12, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(self.classifier(F.max_pool2d(x, 2)), 1).flatten(1)


@pytest.mark.parametrize("method", DSN)
@pytest.mark.parametrize(("classes", "channels", "side"), [(10, 3, 32), (100, 3, 32), (10, 1, 28)])
def test_dsn_reads_the_three_convolutions_of_nin_before_their_relu(
    method: str, classes: int, channels: int, side: int
) -> None:
    with torch.device("meta"):
        model = networks.build("deepsup:nin", classes=classes, in_channels=channels)
        plan = ds.plan(model, torch.randn(2, channels, side, side), method=method)
    sides = (side, side // 2, side // 4)
    assert plan.names == ("conv1", "conv2", "conv3")
    assert [b.layer for b in plan.branches] == ["conv1", "conv2", "conv3"]
    assert [b.feature.shape for b in plan.branches] == [(192, s, s) for s in sides]
    # 1,966,090, 491,530 and 122,890 for ten classes of 32x32 pixels: one flat linear layer each
    assert [b.params for b in plan.branches] == [(192 * s * s + 1) * classes for s in sides]


def test_companions_of_nin_see_what_the_convolution_gives_before_the_relu() -> None:
    torch.manual_seed(0)
    model = networks.build("deepsup:nin", classes=4, in_channels=1, options={"dropout": 0.0}).double()
    x = torch.randn(2, 1, 8, 8).double()
    net = ds.attach(model, ds.plan(model, x, method="dsn-released"))
    found = net(x).aux
    for layer in ("conv1", "conv2", "conv3"):
        before = nn.Sequential(OrderedDict(list(model.named_children())[: list(model._modules).index(layer) + 1]))
        flat = before(x).flatten(1)
        assert flat.min() < 0
        (linear,) = (m for m in net.heads[layer].modules() if isinstance(m, nn.Linear))
        assert torch.allclose(found[layer], flat @ linear.weight.T + linear.bias, rtol=1e-12)


@pytest.mark.parametrize("method", DSN)
@pytest.mark.parametrize("normalised", [False, True])
def test_a_network_in_network_of_any_name_is_known(method: str, normalised: bool) -> None:
    model = Renamed(normalised)
    wide = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert ds.plan(model, torch.randn(2, 3, 16, 16), method=method).names == tuple(wide)


def _dhm_stage(s: dict[str, Tensor], x: Tensor, name: str, blocks: int, *, stride: int) -> Tensor:
    """Blocks as DHM's models/cifar/resnet.py has them: the shortcut pools 2x2 and is filled up with zeros behind."""
    for i in range(blocks):
        b = f"{name}.{i}"
        y = F.relu(norm(s, f"{b}.bn1", F.conv2d(x, s[f"{b}.conv1.weight"], stride=stride if i == 0 else 1, padding=1)))
        y = norm(s, f"{b}.bn2", F.conv2d(y, s[f"{b}.conv2.weight"], padding=1))
        if stride > 1 and i == 0:
            x = F.avg_pool2d(x, 2)
            x = torch.cat((x, x.new_zeros(len(x), y.shape[1] - x.shape[1], *x.shape[2:])), 1)
        x = F.relu(x + y)
    return x


DHM_TABLE = {20: ((3, 2), 3), 32: ((5, 3), 5), 110: ((9, 9), 18)}  # 32, 110: released; 20: by the rule


@pytest.mark.parametrize("method", ["dhm", "dsl"])
@pytest.mark.parametrize("depth", DHM_TABLE)
def test_dhm_on_cifar_resnets_with_pooling_shortcuts_is_the_released_network(method: str, depth: int) -> None:
    torch.manual_seed(0)
    model = networks.build(f"deepsup:resnet-{depth}", classes=7, options={"shortcut": "pool"})
    x = torch.randn(2, 3, 16, 16).double()
    net = ds.attach(model, ds.plan(model, x.float(), method=method)).double()
    unsettled(net)
    with ds.supervising(net):
        found = net(x)
    s, n, ((a, b), c) = model.state_dict(), (depth - 2) // 6, DHM_TABLE[depth]
    early, late = (net.heads[name].state_dict() for name in ("early", "late"))
    stem = F.relu(norm(s, "bn1", F.conv2d(x, s["conv1.weight"], padding=1)))
    first = _dhm_stage(s, stem, "layer1", n, stride=1)
    second = _dhm_stage(s, first, "layer2", n, stride=2)
    main = score(s, _dhm_stage(s, second, "layer3", n, stride=2))
    of_early = _dhm_stage(early, _dhm_stage(early, first, "layer2", a, stride=2), "layer3", b, stride=2)
    of_late = _dhm_stage(late, second, "layer3", c, stride=2)
    assert of_late.shape[1] == 128
    close = {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(found.main, main, **close)
    torch.testing.assert_close(found.aux["early"], score(early, of_early), **close)
    torch.testing.assert_close(found.aux["late"], score(late, of_late), **close)


def test_whoever_runs_dhm_on_a_cifar_resnet_is_told_of_its_shortcut() -> None:
    for method in ("dhm", "dsl", "dks"):
        assert "model_options.shortcut=pool" in METHODS[method].facts()["deviations"]
    used = 0
    for path in sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml")):
        config = configs.load(path)
        each = [config] if isinstance(config, settings.TrainConfig) else [cell.config for cell in config.expand()]
        names = [run.supervise.method for run in each if run.supervise is not None]
        own = each[0].model.startswith("deepsup:resnet-") and not each[0].model.endswith("3x3")
        if own and {"dhm", "dsl", "dks"} & set(names):
            used += 1
            assert all(run.model_options.get("shortcut") == "pool" for run in each), path
    assert used >= 4


def _all_convolutional() -> nn.Module:
    widths = [(3, 8, 3, 1), (8, 8, 3, 2), (8, 8, 3, 1), (8, 8, 3, 2), (8, 8, 1, 1), (8, 4, 1, 1)]
    layers = [nn.Sequential(nn.Conv2d(a, b, k, s, k // 2), nn.ReLU()) for a, b, k, s in widths]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    "make",
    [
        lambda: torchvision.models.squeezenet1_1(num_classes=4),
        lambda: networks.build("deepsup:resnet-20", classes=4),
        lambda: networks.build("deepsup:mobilenet-v1", classes=4),
        _all_convolutional,
    ],
)
def test_other_networks_get_branches_after_their_stages(make: Any) -> None:
    model = make()
    x = torch.randn(2, 3, 64, 64)
    assert list(ds.plan(model, x, method="dsn(loss='cross_entropy')").names) == list(
        inner_stages(Scene(model, trace(model, x)))
    )


@pytest.mark.parametrize("method", ["cnds", "cnds-released", "cnds(reading='linear')"])
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("deepsup:cnds-8", ["relu3_2"]),
        ("deepsup:cnds-13", ["relu2_2", "relu3_3", "relu4_3"]),
        ("torchvision:vgg11", ["features.9"]),  # the same eight convolutions in the same groups
        ("torchvision:vgg11_bn", ["features.13"]),
        ("torchvision:vgg16", ["features.8", "features.15", "features.22"]),
    ],
)
def test_cnds_follows_the_fourth_convolution_and_its_relu(method: str, spec: str, expected: list[str]) -> None:
    with torch.device("meta"):
        model = networks.build(spec, classes=7, **({"size": 64} if "cnds" in spec else {}))
        plan = ds.plan(model, torch.zeros(2, 3, 64, 64), method=method)
    assert list(plan.names) == expected
    assert all(type(model.get_submodule(name)) is nn.ReLU for name in plan.names)


def test_cnds_elsewhere_has_to_be_told_where() -> None:
    for model in (Renamed(), networks.build("deepsup:plain-12", classes=4)):
        with pytest.raises(ConfigError, match="method 'cnds-released' needs at=: layer names, or 'auto'"):
            ds.plan(model, torch.randn(2, 3, 16, 16), method="cnds-released")


def test_the_branch_of_cnds_8_is_the_released_one() -> None:
    with torch.device("meta"):
        model = networks.build("deepsup:cnds-8", classes=205)
        plan = ds.plan(model, torch.zeros(2, 3, 227, 227), method="cnds-released")
    (branch,) = plan.branches
    assert branch.feature.shape == (256, 28, 28)
    # 1x1 from 256 to 64; 13x13 of these, rounded up from (28 - 5) / 2 + 1, to 1024; 1024; 205
    expected = 64 * 257 + 1024 * (64 * 13 * 13 + 1) + 1024 * 1025 + 205 * 1025
    assert branch.params == expected == 12_352_781
