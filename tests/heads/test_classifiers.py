"""Heads that classify: the published ones to the parameter."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torchvision.models.googlenet import InceptionAux

from deepsup import heads
from deepsup.errors import HeadError
from deepsup.features import Feature
from tests.support.activations import FEATURES, activation, parameters
from tests.support.small_nets import CLASSES


@pytest.mark.parametrize(
    ("feature", "count"),
    [((192, 32, 32), 1_966_090), ((192, 16, 16), 491_530), ((192, 8, 8), 122_890)],
)
def test_linear_has_the_parameters_of_the_released_dsn(feature: tuple[int, ...], count: int) -> None:
    with torch.device("meta"):
        assert parameters(heads.build("linear", Feature(feature, "NCHW"), 10)) == count


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_linear_reads_normalised_maps_where_it_is_asked_to(layout: str) -> None:
    x = 3 + 5 * torch.randn(6, 4, 3, 2, generator=torch.Generator().manual_seed(0))
    given = x if layout == "NCHW" else x.permute(0, 2, 3, 1)
    head = heads.build("linear(normalised=True)", Feature(tuple(given.shape[1:]), layout), 7).train()
    over = (0, 2, 3)  # of each channel, over images and places
    plain = (x - x.mean(over, keepdim=True)) / (x.var(over, keepdim=True, correction=0) + 1e-5).sqrt()
    linear = next(m for m in head if isinstance(m, nn.Linear))
    assert torch.allclose(head(given), linear(plain.flatten(1)), atol=1e-5)
    assert parameters(head) == 24 * 7 + 7


def test_linear_begins_as_released() -> None:
    torch.manual_seed(0)
    linear = heads.build("linear(start='released')", Feature((12, 8, 8), "NCHW"), 10)[1]
    bound = (3 / (12 * 8 * 8)) ** 0.5  # Caffe's xavier: evenly, by the inputs alone
    assert 0.99 * bound < linear.weight.abs().max() <= bound
    assert abs(linear.weight.std().item() / (bound / 3**0.5) - 1) < 0.05
    assert not linear.bias.any()


def test_cnds_is_the_branch_of_the_released_network() -> None:
    # conv3_2 of the released 8-layer network: 256 channels, 28x28 for a 227 crop, 205 places.
    with torch.device("meta"):
        head = heads.build("cnds", Feature((256, 28, 28), "NCHW"), 205)
    kinds = ["AvgPool2d", "Conv2d", "Flatten", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert [type(m).__name__ for m in head.children()] == kinds
    pool, conv, _, fc1, _, drop1, fc2, _, drop2, fc3 = head.children()
    assert (pool.kernel_size, pool.stride) == ((5, 5), 2)
    assert (conv.in_channels, conv.out_channels, conv.kernel_size) == (256, 64, (1, 1))
    assert [(m.in_features, m.out_features) for m in (fc1, fc2, fc3)] == [
        (64 * 13 * 13, 1024),
        (1024, 1024),
        (1024, 205),
    ]
    assert drop1.p == drop2.p == 0.5
    assert parameters(head) == 12_352_781
    assert head(torch.zeros(2, 256, 28, 28, device="meta")).shape == (2, 205)


def caffe_average(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """Caffe's average pooling without padding: rounded up, a window that hangs over averages what it holds."""
    rows, columns = (-(-(n - kernel) // stride) + 1 for n in x.shape[2:])
    windows = [
        [
            x[:, :, r * stride : r * stride + kernel, c * stride : c * stride + kernel].mean((2, 3))
            for c in range(columns)
        ]
        for r in range(rows)
    ]
    return torch.stack([torch.stack(row, -1) for row in windows], -2)


@pytest.mark.parametrize("size", [(28, 28), (27, 27), (8, 11), (6, 5)], ids=str)
def test_cnds_pools_as_caffe_does(size: tuple[int, int]) -> None:
    feature = Feature((6, *size), "NCHW")
    head = heads.build("cnds(width=4, hidden=8)", feature, CLASSES).double().eval()
    x = activation(feature).double()
    conv, fc1, fc2, fc3 = (m for m in head if isinstance(m, (nn.Conv2d, nn.Linear)))
    pooled = caffe_average(x, 5, 2)
    narrow = torch.einsum("nchw,dc->ndhw", pooled, conv.weight[:, :, 0, 0]) + conv.bias[:, None, None]
    hidden = torch.relu(narrow.flatten(1) @ fc1.weight.T + fc1.bias)
    hidden = torch.relu(hidden @ fc2.weight.T + fc2.bias)
    assert torch.allclose(head(x), hidden @ fc3.weight.T + fc3.bias, rtol=1e-10, atol=1e-12)
    older = heads.build("cnds(width=4, hidden=8, ceil=False)", feature, CLASSES)
    rows, columns = ((n - 5) // 2 + 1 for n in size)
    assert older[3].in_features == 4 * rows * columns


def test_cnds_begins_as_released() -> None:
    torch.manual_seed(0)
    head = heads.build("cnds(start='released')", Feature((16, 8, 8), "NCHW"), 50)
    layers = [m for m in head if isinstance(m, (nn.Conv2d, nn.Linear))]
    for layer, bias in zip(layers, (0.1, 1.0, 1.0, 0.0), strict=True):
        assert abs(layer.weight.std().item() / 0.01 - 1) < 4 / (2 * layer.weight.numel()) ** 0.5
        assert abs(layer.weight.mean().item()) < 4 * 0.01 / layer.weight.numel() ** 0.5
        assert layer.bias.tolist() == pytest.approx([bias] * len(layer.bias))
    with pytest.raises(HeadError):
        heads.build("cnds(start='caffe')", Feature((16, 8, 8), "NCHW"), 50)


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (4, 4), (5, 5), (6, 9)])
def test_cnds_reads_maps_of_any_size(size: tuple[int, int]) -> None:
    feature = Feature((6, *size), "NCHW")
    assert heads.build("cnds(hidden=8)", feature, CLASSES)(activation(feature)).shape == (3, CLASSES)


def test_cnds_options_do_what_they_say() -> None:
    head = heads.build("cnds(hidden=16, width=8, dropout=0.1)", FEATURES["NCHW"], CLASSES)
    conv, linears = head[1], [m for m in head if isinstance(m, nn.Linear)]
    assert conv.out_channels == 8
    assert [m.out_features for m in linears] == [16, 16, CLASSES]
    assert {m.p for m in head if isinstance(m, nn.Dropout)} == {0.1}


@pytest.mark.parametrize("layout", [k for k in FEATURES if k != "NC"])
def test_pool_is_the_mean_over_all_places_then_one_linear_layer(layout: str) -> None:
    x, head = activation(FEATURES[layout]), heads.build("pool", FEATURES[layout], CLASSES)
    channels = x.movedim(layout.index("C"), 1).flatten(2).mean(2)
    assert torch.allclose(head(x), channels @ head[-1].weight.T + head[-1].bias, atol=1e-6)
    assert parameters(head) == 6 * CLASSES + CLASSES


def test_token_normalises_each_token_then_takes_the_mean_or_the_first() -> None:
    x = activation(FEATURES["NLC"])
    normal = (x - x.mean(2, keepdim=True)) / (x.var(2, keepdim=True, unbiased=False) + 1e-5).sqrt()
    for text, gathered in (("token", normal.mean(1)), ("token(take='first')", normal[:, 0])):
        head = heads.build(text, FEATURES["NLC"], CLASSES)
        assert torch.allclose(head(x), gathered @ head[-1].weight.T + head[-1].bias, atol=1e-5)


def test_heads_of_any_input_size_read_any_size() -> None:
    head = heads.build("pool", FEATURES["NCHW"], CLASSES)
    assert head(torch.randn(2, 6, 31, 3)).shape == (2, CLASSES)


@pytest.mark.parametrize(
    ("text", "layout", "message"),
    [
        (
            "token",
            "NCHW",
            "head 'token' reads tokens (N, L, C) or (N, H, W, C), but this activation is 6x7x9 in layout NCHW. Use 'pool' or "
            "'linear', or pass layout= to plan if the layout was guessed wrong.",
        ),
        ("token(take='last')", "NLC", "head 'token' takes 'mean', or 'first' where there is a token axis; asked for 'last'."),
        ("token(take='first')", "NHWC", "head 'token' takes 'mean', or 'first' where there is a token axis; asked for 'first'."),
        (
            "cnds",
            "NLC",
            "head 'cnds' reads maps (N, C, H, W) or (N, H, W, C), but this activation is 10x6 in layout NLC. "
            "Use 'token' or 'pool' here.",
        ),
    ],
)  # fmt: skip
def test_a_head_that_cannot_read_the_activation_says_what_fits(text: str, layout: str, message: str) -> None:
    with pytest.raises(HeadError) as caught:
        heads.build(text, FEATURES[layout], CLASSES)
    assert str(caught.value) == message


def like(ours: nn.Module, theirs: nn.Module) -> None:
    """Give `theirs` the state of `ours`, in order."""
    state = dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True))
    theirs.load_state_dict(state)


