"""Heads: one set of scores for every layout, the published ones to the parameter, the user's own as they are."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.googlenet import InceptionAux

from deepsup import heads
from deepsup.errors import HeadError
from deepsup.features import Feature
from tests.support.small_nets import CLASSES

FEATURES = {
    "NC": Feature((6,), "NC"),
    "NCL": Feature((6, 10), "NCL"),
    "NLC": Feature((10, 6), "NLC"),
    "NCHW": Feature((6, 7, 9), "NCHW"),
    "NHWC": Feature((7, 9, 6), "NHWC"),
    "NCDHW": Feature((6, 2, 3, 4), "NCDHW"),
}
READS = {
    "linear": set(FEATURES),
    "pool": set(FEATURES),
    "token": {"NLC", "NHWC"},
    "token(take='first')": {"NLC"},
    "cnds": {"NCHW", "NHWC"},
    "cnds(hidden=16, width=8, dropout=0.1)": {"NCHW", "NHWC"},
    "googlenet": {"NCHW", "NHWC"},
    "googlenet(bn=True, pooling='5/3', width=8, hidden=16)": {"NCHW", "NHWC"},
    "mixed": {"NCHW", "NHWC"},
    "bottleneck": {"NCHW", "NHWC"},
    "sepconv(channels=20, steps=2)": {"NCHW", "NHWC"},
    "network(name='deepsup:plain-3')": {"NCHW", "NHWC"},
}
# What gives no class scores, and how wide its output is.
EMBEDS = {
    "embed": ({"NCHW", "NHWC"}, 128),
    "embed(dim=None)": ({"NCHW", "NHWC"}, 6),
    "embed(channels=24, steps=1, dim=None)": ({"NCHW", "NHWC"}, 24),
    "gate": (set(FEATURES), 3),
    "gate(outputs=5)": (set(FEATURES), 5),
    "mean": (set(FEATURES), 6),
}


def activation(feature: Feature, batch: int = 3) -> Tensor:
    return torch.randn(batch, *feature.shape)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("layout", FEATURES)
@pytest.mark.parametrize("text", READS)
def test_every_head_gives_one_score_a_class_or_says_what_it_reads(text: str, layout: str) -> None:
    feature = FEATURES[layout]
    if layout in READS[text]:
        out = heads.build(text, feature, CLASSES)(activation(feature))
        assert (out["scores"] if isinstance(out, dict) else out).shape == (3, CLASSES)
    else:
        with pytest.raises(HeadError, match=rf"head '{heads.read(text)[0]}' "):
            heads.build(text, feature, CLASSES)


@pytest.mark.parametrize("layout", FEATURES)
@pytest.mark.parametrize("text", EMBEDS)
def test_every_embedding_has_its_width_or_says_what_it_reads(text: str, layout: str) -> None:
    feature, (reads, width) = FEATURES[layout], EMBEDS[text]
    if layout in reads:
        assert heads.build(text, feature, CLASSES)(activation(feature)).shape == (3, width)
    else:
        with pytest.raises(HeadError, match=r"head 'embed' reads maps"):
            heads.build(text, feature, CLASSES)


DENSE = ("fcn", "c1", "conv1x1", "identity")  # test_dense.py


def test_every_named_head_is_tested() -> None:
    assert {heads.read(text)[0] for text in READS} == set(heads.HEADS) - heads.EMBEDDINGS - {"continuation", *DENSE}
    assert {heads.read(text)[0] for text in EMBEDS} == heads.EMBEDDINGS


@pytest.mark.parametrize(
    ("feature", "count"),
    [((192, 32, 32), 1_966_090), ((192, 16, 16), 491_530), ((192, 8, 8), 122_890)],
)
def test_linear_has_the_parameters_of_the_released_dsn(feature: tuple[int, ...], count: int) -> None:
    with torch.device("meta"):
        assert parameters(heads.build("linear", Feature(feature, "NCHW"), 10)) == count


def test_cnds_is_the_branch_of_the_released_network() -> None:
    # conv3_2 of the released 8-layer network: 256 channels, 27x27 for a 227 crop, 205 places.
    with torch.device("meta"):
        head = heads.build("cnds", Feature((256, 27, 27), "NCHW"), 205)
    kinds = ["AvgPool2d", "Conv2d", "Flatten", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert [type(m).__name__ for m in head.children()] == kinds
    pool, conv, _, fc1, _, drop1, fc2, _, drop2, fc3 = head.children()
    assert (pool.kernel_size, pool.stride) == ((5, 5), 2)
    assert (conv.in_channels, conv.out_channels, conv.kernel_size) == (256, 64, (1, 1))
    assert [(m.in_features, m.out_features) for m in (fc1, fc2, fc3)] == [
        (64 * 12 * 12, 1024),
        (1024, 1024),
        (1024, 205),
    ]
    assert drop1.p == drop2.p == 0.5
    assert head(torch.zeros(2, 256, 27, 27, device="meta")).shape == (2, 205)


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


@pytest.mark.parametrize(
    "text",
    [
        "pool",
        "cnds(hidden=8, dropout=0)",
        "googlenet(dropout=0)",
        "mixed",
        "bottleneck",
        "sepconv(steps=1)",
        "embed",
        "gate",
        "mean",
    ],
)
def test_channels_last_gives_what_channels_first_gives(text: str) -> None:
    first, last = FEATURES["NCHW"], FEATURES["NHWC"]
    x = activation(first)
    one, other = heads.build(text, first, CLASSES), heads.build(text, last, CLASSES)
    other.load_state_dict(dict(zip(other.state_dict(), one.state_dict().values(), strict=True)))
    outs = one(x), other(x.permute(0, 2, 3, 1))
    for a, b in zip(*(out.values() if isinstance(out, dict) else [out] for out in outs), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


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


@pytest.mark.parametrize(("layout", "name"), [*((k, "pool") for k in FEATURES if k != "NLC"), ("NLC", "token")])
def test_auto_is_tokens_for_tokens_and_pooling_for_the_rest(layout: str, name: str) -> None:
    assert heads.resolve("auto", FEATURES[layout]) == name
    assert heads.resolve("linear", FEATURES[layout]) == "linear"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("pool", ("pool", {})),
        (" pool ", ("pool", {})),
        ("pool()", ("pool", {})),
        ("cnds(hidden=256, dropout=0.0)", ("cnds", {"hidden": 256, "dropout": 0.0})),
        ("token(take='first')", ("token", {"take": "first"})),
    ],
)
def test_a_head_is_read_from_its_text(text: str, read: tuple[str, dict[str, Any]]) -> None:
    assert heads.read(text) == read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "pol",
            "no head is called 'pol'. Closest: pool. Heads: auto, linear, pool, token, cnds, googlenet,",
        ),
        ("", "no head is called ''. Heads: auto,"),
        ("xyz(", "no head is called 'xyz('."),
        ("cnds(256)", "no head is called 'cnds(256)'. Closest: cnds."),
        ("heads.pool", "no head is called 'heads.pool'."),
        ("pool(hidden=3)", "head 'pool' has no option 'hidden'. Options: none."),
        ("cnds(hiden=3)", "head 'cnds' has no option 'hiden'. Options: width, hidden, dropout. Closest: hidden."),
        ("cnds(feature=3)", "head 'cnds' has no option 'feature'."),
        ("cnds(**{'hidden': 3})", "head 'cnds' has no option"),
    ],
)
def test_a_text_that_is_no_head_is_told_what_there_is(text: str, message: str) -> None:
    with pytest.raises(HeadError) as caught:
        heads.build(text, FEATURES["NCHW"], CLASSES)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        "cnds(hidden=x)",
        "cnds(hidden=__import__('os').getpid())",
        "cnds(hidden='many')",
        "cnds(hidden=-1)",
        "cnds(dropout=2)",
        "cnds(width=1.5)",
    ],
)
def test_an_option_that_cannot_be_is_a_head_error(text: str) -> None:
    with pytest.raises(HeadError, match="cnds"):
        heads.build(text, FEATURES["NCHW"], CLASSES)


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
        ("googlenet(pooling=4)", (9, 9), "head 'googlenet' has no pooling 4. Choose '4x4' or '5/3'."),
        ("bottleneck(steps=3)", (7, 9), "head 'bottleneck' halves a map of 7x9 at least 0 and at most 2 times"),
        ("sepconv(steps=-1)", (8, 8), "head 'sepconv' halves a map of 8x8 at least 0 and at most 3 times; asked for steps=-1"),
        ("embed(steps=1.0)", (8, 8), "head 'embed' halves a map of 8x8"),
        ("embed(steps=True)", (8, 8), "head 'embed' halves a map of 8x8"),
        ("bottleneck(channels=0)", (8, 8), "'bottleneck' needs a whole number of channels of at least 1; asked for channels=0"),
        ("sepconv(channels='many')", (8, 8), "head 'sepconv' needs a whole number of channels"),
        ("embed(dim='wide')", (8, 8), "head \"embed(dim='wide')\" cannot be built for an activation of 6x8x8 a sample"),
        ("gate(outputs=-1)", (8, 8), "head 'gate(outputs=-1)' cannot be built for an activation of 6x8x8 a sample"),
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


def test_a_chain_that_does_not_double_widens_in_equal_ratios() -> None:
    head = heads.build("sepconv(channels=100, steps=2)", Feature((25, 8, 8), "NCHW"), CLASSES)
    widths = [m.num_features for m in head.modules() if isinstance(m, nn.BatchNorm2d)]
    assert widths == [25, 50, 50, 100]


def test_a_chain_without_a_step_only_changes_the_channels() -> None:
    head = heads.build("sepconv(channels=10, steps=0)", Feature((6, 8, 8), "NCHW"), CLASSES)
    maps = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert [m.stride for m in maps] == [(1, 1)] * 4
    assert maps[-1].out_channels == 10
    same = heads.build("sepconv(steps=0)", Feature((6, 8, 8), "NCHW"), CLASSES)
    assert parameters(same) == 6 * CLASSES + CLASSES


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


def test_embed_projects_by_two_layers_or_leaves_it_out_as_released() -> None:
    feature = Feature((6, 8, 8), "NCHW")
    head = heads.build("embed(dim=5)", feature, CLASSES)
    assert [type(m).__name__ for m in list(head)[-4:]] == ["Mean", "Linear", "ReLU", "Linear"]
    assert head(activation(feature)).shape == (3, 5)
    released = heads.build("embed(dim=None)", feature, CLASSES)
    chain = heads.build("sepconv", feature, CLASSES)
    released.load_state_dict(dict(zip(released.state_dict(), chain.body.state_dict().values(), strict=True)))
    x = activation(feature)
    assert torch.equal(released.eval()(x), chain.eval()(x)["feature"])
    assert not torch.allclose(released(x).norm(dim=1), torch.ones(3))  # the losses normalise, not the head


def test_gate_is_a_softmax_over_the_outputs() -> None:
    x, head = activation(FEATURES["NCHW"]), heads.build("gate(outputs=4)", FEATURES["NCHW"], CLASSES)
    raw = x.mean((2, 3)) @ head[1].weight.T + head[1].bias
    normal = (raw - raw.mean(0)) / (raw.var(0, unbiased=False) + 1e-5).sqrt()
    expected = normal.clamp(min=0).exp()
    expected = expected / expected.sum(1, keepdim=True)
    assert torch.allclose(head(x), expected, atol=1e-5)


def test_a_gate_takes_one_sample_by_its_running_statistics() -> None:
    head = heads.build("gate(outputs=4)", FEATURES["NCHW"], CLASSES)
    head(activation(FEATURES["NCHW"], 8))
    state = copy.deepcopy(head.state_dict())
    assert list(state) == [f"1.{n}" for n in ("weight", "bias")] + [
        f"2.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ]
    x = activation(FEATURES["NCHW"], 1)
    found = head(x)
    assert all(torch.equal(state[n], v) for n, v in head.state_dict().items())
    assert torch.equal(found, copy.deepcopy(head).eval()(x))
    found[0, 0].backward()
    fast = torch.compile(head, backend="eager", fullgraph=True)
    assert torch.equal(fast(x), found)
    two = activation(FEATURES["NCHW"], 2)
    assert torch.equal(fast(two), head(two))


@pytest.mark.parametrize("layout", FEATURES)
def test_mean_is_the_mean_over_all_places(layout: str) -> None:
    x, head = activation(FEATURES[layout]), heads.build("mean", FEATURES[layout], CLASSES)
    expected = x.movedim(layout.index("C"), 1).flatten(2).mean(2) if layout != "NC" else x
    assert torch.allclose(head(x), expected, atol=1e-6)
    assert parameters(head) == 0


def test_network_is_built_for_the_classes_channels_and_options() -> None:
    head = heads.build("network(name='deepsup:plain-3', options={'widths': [4, 4, 4]})", Feature((2, 8, 8), "NCHW"), 7)
    convolutions = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert (convolutions[0].in_channels, [m.out_channels for m in convolutions]) == (2, [4, 4, 4])
    assert head(torch.randn(2, 2, 8, 8)).shape == (2, 7)


def needs_both(feature: Feature, classes: int, *, model: nn.Module, layer: str) -> nn.Module:
    head = nn.Linear(feature.channels, classes)
    head.seen = (type(model).__name__, layer)  # type: ignore[assignment]
    return head


def may_use(feature: Feature, classes: int, *, layer: str = "nowhere") -> nn.Module:
    head = nn.Linear(feature.channels, classes)
    head.seen = layer  # type: ignore[assignment]
    return head


def test_builders_that_ask_for_it_get_the_model_and_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(heads.HEADS, "made", needs_both)
    at: dict[str, Any] = {"model": nn.Sequential(), "layer": "stage.1"}
    for head in ("made", needs_both):
        assert heads.build(head, FEATURES["NC"], CLASSES, **at).seen == ("Sequential", "stage.1")
    assert heads.build(may_use, FEATURES["NC"], CLASSES, **at).seen == "stage.1"
    assert heads.build(may_use, FEATURES["NC"], CLASSES).seen == "nowhere"
    assert heads.build(own, FEATURES["NC"], CLASSES, **at).weight.shape == (CLASSES, 6)
    assert heads.build(nn.Linear, FEATURES["NC"].channels, CLASSES, **at).weight.shape == (CLASSES, 6)  # type: ignore[arg-type]


def test_builders_that_ask_for_it_are_told_where_the_prediction_is() -> None:
    def told(feature: Feature, classes: int, *, main: Any = None) -> nn.Module:
        head = nn.Linear(feature.channels, classes)
        head.seen = main  # type: ignore[assignment]
        return head

    assert heads.build(told, FEATURES["NC"], CLASSES, main=("logits", 1)).seen == ("logits", 1)
    assert heads.build(told, FEATURES["NC"], CLASSES).seen == ()
    with pytest.raises(HeadError, match=r"head 'continuation' has no option 'main'"):
        heads.read("continuation(main='logits')")


def test_a_head_made_from_the_model_says_that_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(heads.HEADS, "made", needs_both)
    with pytest.raises(HeadError) as caught:
        heads.build("made()", FEATURES["NC"], CLASSES)
    assert str(caught.value) == (
        "head 'made()' is made from the model that it supervises, and no model and no layer was given. Name it in "
        "plan(model, ...), or pass model= and layer= to heads.build."
    )
    with pytest.raises(HeadError, match=r"head 'custom:needs_both' is made from .* and no layer was given"):
        heads.build(needs_both, FEATURES["NC"], CLASSES, model=nn.Sequential())
    with pytest.raises(HeadError, match=r"head 'made' has no option 'layer'\. Options: none"):
        heads.build("made(layer='x')", FEATURES["NC"], CLASSES, model=nn.Sequential(), layer="y")


@pytest.mark.parametrize("text", ["pool", "cnds(hidden=8)", "googlenet(hidden=8)", "mixed", "bottleneck", "sepconv"])
def test_a_zero_head_scores_all_alike_and_sends_no_gradient(text: str) -> None:
    head = heads.build(text, FEATURES["NCHW"], CLASSES).eval()
    assert heads.zero(head, FEATURES["NCHW"]) is head
    x = activation(FEATURES["NCHW"]).requires_grad_()
    out = head(x)
    scores = out["scores"] if isinstance(out, dict) else out
    assert not scores.any()
    torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1, 2])).backward()
    assert not x.grad.any()
    last = [m for m in head.modules() if isinstance(m, nn.Linear)][-1]
    assert last.weight.grad.any()
    assert last.bias.grad.any()
    assert all(p.requires_grad for p in head.parameters())


def test_zero_leaves_all_other_layers_as_they_are() -> None:
    head = nn.Sequential(nn.Conv1d(6, 6, 1), nn.ReLU(), nn.Conv1d(6, CLASSES, 1, bias=False), nn.BatchNorm1d(CLASSES))
    first = head[0].weight.clone()
    heads.zero(head, FEATURES["NCL"])
    assert torch.equal(head[0].weight, first)
    assert not head[2].weight.any()
    assert head[3].weight.all()


class Backwards(nn.Module):
    """Registers the layer that scores first, has one that never runs, and normalises between the two."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.norm, self.hidden = nn.Linear(6, CLASSES), nn.BatchNorm1d(6), nn.Linear(6, 6)
        self.unused = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.norm(self.hidden(x)))


