"""PSPNet, C1 and PPM against their published definitions, written out in functions and counted by hand."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup.errors import ConfigError
from tests.support.dense_nets import ADE20K, DEEP18, TINY, built, on_meta
from tests.support.small_nets import unsettled

torch.set_num_threads(1)


State = Mapping[str, Tensor]


MOBILENET = "timm:mobilenetv2_100"
SHORT50: dict[str, Any] = {"backbone_options": {"layers": (1, 1, 2, 2)}}  # what repeats, once
BLOCKS = {
    "resnet50, short": (1, 1, 2, 2),
    "resnet18": (2, 2, 2, 2),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}
# dilation of the 3x3 convolutions: of the one that had a stride, of the others
SEMSEG = {1: (1, 1), 2: (1, 1), 3: (2, 2), 4: (4, 4)}
CSAIL = {1: (1, 1), 2: (1, 1), 3: (1, 2), 4: (2, 4)}
# MobileNetV2, by timm's names: blocks of a stage, stride of the first, dilation of the first and of the others
MOBILE = [(1, 1, 1, 1), (2, 2, 1, 1), (3, 2, 1, 1), (4, 1, 1, 2), (3, 1, 2, 2), (3, 1, 2, 4), (1, 1, 4, 4)]


def conv(s: State, name: str, x: Tensor, *, stride: int = 1, rate: int = 1, groups: int = 1) -> Tensor:
    weight = s[f"{name}.weight"]
    padding = rate * (weight.shape[2] // 2)
    return F.conv2d(x, weight, s.get(f"{name}.bias"), stride, padding, rate, groups)


def norm(s: State, name: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (s[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    return F.batch_norm(x, mean, var, weight, bias)


def cbr(s: State, name: str, x: Tensor, *, at: int = 0) -> Tensor:
    """Convolution, normalisation and ReLU at the places `at` and `at` + 1 of the sequence `name`."""
    return F.relu(norm(s, f"{name}.{at + 1}", conv(s, f"{name}.{at}", x)))


def residual_stages(s: State, x: Tensor, blocks: tuple[int, ...], rates: Mapping[int, tuple[int, int]]) -> list[Tensor]:
    """conv2 to conv5 of a ResNet with the stem of three convolutions, conv4 and conv5 without a stride."""
    x = F.relu(norm(s, "conv1.1", conv(s, "conv1.0", x, stride=2)))
    x = F.relu(norm(s, "conv1.4", conv(s, "conv1.3", x)))
    x = F.max_pool2d(F.relu(norm(s, "bn1", conv(s, "conv1.6", x))), 3, 2, 1)
    maps = []
    for stage, count in enumerate(blocks, 1):
        for i in range(count):
            b = f"layer{stage}.{i}"
            stride = 2 if (stage, i) == (2, 0) else 1
            rate = rates[stage][0 if i == 0 else 1]
            if f"{b}.conv3.weight" in s:  # a bottleneck, the stride at its 3x3
                y = F.relu(norm(s, f"{b}.bn1", conv(s, f"{b}.conv1", x)))
                y = F.relu(norm(s, f"{b}.bn2", conv(s, f"{b}.conv2", y, stride=stride, rate=rate)))
                y = norm(s, f"{b}.bn3", conv(s, f"{b}.conv3", y))
            else:
                y = F.relu(norm(s, f"{b}.bn1", conv(s, f"{b}.conv1", x, stride=stride, rate=rate)))
                y = norm(s, f"{b}.bn2", conv(s, f"{b}.conv2", y, rate=rates[stage][1]))
            if f"{b}.downsample.0.weight" in s:
                x = norm(s, f"{b}.downsample.1", conv(s, f"{b}.downsample.0", x, stride=stride))
            x = F.relu(x + y)
        maps.append(x)
    return maps


def mobile_stages(s: State, x: Tensor) -> list[Tensor]:
    """What CSAIL reads of MobileNetV2: the blocks that once had a stride, and the last."""
    x = F.relu6(norm(s, "bn1", conv(s, "conv_stem", x, stride=2)))
    maps = []
    for stage, (count, first, *rates) in enumerate(MOBILE):
        for i in range(count):
            b = f"blocks.{stage}.{i}"
            y, stride, rate = x, first if i == 0 else 1, rates[min(i, 1)]
            if stage == 0:
                y = F.relu6(norm(s, f"{b}.bn1", conv(s, f"{b}.conv_dw", y, groups=y.shape[1])))
                y = norm(s, f"{b}.bn2", conv(s, f"{b}.conv_pw", y))
            else:
                y = F.relu6(norm(s, f"{b}.bn1", conv(s, f"{b}.conv_pw", y)))
                y = conv(s, f"{b}.conv_dw", y, stride=stride, rate=rate, groups=y.shape[1])
                y = norm(s, f"{b}.bn3", conv(s, f"{b}.conv_pwl", F.relu6(norm(s, f"{b}.bn2", y))))
            x = x + y if i else y
            if i == 0 and stage in (1, 2, 3, 5):
                maps.append(x)
    return [*maps, x]


def pyramid(s: State, name: str, x: Tensor, *, align_corners: bool) -> Tensor:
    out = [x]
    for i, bins in enumerate((1, 2, 3, 6)):
        y = cbr(s, f"{name}.{i}", F.adaptive_avg_pool2d(x, bins), at=1)
        out.append(F.interpolate(y, x.shape[2:], mode="bilinear", align_corners=align_corners))
    return torch.cat(out, 1)


def part(state: State, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def decoder_on_paper(kind: str, s: State, conv5: Tensor) -> Tensor:
    if kind == "c1":
        return conv(s, "conv_last", cbr(s, "cbr", conv5))
    last = "cls" if kind == "pspnet" else "conv_last"
    y = pyramid(s, "ppm", conv5, align_corners=kind == "pspnet")
    return conv(s, f"{last}.4", cbr(s, last, y))


# network, its options, its backbone on paper, the layer of the auxiliary head, that head, its last convolution
CASES: dict[str, tuple[str, dict[str, Any], str, str, str, int]] = {
    "PSPNet": ("pspnet", SHORT50, "resnet50, short", "backbone.layer3", "fcn(width=256)", 4),
    "C1DeepSup, R18": ("c1", DEEP18, "resnet18", "backbone.layer3", "c1", 3),
    "C1DeepSup, MobileNetV2": ("c1", {"backbone": MOBILENET}, "mobilenet", "backbone.blocks.5.0", "c1", 3),
    "PPMDeepsup, R18": ("ppm", DEEP18, "resnet18", "backbone.layer3", "c1(dropout=0.1)", 4),
}


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_is_the_published_network(case: str) -> None:
    """Main and auxiliary scores, same weights on both sides, on a picture whose sides are no multiples of 8."""
    kind, options, trunk, layer, head, last = CASES[case]
    x = torch.randn(2, 3, 57, 50)
    model = built(kind, **options)
    assert model.stages[-2] == layer
    plan = ds.plan(model, x, at={"aux": layer}, head=head)
    net = unsettled(ds.attach(model, plan))
    rates = SEMSEG if kind == "pspnet" else CSAIL
    s = part(model.state_dict(), "backbone.")
    conv4, conv5 = (mobile_stages(s, x) if trunk == "mobilenet" else residual_stages(s, x, BLOCKS[trunk], rates))[-2:]
    main = decoder_on_paper(kind, part(model.state_dict(), "decoder."), conv5)
    branch = part(net.state_dict(), "heads.aux.")
    aux = conv(branch, str(last), F.relu(norm(branch, "1", conv(branch, "0", conv4))))
    with ds.supervising(net):
        found = net(x)
    assert found.main.shape == (2, 5, 8, 7)
    for ours, theirs in ((found.main, main), (found.aux["aux"], aux)):
        assert theirs.std((0, 2, 3)).min() > 1e-4  # every class has a map of its own
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def c(channels: int, width: int, kernel: int, *, groups: int = 1, bias: bool = False) -> int:
    return channels // groups * width * kernel * kernel + width * bias


def bn(width: int) -> int:
    return 2 * width


def cb(channels: int, width: int, kernel: int, *, groups: int = 1) -> int:
    return c(channels, width, kernel, groups=groups) + bn(width)


def resnet_count(name: str) -> int:
    """Deep stem of 64, 64 and 128 channels, four stages; no classifier."""
    total = cb(3, 64, 3) + cb(64, 64, 3) + cb(64, 128, 3)
    channels = 128
    for width, count in zip((64, 128, 256, 512), BLOCKS[name], strict=True):
        out = width if name == "resnet18" else 4 * width
        for i in range(count):
            if name == "resnet18":
                total += cb(channels, width, 3) + cb(width, width, 3)
            else:
                total += cb(channels, width, 1) + cb(width, width, 3) + cb(width, out, 1)
            if i == 0 and (channels != out or width > 64):
                total += cb(channels, out, 1)
            channels = out
    return total


def mobilenet_count() -> int:
    """Sandler et al. 2018, table 2, up to the last bottleneck."""
    total = cb(3, 32, 3) + cb(32, 32, 3, groups=32) + cb(32, 16, 1)
    channels = 16
    for width, count in ((24, 2), (32, 3), (64, 4), (96, 3), (160, 3), (320, 1)):
        for _ in range(count):
            hidden = 6 * channels
            total += cb(channels, hidden, 1) + cb(hidden, hidden, 3, groups=hidden) + cb(hidden, width, 1)
            channels = width
    return total


def pyramid_count(channels: int, share: int) -> int:
    """Four 1x1 convolutions, then 3x3 to 512, 1x1 to the classes."""
    return 4 * cb(channels, share, 1) + cb(channels + 4 * share, 512, 3) + c(512, ADE20K, 1, bias=True)


def head_count(channels: int, width: int) -> int:
    return cb(channels, width, 3) + c(width, ADE20K, 1, bias=True)


C1_COUNT = {channels: head_count(channels, channels // 4) for channels in (2048, 512, 320)}
# network, options, layer and head of the branch: parameters without the branch, and of the branch
COUNTS: dict[str, tuple[str, dict[str, Any], str, str, int, int]] = {
    "PSPNet50": (
        "pspnet", {}, "backbone.layer3", "fcn(width=256)",
        resnet_count("resnet50") + pyramid_count(2048, 512), head_count(1024, 256),
    ),
    "PSPNet101": (
        "pspnet", {"backbone": "timm:resnet101s"}, "backbone.layer3", "fcn(width=256)",
        resnet_count("resnet101") + pyramid_count(2048, 512), head_count(1024, 256),
    ),
    "C1DeepSup, R18": ("c1", DEEP18, "backbone.layer3", "c1", resnet_count("resnet18") + C1_COUNT[512], head_count(256, 128)),
    "C1DeepSup, R50": ("c1", {}, "backbone.layer3", "c1", resnet_count("resnet50") + C1_COUNT[2048], head_count(1024, 512)),
    "C1DeepSup, MobileNetV2": (
        "c1", {"backbone": MOBILENET}, "backbone.blocks.5.0", "c1", mobilenet_count() + C1_COUNT[320], head_count(160, 80)
    ),
    "PPMDeepsup, R18": (
        "ppm", DEEP18, "backbone.layer3", "c1(dropout=0.1)",
        resnet_count("resnet18") + pyramid_count(512, 512), head_count(256, 128),
    ),
    "PPMDeepsup, R50": (
        "ppm", {}, "backbone.layer3", "c1(dropout=0.1)",
        resnet_count("resnet50") + pyramid_count(2048, 512), head_count(1024, 512),
    ),
}  # fmt: skip
# in words: what the arithmetic above comes to
WRITTEN_OUT = {
    "PSPNet50": (46_782_550, 2_398_358),
    "PSPNet101": (65_774_678, 2_398_358),
}


@pytest.mark.parametrize("case", COUNTS)
def test_has_as_many_parameters(case: str) -> None:
    kind, options, layer, head, plain, branch = COUNTS[case]
    assert WRITTEN_OUT.get(case, (plain, branch)) == (plain, branch)
    model = on_meta(kind, **options)
    assert sum(p.numel() for p in model.parameters()) == plain
    found = dict(model.named_modules())
    channels = {"backbone.layer3": 256 if options is DEEP18 else 1024, "backbone.blocks.5.0": 160}[layer]
    with torch.device("meta"):
        made = ds.heads.build(head, ds.Feature((channels, 8, 8), "NCHW"), ADE20K)
    assert sum(p.numel() for p in made.parameters()) == branch
    assert layer in found


def test_pspnet50_layer_by_layer() -> None:
    expected: dict[str, tuple[int, ...]] = {  # channels, width, kernel, stride, dilation
        "backbone.conv1.0": (3, 64, 3, 2, 1),
        "backbone.conv1.3": (64, 64, 3, 1, 1),
        "backbone.conv1.6": (64, 128, 3, 1, 1),
    }
    channels = 128
    for stage, (width, count) in enumerate(zip((64, 128, 256, 512), BLOCKS["resnet50"], strict=True), 1):
        for i in range(count):
            b, stride, rate = f"backbone.layer{stage}.{i}", 2 if (stage, i) == (2, 0) else 1, SEMSEG[stage][1]
            expected[f"{b}.conv1"] = (channels, width, 1, 1, 1)
            expected[f"{b}.conv2"] = (width, width, 3, stride, rate)
            expected[f"{b}.conv3"] = (width, 4 * width, 1, 1, 1)
            if i == 0:
                expected[f"{b}.downsample.0"] = (channels, 4 * width, 1, stride, 1)
            channels = 4 * width
    expected |= {f"decoder.ppm.{i}.1": (2048, 512, 1, 1, 1) for i in range(4)}
    expected |= {"decoder.cls.0": (4096, 512, 3, 1, 1), "decoder.cls.4": (512, ADE20K, 1, 1, 1)}
    model = on_meta("pspnet")
    convs = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d)}
    found = {n: (v.in_channels, v.out_channels, v.kernel_size[0], v.stride[0], v.dilation[0]) for n, v in convs.items()}
    assert found == expected
    assert all(v.padding[0] == v.dilation[0] * (v.kernel_size[0] // 2) for v in convs.values())
    assert [name for name, v in convs.items() if v.bias is not None] == ["decoder.cls.4"]
    pools = [layer.output_size for layer in model.modules() if isinstance(layer, nn.AdaptiveAvgPool2d)]
    assert pools == [1, 2, 3, 6]
    assert {n: v.p for n, v in model.named_modules() if isinstance(v, nn.Dropout2d)} == {"decoder.cls.3": 0.1}


def test_evaluation_runs_no_head_and_gives_the_plain_networks_bits() -> None:
    model = unsettled(built("pspnet", **TINY))
    x = torch.randn(2, 3, 65, 65)
    with torch.no_grad():
        expected = model(x)
    net = ds.attach(model, ds.plan(model, x, at=["backbone.layer3"], head="fcn(width=256)", weight=0.4))
    runs: list[str] = []
    for name, layer in net.heads.named_modules():
        layer.register_forward_hook(lambda *_, n=name: runs.append(n))
    with torch.no_grad():
        found = net.eval()(x)
        assert torch.equal(found, expected)
    assert runs == []
    net.train()(x)
    assert runs != []


@pytest.mark.parametrize(("kind", "method"), [("pspnet", "pspnet"), ("c1", "c1-deepsup"), ("ppm", "ppm-deepsup")])
def test_trains_with_its_branch_and_strips_to_itself(kind: str, method: str) -> None:
    model = built(kind, **TINY)
    names = list(model.state_dict())
    x, y = torch.randn(2, 3, 40, 40), torch.randint(0, 5, (2, 40, 40))
    y[:, :3] = ds.losses.IGNORE
    plan = ds.plan(model, x, method=method)
    assert [branch.layer for branch in plan.branches] == ["backbone.layer3"]
    net = ds.attach(copy.deepcopy(model), plan).train()
    terms = ds.Objective(plan)(net(x), y, progress=0.0)
    torch.testing.assert_close(terms.total, terms.parts["main"] + 0.4 * terms.parts["backbone.layer3"])
    terms.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert all(p.grad.abs().max() > 0 for p in net.parameters() if p.grad is not None and p.ndim > 1)
    assert list(ds.strip(net).state_dict()) == names


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("pspnet", {"bins": ()}, r"bins=\(\) must name the sides"),
        ("pspnet", {"bins": 6}, "bins=6 must name the sides"),
        ("ppm", {"bins": [1, 0]}, "bin 2=0 must be a whole number"),
        ("pspnet", {"width": 0}, "width=0"),
        ("ppm", {"dropout": 1}, "dropout=1 must be"),
        ("c1", {"width": 2.5}, "width=2.5"),
        ("c1", {"bins": (1,)}, "'deepsup:c1' has no option bins. It takes: width, backbone"),
        ("pspnet", {"backbone": "resnet50"}, "backbone 'resnet50' does not say where it comes from"),
        ("pspnet", {"backbone": "torchvision:densenet121"}, "'torchvision:densenet121' cannot give maps at stride 8"),
        ("c1", {"output_stride": 7}, "output_stride=7"),
        ("ppm", {"dilation": "none"}, "no dilation 'none'. There are: csail, semseg"),
    ],
)
def test_says_why_not(kind: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(kind, **(options if "backbone" in options else TINY | options))