@pytest.mark.parametrize("size", [(14, 14), (9, 13), (4, 4)], ids=str)
def test_googlenet_with_bn_is_torchvisions(size: tuple[int, int]) -> None:
    ours, theirs = heads.build("googlenet(bn=True)", Feature((16, *size), "NCHW"), CLASSES), InceptionAux(16, CLASSES)
    like(ours, theirs)
    x = torch.randn(3, 16, *size)
    assert torch.allclose(ours.eval()(x), theirs.eval()(x), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (3, 3), (5, 2)], ids=str)
def test_googlenet_pools_smaller_maps_no_further(size: tuple[int, int]) -> None:
    feature = Feature((6, *size), "NCHW")
    head = heads.build("googlenet(hidden=8, width=4)", feature, CLASSES)
    assert [m.in_features for m in head if isinstance(m, nn.Linear)] == [4 * min(4, size[0]) * min(4, size[1]), 8]
    assert head(activation(feature)).shape == (3, CLASSES)


def test_googlenet_with_the_papers_pooling_makes_4x4_of_14x14() -> None:
    head = heads.build("googlenet(pooling='5/3')", Feature((512, 14, 14), "NCHW"), 1000)
    kinds = ["AvgPool2d", "Conv2d", "ReLU", "Flatten", "Linear", "ReLU", "Dropout", "Linear"]
    assert [type(m).__name__ for m in head.children()] == kinds
    assert (head[0].kernel_size, head[0].stride) == (5, 3)
    assert head[0](torch.zeros(1, 512, 14, 14)).shape == (1, 512, 4, 4)
    assert (head[1].out_channels, head[1].kernel_size, head[4].in_features) == (128, (1, 1), 2048)
    assert (head[4].out_features, head[6].p, head[7].out_features) == (1024, 0.7, 1000)


