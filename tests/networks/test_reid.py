"""The strong baseline on any backbone: its parts, its last stride, its stages."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import networks
from deepsup.errors import ConfigError
from deepsup.layers.last_linear import LastLinear, last_linear
from tests.support.paper_nets import on_meta, parameters
from tests.support.small_nets import unsettled

torch.set_num_threads(1)


def built(classes: int = 7, **options: Any) -> nn.Module:
    torch.manual_seed(0)
    slim = {"backbone": "deepsup:resnet-10-slim", "backbone_options": {"width": 4}}
    return networks.build("deepsup:reid", classes=classes, options=slim | options)


def last_maps(model: nn.Module, height: int = 64, width: int = 32) -> list[tuple[int, ...]]:
    return [tuple(m.shape[1:]) for m in model.eval().backbone(torch.zeros(1, 3, height, width))[-2:]]


def test_with_resnet_50_it_has_the_parameters_of_the_strong_baseline() -> None:
    model = on_meta("deepsup:reid", classes=751)
    # ResNet-50 without its classifier; the neck's scale; scores without bias
    assert parameters(model) == (25_557_032 - 2048 * 1000 - 1000) + 2048 + 2048 * 751
    assert model.stages == ("backbone.layer1", "backbone.layer2", "backbone.layer3", "backbone.layer4")


def test_the_small_one_is_that_which_trains_on_a_cpu() -> None:
    assert parameters(on_meta("deepsup:reid", classes=100, options={"backbone": "deepsup:resnet-18-slim"})) == 182_216


@pytest.mark.parametrize("pool", ["avg", "gem"])
@pytest.mark.parametrize("neck", ["bn", "none"])
def test_it_pools_normalises_and_scores(neck: str, pool: str) -> None:
    model, x = unsettled(built(neck=neck, pool=pool)).eval(), torch.randn(3, 3, 64, 32)
    maps = model.backbone(x)[-1]
    pooled = maps.mean((2, 3)) if pool == "avg" else maps.clamp(min=1e-6).pow(3).mean((2, 3)) ** (1 / 3)
    if pool == "gem":
        model.pool.p.data.fill_(3)
    embedding = pooled
    if neck == "bn":
        n = model.neck
        embedding = (pooled - n.running_mean) / (n.running_var + 1e-5).sqrt() * n.weight
    scores = embedding @ model.fc.weight.T + (0 if neck == "bn" else model.fc.bias)
    assert torch.allclose(model(x), scores, atol=1e-5)
    assert torch.allclose(ds.embedder(model)(x), F.normalize(embedding, dim=1), atol=1e-5)
    assert last_linear(model, lambda: model(x)) == LastLinear("fc", "neck" if neck == "bn" else "")


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [
        ("deepsup:resnet-10-slim", 64),
        ("torchvision:resnet18", 512),
        ("timm:resnet18", 512),
        ("torchvision:mobilenet_v2", 320),
        ("deepsup:mobilenet-v2", 1280),
    ],
)
def test_the_last_stride_is_taken_without_a_weight_more_or_less(backbone: str, channels: int) -> None:
    one, two = (
        networks.build("deepsup:reid", classes=5, options={"backbone": backbone, "last_stride": s}) for s in (1, 2)
    )
    before, after = last_maps(two), last_maps(one)
    assert after[-1] == (channels, *after[-2][1:])
    assert after[-1] == (channels, 2 * before[-1][1], 2 * before[-1][2])
    assert {k: v.shape for k, v in one.state_dict().items()} == {k: v.shape for k, v in two.state_dict().items()}
    assert all(m.dilation == (1, 1) for m in one.modules() if isinstance(m, nn.Conv2d))


def test_weights_learned_with_a_stride_are_all_in_the_finer_map() -> None:
    one, two = built(last_stride=1).eval(), built(last_stride=2).eval()
    two.load_state_dict(one.state_dict())
    x = torch.randn(1, 3, 64, 32)
    first = "layer4.0.conv1"
    seen: list[Tensor] = []
    for model in (one, two):
        model.backbone.get_submodule(first).register_forward_hook(lambda m, a, out: seen.append(out))
        model(x)
    assert torch.allclose(seen[0][:, :, ::2, ::2], seen[1], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"backbone": "torchvision:vgg11"}, "'torchvision:vgg11' has no last stride that could be 1.*last_stride=2"),
        (
            {"backbone": "deepsup:resnet-8", "backbone_options": {}},
            "does not run with last_stride=1.*Set last_stride=2",
        ),
        ({"backbone": "torchvision:convnext_tiny"}, "no last stride that could be 1"),
        ({"backbone": "resnet50"}, "Write timm:NAME, torchvision:NAME or deepsup:NAME"),
        (
            {"backbone": "deepsup:reid", "backbone_options": {}},
            "do not run one after the other.*deepsup:resnet-18-slim",
        ),
        ({"pretrained": True}, "'deepsup:resnet-10-slim' has no trained weights"),
        ({"neck": "ln"}, "neck='ln' must be 'bn' or 'none'"),
        ({"last_stride": True}, "last_stride=True must be 1 or 2"),
        ({"pool": "max"}, "pool='max' must be 'avg' or 'gem'"),
        ({"necks": 1}, "no option necks"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], says: str) -> None:
    options = {"backbone_options": {}} | options if "backbone" in options else options
    with pytest.raises(ConfigError, match=says):
        built(**options)


def test_the_slim_resnet_is_a_resnet_18_in_small() -> None:
    model = on_meta("deepsup:resnet-18-slim", classes=10)
    wide, theirs = (8, 16, 32, 64), []
    for a, b in zip((8, *wide[:-1]), wide, strict=True):
        theirs.append(9 * a * b + 3 * 9 * b * b + 8 * b + (0 if a == b else a * b + 2 * b))
    assert parameters(model) == 27 * 8 + 16 + sum(theirs) + 64 * 10 + 10
    assert [len(getattr(model, f"layer{n}")) for n in range(1, 5)] == [2] * 4
    for depth in (8, 12):
        with pytest.raises(ConfigError, match="depth is 8n"):
            networks.build(f"deepsup:resnet-{depth}-slim", classes=10)


def test_stages_of_one_resolution_are_told_apart() -> None:
    model, x = built(), torch.randn(2, 3, 64, 32)
    layers = ["backbone.layer1", "backbone.layer2", "backbone.layer3"]
    assert [b.layer for b in ds.plan(model, x, method="adaloss").branches] == layers
    hierarchical = ds.plan(model, x, method="dhm").branches
    assert [(b.name, b.layer) for b in hierarchical] == [("early", layers[1]), ("late", layers[2])]
    assert [b.layer for b in ds.plan(model, x, method="byot").branches] == [*layers, "backbone.layer4"]
