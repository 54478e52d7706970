"""DHM's branches on DenseNets: every layer as wide as in the released code, which is written out here in numbers."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import deepsup as ds
from deepsup import networks
from deepsup.heads.continuation.dense_growth import is_transition, transition_width
from tests.support.continuations import CLASSES, count, own, repeat, tv, zoo

# depth, growth, DHM's table: layers of the early branch's two stages and of the late branch's one
RELEASED = {
    "densenet-40-12": (40, 12, (12, 6), 12),
    "densenet-100-12": (100, 12, (16, 16), 32),
    "densenet-100-24": (100, 24, (16, 16), 32),
    "densenet-bc-100-12": (100, 12, (16, 16), 32),
    "densenet-bc-250-24": (250, 24, (22, 22), 41),
    "densenet-bc-190-40": (190, 40, (16, 16), 31),
    # of the same family, by the rule behind the table: all layers of the first stage, half of the second's, rounded up
    "densenet-46-5": (46, 5, (14, 7), 14),
    "densenet-bc-52-5": (52, 5, (8, 4), 8),
}


class Counted:
    """A DenseNet as the released code builds it, in channels and parameters alone."""

    def __init__(self, channels: int, *, bottleneck: bool) -> None:
        self.channels, self.bottleneck, self.params = channels, bottleneck, 0

    def stage(self, layers: int, growth: int) -> None:
        for _ in range(layers):
            c = self.channels
            narrow = c * 4 * growth + 2 * 4 * growth + 9 * 4 * growth * growth
            self.params += 2 * c + (narrow if self.bottleneck else 9 * c * growth)
            self.channels += growth

    def transition(self) -> None:
        after = math.floor(self.channels * (0.5 if self.bottleneck else 1.0))
        self.params += 2 * self.channels + self.channels * after
        self.channels = after

    def end(self, classes: int) -> int:
        return self.params + 2 * self.channels + (self.channels + 1) * classes


def released(name: str, classes: int) -> tuple[dict[str, int], dict[str, int]]:
    """Parameters of the two branches, and the channels that they end in."""
    depth, growth, (first, second), last = RELEASED[name]
    bottleneck = "bc" in name
    n = (depth - 4) // (6 if bottleneck else 3)
    trunk = Counted(2 * growth if bottleneck else 16, bottleneck=bottleneck)
    trunk.stage(n, growth)
    trunk.transition()
    early = Counted(trunk.channels, bottleneck=bottleneck)
    trunk.stage(n, growth)
    trunk.transition()
    late = Counted(trunk.channels, bottleneck=bottleneck)
    early.stage(first, growth)
    early.transition()
    early.stage(second, growth)
    late.stage(last, 3 * growth)
    counts = {"early": early.end(classes), "late": late.end(classes)}
    return counts, {"early": early.channels, "late": late.channels}


@pytest.mark.parametrize(
    ("method", "name"), [*(("dhm", name) for name in RELEASED), ("dsl", "densenet-40-12"), ("dks", "densenet-bc-52-5")]
)
def test_both_branches_have_the_parameters_of_the_released_code(method: str, name: str) -> None:
    with torch.device("meta"):
        model = networks.build(f"deepsup:{name}", classes=100)
        plan = ds.plan(model, torch.zeros(2, 3, 8, 8), method=method)
    assert {b.name: b.params for b in plan.branches} == released(name, 100)[0]


def test_the_early_branch_of_densenet_100_12_ends_in_784_channels_from_592() -> None:
    with torch.device("meta"):
        rest = repeat(networks.build("deepsup:densenet-100-12", classes=CLASSES), "transition1", 16, blocks=[16, 16])
    transition = rest.get_submodule("transition2.conv1")
    assert isinstance(transition, nn.Conv2d)
    assert (transition.in_channels, transition.out_channels) == (592, 592)
    assert released("densenet-100-12", CLASSES)[1]["early"] == rest.get_submodule("fc").weight.shape[1] == 784
    assert released("densenet-100-12", 100)[0]["early"] == 2_494_436


def test_a_wider_branch_keeps_the_compression_too() -> None:
    with torch.device("meta"):
        rest = repeat(own("densenet-bc-100-12"), "transition1", 16, width=3)
    expected = Counted(108, bottleneck=True)
    expected.stage(16, 36)
    expected.transition()
    expected.stage(16, 36)
    assert count(rest) == expected.end(CLASSES)


@pytest.mark.parametrize("make", [partial(tv, "densenet121"), partial(zoo, "densenet121")])
def test_other_densenets_too(make: Any) -> None:
    with torch.device("meta"):
        rest = repeat(make(), "features.transition2", 64, blocks=[10, 16])
    transition = rest.get_submodule("features.transition3.conv")
    assert isinstance(transition, nn.Conv2d)
    assert (transition.in_channels, transition.out_channels) == (256 + 10 * 32, (256 + 10 * 32) // 2)
    assert rest.get_submodule("classifier").weight.shape[1] == 288 + 16 * 32


def test_other_networks_keep_their_widths() -> None:
    """MobileNetV2's last convolution stays as wide as it is, however short the stage before it."""
    with torch.device("meta"):
        model = tv("mobilenet_v2")
        blocks = [1] * 4
        rest = repeat(model, "features.6", 64, blocks=blocks[:2])
        assert rest.get_submodule("features.18.0").weight.shape[0] == 1280
        google = tv("googlenet", init_weights=False, aux_logits=False)
        wide = repeat(google, "inception4b", 64, width=0.5)
        assert wide.get_submodule("inception5a.branch1.conv").weight.shape[:2] == (128, 416)


@pytest.mark.parametrize(
    ("given", "made", "channels", "expected"),
    [(784, 784, 592, 592), (217, 108, 401, 200), (300, 150, 7, 3), (100, 30, 50, 15), (2, 1, 1, 1)],
)
def test_a_transition_makes_the_same_share(given: int, made: int, channels: int, expected: int) -> None:
    assert transition_width(nn.Conv2d(given, made, 1), channels) == expected


def test_only_1x1_convolutions_on_a_pile_are_transitions() -> None:
    class Pile(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.bn = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(8)
            self.dense, self.wide, self.beside = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3), nn.Conv2d(8, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = self.a(x)
            pile = self.bn(torch.cat((x, a), 1))
            return self.dense(pile).sum() + self.wide(pile).sum() + self.beside(torch.cat((a, self.b(x)), 1)).sum()

    graph = torch.fx.symbolic_trace(Pile())
    convolutions = {name: layer for name, layer in graph.named_modules() if isinstance(layer, nn.Conv2d)}
    found = [name for name, layer in convolutions.items() if is_transition(graph, name, layer)]
    assert found == ["dense"]
