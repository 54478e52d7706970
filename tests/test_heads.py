"""Heads: one set of scores for every layout, the published ones to the parameter, the user's own as they are."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepsup import heads
from deepsup.errors import HeadError
from deepsup.features import Feature

from .small_nets import CLASSES

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
        assert heads.build(text, feature, CLASSES)(activation(feature)).shape == (3, CLASSES)
    else:
        with pytest.raises(HeadError, match=r"head '(token|cnds)' "):
            heads.build(text, feature, CLASSES)


def test_every_named_head_is_tested() -> None:
    assert {heads.read(text)[0] for text in READS} == set(heads.HEADS)


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


def test_channels_last_gives_what_channels_first_gives() -> None:
    first, last = FEATURES["NCHW"], FEATURES["NHWC"]
    x = activation(first)
    for text in ("pool", "cnds(hidden=8, dropout=0)"):
        one, other = heads.build(text, first, CLASSES), heads.build(text, last, CLASSES)
        other.load_state_dict(dict(zip(other.state_dict(), one.state_dict().values(), strict=True)))
        assert torch.allclose(other(x.permute(0, 2, 3, 1)), one(x), atol=1e-6)


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
            "no head is called 'pol'. Closest: pool. Heads: auto, linear, pool, token, cnds; or pass your own module.",
        ),
        ("", "no head is called ''. Heads: auto,"),
        ("xyz(", "no head is called 'xyz('."),
        ("cnds(256)", "no head is called 'cnds(256)'. Closest: cnds."),
        ("heads.pool", "no head is called 'heads.pool'."),
        ("pool(hidden=3)", "head 'pool' has no option 'hidden'. Options: none."),
        ("cnds(hiden=3)", "head 'cnds' has no option 'hiden'. Options: width, hidden, dropout."),
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