@pytest.mark.parametrize("training", [True, False])
def test_zero_finds_the_layer_that_runs_last_and_leaves_nothing_else_behind(training: bool) -> None:
    head = Backwards().double().train(training)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    state = torch.get_rng_state()
    heads.zero(head, FEATURES["NC"])
    after = head.state_dict()
    assert {n for n in before if not torch.equal(before[n], after[n])} == {"score.weight", "score.bias"}
    assert not any(after[n].any() for n in ("score.weight", "score.bias"))
    assert all(m.training == training and not m._forward_hooks for m in head.modules())
    assert torch.equal(state, torch.get_rng_state())


def test_a_head_without_a_layer_to_zero_is_a_head_error() -> None:
    with pytest.raises(HeadError, match=r"the head custom:Sequential has no linear or convolutional layer"):
        heads.zero(heads.build("mean", FEATURES["NCHW"], CLASSES), FEATURES["NCHW"])


def test_squared_norm_sums_the_squares_of_weights_but_not_of_biases() -> None:
    head = heads.build("bottleneck", FEATURES["NCHW"], CLASSES)
    weights = [m.weight for m in head.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    expected = sum(float(v) ** 2 for w in weights for v in w.detach().flatten())
    found = heads.squared_norm(head)
    assert (found.shape, float(found.detach())) == ((), pytest.approx(expected, rel=1e-5))
    found.backward()
    assert all(torch.allclose(w.grad, 2 * w) for w in weights)
    assert all(p.grad is None for p in head.parameters() if p.ndim == 1)


def test_squared_norm_in_other_precisions_and_of_nothing() -> None:
    wide, narrow = nn.Linear(50, 50).double(), nn.Linear(50, 50).half()
    narrow.weight.data.fill_(100)
    assert heads.squared_norm(wide).dtype == torch.float64
    assert float(heads.squared_norm(narrow).detach()) == 2500 * 1e4  # far above what half precision holds
    assert float(heads.squared_norm(nn.Flatten())) == 0


def own(feature: Feature, classes: int) -> nn.Module:
    return nn.Linear(feature.channels, classes)


def test_the_users_module_is_used_as_it_is_and_the_users_function_is_called() -> None:
    module = nn.Linear(6, CLASSES)
    assert heads.build(module, FEATURES["NC"], CLASSES) is module
    built = heads.build(own, FEATURES["NC"], CLASSES)
    assert isinstance(built, nn.Linear)
    assert built.weight.shape == (CLASSES, 6)


def test_a_function_that_returns_no_module_is_refused_by_name() -> None:
    def forgets_to_return(feature: Feature, classes: int) -> None:
        nn.Linear(feature.channels, classes)

    with pytest.raises(HeadError) as caught:
        heads.build(forgets_to_return, FEATURES["NC"], CLASSES)  # type: ignore[arg-type]
    message = "the head function custom:forgets_to_return returned NoneType; it must return an nn.Module."
    assert str(caught.value) == message


def test_how_heads_are_shown() -> None:
    assert heads.show("cnds(hidden=3)") == "cnds(hidden=3)"
    assert heads.show(nn.Linear(1, 1)) == "custom:Linear"
    assert heads.show(own) == "custom:own"
    assert heads.show(partial(own, classes=3)) == "custom:partial"
