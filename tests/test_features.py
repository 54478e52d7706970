"""Which tensor of an output is meant, and in which layout it is."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from deepsup.errors import OutputError
from deepsup.features import (
    Feature,
    channel_axis,
    counted_from_the_start,
    default_pick,
    infer_layout,
    main_prediction,
    picked,
    read_pick,
    show_pick,
    tensors_in,
)


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


@dataclass
class Record:
    hidden: Tensor
    score: Tensor
    note: str = ""


def t(*shape: int) -> Tensor:
    return torch.randn(*(shape or (2, 3)))


SQUARE, WIDE, SEQUENCE, VOLUME = (2, 3, 32, 32), (2, 3, 32, 64), (2, 4, 100), (2, 1, 16, 16, 16)


@pytest.mark.parametrize(
    ("shape", "input_shape", "layout"),
    [
        ((2, 10), SQUARE, "NC"),
        ((2, 64, 8, 8), SQUARE, "NCHW"),
        ((2, 8, 8, 64), SQUARE, "NHWC"),
        ((2, 64, 1, 1), SQUARE, "NCHW"),
        ((2, 1, 1, 64), SQUARE, "NHWC"),
        ((2, 8, 8, 8), SQUARE, "NCHW"),  # both readings fit: channels first, as PyTorch has it
        ((2, 64, 8, 16), WIDE, "NCHW"),
        ((2, 8, 16, 64), WIDE, "NHWC"),
        ((2, 16, 8, 16), WIDE, "NCHW"),
        ((2, 8, 16, 16), WIDE, "NHWC"),  # 16x16 cannot be a map of a 1:2 image
        ((2, 64, 2, 4), (2, 3, 30, 50), "NCHW"),  # rounding: 30/16 and 50/16
        ((2, 2, 4, 64), (2, 3, 30, 50), "NHWC"),
        ((2, 64, 7, 7), (2, 3, 224, 320), "NCHW"),  # adaptive pooling loses the aspect ratio
        ((2, 17, 96), SQUARE, "NLC"),
        ((2, 17, 96), (2, 17), "NLC"),  # token ids
        ((2, 16, 50), SEQUENCE, "NCL"),
        ((2, 8, 4, 4, 4), VOLUME, "NCDHW"),
        ((2, 8, 3, 5, 7), VOLUME, "NCDHW"),
    ],
)
def test_layouts_are_inferred_from_the_shape_of_the_input(
    shape: tuple[int, ...], input_shape: tuple[int, ...], layout: str
) -> None:
    assert infer_layout(shape, input_shape) == layout


@pytest.mark.parametrize(
    ("shape", "layout", "channels", "size", "text"),
    [
        ((10,), "NC", 10, (), "10"),
        ((4, 100), "NCL", 4, (100,), "4x100"),
        ((17, 96), "NLC", 96, (17,), "17x96"),
        ((64, 8, 16), "NCHW", 64, (8, 16), "64x8x16"),
        ((8, 16, 64), "NHWC", 64, (8, 16), "8x16x64"),
        ((8, 2, 3, 4), "NCDHW", 8, (2, 3, 4), "8x2x3x4"),
    ],
)
def test_a_feature_knows_its_channels_and_size(
    shape: tuple[int, ...], layout: str, channels: int, size: tuple[int, ...], text: str
) -> None:
    feature = Feature(shape, layout)
    assert (feature.channels, feature.size, str(feature)) == (channels, size, text)
    assert tuple((1, *shape)[axis] for axis in feature.places) == size
    assert feature.channels_last is (layout in ("NLC", "NHWC", "NDHWC"))


@pytest.mark.parametrize(("shape", "layout"), [((8, 8), "NCHW"), ((8, 8, 8), "NWHC"), ((), "NC"), ((8, 8, 8), "NLC")])
def test_a_layout_that_does_not_fit_is_refused_with_the_known_ones(shape: tuple[int, ...], layout: str) -> None:
    with pytest.raises(OutputError, match=r"Layouts: NC \(one vector a sample\), NCL"):
        Feature(shape, layout)


NESTED: list[tuple[Any, list[str]]] = [
    (t(), [""]),
    ((t(), t()), ["0", "1"]),
    ([t(), None, t()], ["0", "2"]),
    (Pair(t(), t()), ["first", "second"]),
    (Record(t(), t()), ["hidden", "score"]),
    ({"a": t(), "b": {"c": [t(), t()]}}, ["a", "b.c.0", "b.c.1"]),
    ((t(), {"x": Pair(t(), t())}, Record(t(), t())), ["0", "1.x.first", "1.x.second", "2.hidden", "2.score"]),
    ({3: t(), (1, 2): t()}, ["3"]),
    ("text", []),
    (None, []),
]


@pytest.mark.parametrize(("output", "picks"), NESTED, ids=range(len(NESTED)))
def test_picks_reach_every_tensor_in_any_structure(output: Any, picks: list[str]) -> None:
    found = tensors_in(output)
    assert [show_pick(p) for p in found] == picks
    for pick, tensor in found.items():
        assert picked(output, pick) is tensor
        assert read_pick(show_pick(pick)) == pick


def test_positions_are_counted_from_the_end_as_well() -> None:
    output = {"states": [t(), t(), t()], "-1": t()}
    assert read_pick("states.-1") == ("states", -1)
    assert picked(output, read_pick("states.-1")) is output["states"][2]
    assert counted_from_the_start(output, ("states", -1)) == ("states", 2)
    assert counted_from_the_start(output, ("states", -7)) == ("states", -7)  # which reaches nothing
    assert picked(output, read_pick(show_pick(("-1",)))) is output["-1"]


def test_a_dict_with_digits_or_dots_for_keys_can_be_picked_as_its_pick_is_shown() -> None:
    # torchvision's FPN and IntermediateLayerGetter return OrderedDicts with the keys "0", "1", ...
    output = OrderedDict([("0", t()), ("1", t()), ("layer1.conv", t())])
    for pick, tensor in tensors_in(output).items():
        assert picked(output, read_pick(show_pick(pick))) is tensor


@pytest.mark.parametrize(
    ("output", "pick"),
    [
        (t(), ()),
        ((t(),), (0,)),
        ((t(), t()), (0,)),
        ([t(), t()], (0,)),
        ((t(), torch.ones(2, 3, dtype=torch.long)), (0,)),
        ((torch.ones(2, 3, dtype=torch.long), t()), (1,)),  # the only one that is floating point
        ((t(2), t(2, 3)), (1,)),  # the only one with two dimensions
        (((t(), t()), t()), None),
        ({"logits": t(), "hidden": t()}, ("logits",)),
        ({"aux": t(), "out": t()}, ("out",)),
        ({"only": t(), "n": 3}, ("only",)),
        (Pair(t(), t()), None),
        (Record(t(), t()), None),
        ({"a": t(), "b": t()}, None),
    ],
    ids=range(14),
)
def test_the_tensor_that_is_meant_when_nobody_says(output: Any, pick: tuple[str | int, ...] | None) -> None:
    if pick is not None:
        assert default_pick(output, "layer 'x'") == pick
        return
    with pytest.raises(OutputError, match=r"layer 'x' returned .* tensors: .* Say which one is meant"):
        default_pick(output, "layer 'x'")


def test_an_ambiguous_output_lists_its_candidates() -> None:
    with pytest.raises(OutputError) as caught:
        default_pick(Record(t(2, 8, 4, 4), t(2, 5)), "layer 'block'")
    assert str(caught.value) == (
        "layer 'block' returned Record with 2 tensors: hidden (2, 8, 4, 4), score (2, 5). Say which one is meant, "
        "for a layer as 'LAYER@hidden', for the model as main='...'."
    )


@pytest.mark.parametrize(
    "output", [None, "text", (), {}, t(2), torch.ones(2, 3, dtype=torch.long), {"loss": t(1).sum()}]
)
def test_an_output_without_a_usable_tensor_is_refused(output: Any) -> None:
    with pytest.raises(OutputError, match="nothing to supervise"):
        default_pick(output, "layer 'x'")


def test_main_prediction_finds_the_logits() -> None:
    a, b = t(), t()
    assert main_prediction(a) is a
    assert main_prediction(a, "logits") is a  # a model that returns more in training than in evaluation
    assert main_prediction({"out": a, "aux": b}) is a
    assert main_prediction({"out": a, "aux": b}, "aux") is b
    assert main_prediction((a, b), (1,)) is b
    assert main_prediction(Record(a, b), "score") is b
    assert main_prediction({"x": Pair(a, b)}, "x.second") is b


@pytest.mark.parametrize(
    ("output", "pick"),
    [
        ({"out": t()}, "logits"),
        ((t(), t()), "2"),
        (Pair(t(), t()), "third"),
        (Record(t(), t()), "0"),
        (Record(t(), t()), "note"),
        ({"a": {"b": t()}}, "a"),
        (None, "0"),
        (3, "0"),
        ({"a": None}, "a.0"),
        ({"a": t()}, True),
    ],
)
def test_a_missing_prediction_says_what_there_is(output: Any, pick: str) -> None:
    with pytest.raises(OutputError, match=r"has no tensor at .* Pass main="):
        main_prediction(output, pick)


def test_the_message_of_a_missing_prediction() -> None:
    with pytest.raises(OutputError) as caught:
        main_prediction({"out": t(), "deep": [t()]}, "logits")
    assert str(caught.value) == (
        "the model's output (dict) has no tensor at 'logits'; found: out, deep.0. "
        "Pass main=... to plan to say where the prediction is."
    )


@pytest.mark.parametrize(
    ("shape", "input_shape", "channels", "layout"),
    [
        ((2, 1, 16, 384), SQUARE, -1, "NHWC"),  # blocks of tokens are no map, so no axis looks like one
        ((2, 8, 8, 8), SQUARE, -1, "NHWC"),
        ((2, 8, 8, 8), SQUARE, 1, "NCHW"),
        ((2, 64, 8, 8), SQUARE, -1, "NCHW"),  # the shape is sure, whatever a layer inside says
        ((2, 4, 4, 4, 4), VOLUME, -1, "NDHWC"),
        ((2, 2, 4, 4, 32), VOLUME, None, "NDHWC"),
        ((2, 1, 1, 1, 32), VOLUME, None, "NDHWC"),
        ((2, 32, 1, 1, 1), VOLUME, None, "NCDHW"),
        ((2, 32, 49), SQUARE, 1, "NCL"),
        ((2, 49, 32), SEQUENCE, -1, "NLC"),
        ((2, 32, 32), SEQUENCE, -1, "NCL"),  # the axis of a square says nothing: it may have been turned
    ],
)
def test_where_the_shape_leaves_it_open_the_layers_say_where_the_channels_are(
    shape: tuple[int, ...], input_shape: tuple[int, ...], channels: int | None, layout: str
) -> None:
    assert infer_layout(shape, input_shape, channels) == layout


class LayerNorm2d(nn.LayerNorm):
    """Channels first, as several zoos have it."""


@pytest.mark.parametrize(
    ("layer", "shape", "axis"),
    [
        (nn.Conv2d(1, 5, 1), (2, 5, 8, 8), 1),
        (nn.ConvTranspose3d(1, 5, 1), (2, 5, 8, 8, 8), 1),
        (nn.BatchNorm1d(5), (2, 5, 8), 1),
        (nn.GroupNorm(1, 5), (2, 5, 8, 8), 1),
        (nn.LayerNorm(5), (2, 8, 5), -1),
        (nn.RMSNorm(5), (2, 1, 8, 5), -1),
        (LayerNorm2d(5), (2, 5, 8, 8), 1),
        (nn.LayerNorm(5), (2, 5, 5), None),
        (nn.Linear(1, 5), (2, 8, 8, 5), -1),
        (nn.Linear(1, 5), (2, 8, 5), None),  # a mixer's may run over the tokens
        (nn.ReLU(), (2, 5, 8, 8), None),
    ],
)
def test_layers_of_pytorch_know_where_their_channels_are(
    layer: nn.Module, shape: tuple[int, ...], axis: int | None
) -> None:
    assert channel_axis(layer, shape) == axis
