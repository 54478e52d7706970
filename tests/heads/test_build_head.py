"""Heads by name: every layout and every head, texts, and the user's own as they are."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor, nn

import deepsup as ds
from deepsup import heads
from deepsup.errors import HeadError
from deepsup.features import Feature
from deepsup.specs import ABOVE_ZERO
from tests.support.activations import FEATURES, activation
from tests.support.registering import registered
from tests.support.small_nets import CLASSES, Plain, images

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
    "neck": set(FEATURES),
    "neck(pool='gem', dim=4)": set(FEATURES),
    "stripe(index=1, of=3, dim=8)": {"NCHW", "NHWC"},
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


DENSE = ("fcn", "c1", "conv1x1", "identity", "tokenwise")  # test_dense.py


def test_every_named_head_is_tested() -> None:
    embeddings = {name for name in heads.HEADS if not heads.describe(name).scores}
    assert {heads.read(text)[0] for text in READS} == set(heads.HEADS) - embeddings - {"continuation", "main", *DENSE}
    assert {heads.read(text)[0] for text in EMBEDS} == embeddings


@pytest.mark.parametrize(
    "text",
    [
        "pool",
        "cnds(hidden=8, dropout=0)",
        "googlenet(dropout=0)",
        "mixed",
        "bottleneck",
        "sepconv(steps=1)",
        "neck(pool='gem')",
        "stripe(index=0)",
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
        (
            "cnds(hiden=3)",
            "head 'cnds' has no option 'hiden'. Options: width, hidden, dropout, ceil, start. Closest: hidden.",
        ),
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


def needs_both(feature: Feature, classes: int, *, model: nn.Module, layer: str) -> nn.Module:
    head = nn.Linear(feature.channels, classes)
    head.seen = (type(model).__name__, layer)  # type: ignore[assignment]
    return head


def may_use(feature: Feature, classes: int, *, layer: str = "nowhere") -> nn.Module:
    head = nn.Linear(feature.channels, classes)
    head.seen = layer  # type: ignore[assignment]
    return head


def test_builders_that_ask_for_it_get_the_model_and_the_layer() -> None:
    at: dict[str, Any] = {"model": nn.Sequential(), "layer": "stage.1"}
    with registered(heads.HEADS, needs_both):
        for head in ("needs_both", needs_both):
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


def test_a_head_made_from_the_model_says_that_there_is_none() -> None:
    with pytest.raises(HeadError, match=r"head 'custom:needs_both' is made from .* and no layer was given"):
        heads.build(needs_both, FEATURES["NC"], CLASSES, model=nn.Sequential())
    with registered(heads.HEADS, needs_both):
        with pytest.raises(HeadError) as caught:
            heads.build("needs_both()", FEATURES["NC"], CLASSES)
        with pytest.raises(HeadError, match=r"head 'needs_both' has no option 'layer'\. Options: none"):
            heads.build("needs_both(layer='x')", FEATURES["NC"], CLASSES, model=nn.Sequential(), layer="y")
    assert str(caught.value) == (
        "head 'needs_both()' is made from the model that it supervises, and no model and no layer was given. Name it in "
        "plan(model, ...), or pass model= and layer= to heads.build."
    )


class AttentionPool(nn.Module):
    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.query, self.fc = nn.Linear(width, 1), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        return self.fc((self.query(tokens).softmax(1) * tokens).sum(1))


def attention_pool(feature: Feature, classes: int, *, heat: Annotated[float, ABOVE_ZERO] = 1.0) -> nn.Module:
    return AttentionPool(feature.channels, classes)


def test_a_new_head_is_one_function_that_plans_builds_saves_and_is_listed(tmp_path: Path) -> None:
    model, x = Plain(), images()
    with registered(heads.HEADS, attention_pool):
        plan = ds.plan(model, x, "relu1", head="attention_pool(heat=2)")
        plan.save(tmp_path / "plan.json")
        assert ds.Plan.load(tmp_path / "plan.json") == plan
        assert "attention_pool(heat=2)" in str(plan)
        assert ds.attach(model, plan)(x).aux["relu1"].shape == (2, CLASSES)
        with pytest.raises(HeadError, match="head 'attention_pool' needs heat to be a finite number above 0; found 0"):
            heads.read("attention_pool(heat=0)")
        with pytest.raises(HeadError, match=r"no head is called 'attn'\. .*Heads: auto, linear, .*, attention_pool;"):
            heads.read("attn")
    with pytest.raises(HeadError, match="no head is called 'attention_pool'"):
        heads.read("attention_pool")


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