@pytest.mark.parametrize(
    ("text", "size", "message"),
    [
        ("googlenet(pooling='5/3')", (4, 9), "head 'googlenet' with pooling='5/3' needs maps of at least 5x5; this one is 4x9"),
        ("googlenet(pooling=4)", (9, 9), "head 'googlenet' needs pooling to be a text; found 4."),
        ("bottleneck(steps=3)", (7, 9), "head 'bottleneck' halves a map of 7x9 at least 0 and at most 2 times"),
        ("sepconv(steps=-1)", (8, 8), "head 'sepconv' needs steps to be a whole number of at least 0, or None; found -1."),
        ("embed(steps=1.0)", (8, 8), "head 'embed' needs steps to be a whole number of at least 0, or None"),
        ("embed(steps=True)", (8, 8), "head 'embed' needs steps to be a whole number of at least 0, or None"),
        ("bottleneck(channels=0)", (8, 8), "'bottleneck' needs channels to be a whole number of at least 1 or None; found 0."),
        ("sepconv(channels='many')", (8, 8), "head 'sepconv' needs channels to be a whole number of at least 1 or None"),
        ("embed(dim='wide')", (8, 8), "head 'embed' needs dim to be a whole number of at least 1 or None; found 'wide'."),
        ("gate(outputs=-1)", (8, 8), "head 'gate' needs outputs to be a whole number of at least 1; found -1."),
        ("network(name='plain-12')", (8, 8), "model 'plain-12' does not say where it comes from"),
        ("network(name='deepsup:plain-3', options={'width': 3})", (8, 8), "'deepsup:plain-3' has no option width"),
    ],
)  # fmt: skip
def test_what_a_published_head_cannot_be_is_a_head_error(text: str, size: tuple[int, int], message: str) -> None:
    with pytest.raises(HeadError) as caught:
        heads.build(text, Feature((6, *size), "NCHW"), CLASSES)
    assert message in str(caught.value)


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (4, 7), (2, 9)], ids=str)
def test_mixed_pools_windows_of_a_quarter_by_a_learned_share(size: tuple[int, int]) -> None:
    x, head = torch.randn(2, 3, *size), heads.build("mixed", Feature((3, *size), "NCHW"), CLASSES)
    share = float(head[0].alpha.detach())
    assert 0 <= share < 1
    assert head[0].alpha.requires_grad
    kernel = [max(1, n // 4) for n in size]
    rows, columns = (n // k for n, k in zip(size, kernel, strict=True))
    flat = []
    for c in range(3):
        for i in range(rows):
            for j in range(columns):
                at = slice(i * kernel[0], (i + 1) * kernel[0]), slice(j * kernel[1], (j + 1) * kernel[1])
                window = x[:, c, at[0], at[1]].flatten(1)
                flat.append(share * window.amax(1) + (1 - share) * window.mean(1))
    expected = torch.stack(flat, 1) @ head[-1].weight.T + head[-1].bias
    assert torch.allclose(head(x), expected, atol=1e-5)


def test_mixed_does_not_pool_maps_below_four() -> None:
    head = heads.build("mixed", Feature((3, 3, 2), "NCHW"), CLASSES)
    assert [type(m).__name__ for m in head] == ["Flatten", "Linear"]


# ResNet-18 and -50 on CIFAR, ResNet-18 on ImageNet: after each stage, the branch that leads to the deepest feature.
STAGES = [
    ((64, 32, 32), 512, 8),
    ((128, 16, 16), 512, 4),
    ((256, 8, 8), 512, 2),
    ((512, 4, 4), 512, 1),
    ((256, 32, 32), 2048, 8),
    ((1024, 8, 8), 2048, 2),
    ((64, 56, 56), 512, 8),
    ((256, 14, 14), 512, 2),
    ((512, 7, 7), 512, 1),
]


@pytest.mark.parametrize(("shape", "channels", "kernel"), STAGES, ids=str)
def test_bottleneck_is_the_branch_of_byot(shape: tuple[int, ...], channels: int, kernel: int) -> None:
    with torch.device("meta"):
        head = heads.build("bottleneck", Feature(shape, "NCHW"), 100)
        out = head(torch.zeros(2, *shape))
    assert {k: tuple(v.shape) for k, v in out.items()} == {"scores": (2, 100), "feature": (2, channels)}
    middle, width = channels // 4, shape[0]
    assert [(m.kernel_size, m.stride, m.out_channels) for m in head.modules() if isinstance(m, nn.Conv2d)] == [
        ((1, 1), (1, 1), middle),
        ((kernel, kernel), (kernel, kernel), middle),
        ((1, 1), (1, 1), channels),
    ]
    convolutions = (width * middle + middle) + (middle**2 * kernel**2 + middle) + (middle * channels + channels)
    assert parameters(head) == convolutions + 2 * (2 * middle + channels) + channels * 100 + 100


@pytest.mark.parametrize(("shape", "channels", "kernel"), STAGES, ids=str)
def test_sepconv_is_the_released_chain(shape: tuple[int, ...], channels: int, kernel: int) -> None:
    with torch.device("meta"):
        head = heads.build("sepconv", Feature(shape, "NCHW"), 100)
        out = head(torch.zeros(2, *shape))
    assert {k: tuple(v.shape) for k, v in out.items()} == {"scores": (2, 100), "feature": (2, channels)}
    count, width = 0, shape[0]
    while width < channels:  # depthwise 3x3 and 1x1, normalised, twice: first w -> w with stride 2, then w -> 2 w
        count += (9 * width + width**2 + 2 * width) + (9 * width + 2 * width**2 + 4 * width)
        width *= 2
    assert parameters(head) == count + channels * 100 + 100
    maps = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert math.prod(m.stride[0] for m in maps) == kernel
    assert all(m.groups == m.in_channels and m.kernel_size == (3, 3) for m in maps[::2])
    assert all(m.groups == 1 and m.kernel_size == (1, 1) for m in maps[1::2])


@pytest.mark.parametrize("text", ["bottleneck(channels=20, steps=2)", "sepconv(channels=20, steps=2)"])
def test_scores_are_made_of_the_feature_that_is_given_out(text: str) -> None:
    feature = Feature((6, 9, 10), "NCHW")
    head = heads.build(text, feature, CLASSES)
    out = head(activation(feature))
    assert out["feature"].shape == (3, 20)
    assert torch.allclose(out["scores"], out["feature"] @ head.fc.weight.T + head.fc.bias, atol=1e-6)
    assert (out["feature"] >= 0).all()  # the mean of what comes out of a ReLU


@pytest.mark.parametrize("size", [(8, 6), (9, 7)], ids=str)
def test_sepconvs_attention_multiplies_the_map_before_the_chain(size: tuple[int, int]) -> None:
    feature = Feature((6, *size), "NCHW")
    torch.manual_seed(0)
    head = heads.build("sepconv(channels=12, steps=1, attention=True)", feature, CLASSES)
    gate, chain = head.body[0], head.body[1:]
    x = activation(feature)
    wide = nn.functional.interpolate(gate.pair(x), size, mode="bilinear")
    if size == (8, 6):
        assert torch.allclose(wide, nn.Upsample(scale_factor=2, mode="bilinear")(gate.pair(x)), atol=1e-6)
    assert gate.pair(x).shape[2:] == tuple((n + 1) // 2 for n in size)
    assert torch.allclose(head(x)["feature"], chain(wide.sigmoid() * x), atol=1e-5)
    plain = heads.build("sepconv(channels=12, steps=1)", feature, CLASSES)
    assert parameters(head) - parameters(plain) == 2 * (9 * 6 + 36 + 2 * 6)


def test_an_adapted_feature_is_not_what_the_scores_read() -> None:
    feature = Feature((6, 8, 8), "NCHW")
    head = heads.build("sepconv(channels=12, steps=1, adapted=True)", feature, CLASSES)
    x = activation(feature)
    pooled = head.body(x)
    assert torch.allclose(head(x)["scores"], head.fc(pooled), atol=1e-6)
    assert torch.allclose(head(x)["feature"], head.adaptation(pooled), atol=1e-6)
    assert head.adaptation.weight.shape == (12, 12)
    zero = heads.head_weights.zero(head, feature)
    with torch.no_grad():
        assert float(zero(x)["scores"].abs().max()) == 0 < float(zero(x)["feature"].abs().max())


def test_network_is_built_for_the_classes_channels_and_options() -> None:
    head = heads.build("network(name='deepsup:plain-3', options={'widths': [4, 4, 4]})", Feature((2, 8, 8), "NCHW"), 7)
    convolutions = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert (convolutions[0].in_channels, [m.out_channels for m in convolutions]) == (2, [4, 4, 4])
    assert head(torch.randn(2, 2, 8, 8)).shape == (2, 7)
