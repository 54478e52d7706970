"""The channel counts of a repeated rest: depthwise, grouped and gating layers, and what cannot be widened."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from deepsup import networks
from deepsup.errors import ContinuationError
from deepsup.features import Feature
from deepsup.heads.continuation import continuation
from deepsup.layers.selectors import INPUT
from tests.support.continuations import CLASSES, count, given, own, repeat, shapes, tv, zoo


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


def test_attention_of_fixed_heads_cannot_be_widened() -> None:
    model = tv("vit_b_32", image_size=32)
    layer = "encoder.layers.encoder_layer_10"
    with pytest.raises(ContinuationError, match=r"no rule says how wide '.*in_proj_weight' has to be.*Ask for width=1"):
        continuation(Feature((2, 768), "NLC"), CLASSES, model=model, layer=layer, width=2)
