"""Finding layers: every selector, what they mean in the same model, and what a near miss is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepsup.errors import LayerError, LayerNotCalledError, LayerReusedError, UnknownLayerError
from deepsup.layers.dry_run import trace
from deepsup.layers.selectors import check_readable, matches, select, split_pick, tap_points
from tests.support.odd_nets import Branchy, Queries, telling
from tests.support.small_nets import CLASSES, Plain, Residual, images

RESIDUAL = trace(Residual(), images())


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        ("layer1", ["layer1"]),
        ("layer1.0", ["layer1.0"]),
        ("layer1.0.conv1", ["layer1.0.conv1"]),
        ("layer*", ["layer1", "layer2"]),
        ("layer?", ["layer1", "layer2"]),
        ("layer[12]", ["layer1", "layer2"]),
        ("layer[1-9]", ["layer1", "layer2"]),
        ("layer[!1]", ["layer2"]),
        ("layer*.0", ["layer1.0", "layer2.0"]),
        ("*.0", ["layer1.0", "layer2.0"]),
        ("*.*.conv1", [f"layer{s}.{b}.conv1" for s in (1, 2) for b in (0, 1)]),
        ("**.conv1", [f"layer{s}.{b}.conv1" for s in (1, 2) for b in (0, 1)]),
        ("**conv1", ["conv1", *(f"layer{s}.{b}.conv1" for s in (1, 2) for b in (0, 1))]),
        ("layer1.**bn?", [f"layer1.{b}.bn{i}" for b in (0, 1) for i in (1, 2)]),
        ("type:Block", ["layer1.0", "layer1.1", "layer2.0", "layer2.1"]),
        ("type:Linear", ["fc"]),
        ("type:*Pool2d", ["avgpool"]),
        ("0%", ["relu"]),
        ("50%", ["layer1"]),
        ("100%", ["layer2"]),
        ("stride:2", ["layer1"]),
        ("stride:4", ["layer2"]),
    ],
)
def test_what_a_selector_means(selector: str, found: list[str]) -> None:
    assert matches(RESIDUAL, selector) == found


@pytest.mark.parametrize("selector", ["*", "layer1.*", "layer?.?"])
def test_stars_and_question_marks_stay_within_one_part_of_the_name(selector: str) -> None:
    assert {n.count(".") for n in matches(RESIDUAL, selector)} == {selector.count(".")}


def test_a_dot_in_a_pattern_is_a_dot() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(nn.Linear(3, 4))
            self.a_0 = nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.a_0(self.a(x))

    assert matches(trace(Net(), torch.randn(2, 3)), "?.0") == ["a.0"]


def test_selected_layers_come_in_the_order_in_which_they_run_each_once() -> None:
    assert select(RESIDUAL, ["fc", "layer2", "layer*", "conv1", "50%"]) == ["conv1", "layer1", "layer2", "fc"]
    assert select(RESIDUAL, "layer*") == ["layer1", "layer2"]
    assert select(RESIDUAL, []) == []


def test_globs_and_types_leave_out_what_never_runs() -> None:
    seen = trace(Branchy(), torch.randn(2, 3))
    assert matches(seen, "*") == ["stem", "side", "twice", "cut", "fc"]
    assert "never" not in matches(seen, "type:Linear")
    assert matches(seen, "never") == ["never"]  # by name it is found, and then `check_readable` says why not


def test_picks_are_split_off() -> None:
    assert split_pick("block.3@hidden") == ("block.3", ("hidden",))
    assert split_pick("block@1.deep") == ("block", (1, "deep"))
    assert split_pick("block") == ("block", None)
    assert matches(RESIDUAL, "layer1@0") == ["layer1"]


def test_tap_points_are_the_last_to_run_at_each_depth() -> None:
    assert [p.name for p in tap_points(trace(Plain(), images()))] == ["relu1", "relu2"]  # not the pooled map, not fc
    assert [p.name for p in tap_points(RESIDUAL)] == ["relu", "layer1.0", "layer1", "layer2.0", "layer2"]


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (
            "layer4",
            "no layer matches 'layer4' in Residual. Closest: layer2, layer1, layer2.1. "
            "List all 32 with: deepsup layers MODEL",
        ),
        ("conv", "no layer matches 'conv' in Residual. Closest: conv1. "),
        ("module.fc", "no layer matches 'module.fc' in Residual. Closest: fc. "),
        ("backbone.avgpool", "no layer matches 'backbone.avgpool' in Residual. Closest: avgpool. "),
        ("", "no layer matches '' in Residual. There are: conv1, bn1, relu, "),
        ("xyz*", "no layer matches 'xyz*' in Residual. There are: conv1, bn1, relu, "),
        ("layer*@hidden", "no layer matches 'layer*' in Residual."),
        ("layer[", "no layer matches 'layer[' in Residual. Closest: layer2, layer1"),
        ("type:Blok", "no layer of Residual has type 'Blok'. Closest: Block."),
        ("type:LSTM", "no layer of Residual has type 'LSTM'. Closest: "),
        ("150%", "no layer of Residual at depth '150%': 5 tap points found, depths run from 0% to 100%."),
        ("-1%", "no layer of Residual at depth '-1%'"),
        ("nan%", "no layer of Residual at depth 'nan%'"),
        ("half%", "'half%' is not a depth. Write a percentage such as '50%'."),
        ("%", "'%' is not a depth."),
        ("stride:3", "no tap point of Residual has 'stride:3'. Strides found: 2, 4."),
        ("stride:", "no tap point of Residual has 'stride:'. Strides found: 2, 4."),
        ("layer[9-1]", "no layer matches 'layer[9-1]' in Residual."),
        ("layer[\\]", "no layer matches 'layer[\\\\]' in Residual."),
    ],
)  # fmt: skip
def test_a_near_miss_is_told_what_is_close(selector: str, message: str) -> None:
    with pytest.raises(UnknownLayerError) as caught:
        select(RESIDUAL, selector)
    assert str(caught.value).startswith(message)


def test_models_without_maps_have_no_strides() -> None:
    seen = trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)), torch.randn(2, 3))
    with pytest.raises(UnknownLayerError, match=r"Strides found: none \(no maps\)"):
        matches(seen, "stride:4")
    assert matches(seen, "60%") == ["1"]
    assert matches(seen, "1") == ["1"]


def test_a_model_of_one_layer_has_no_tap_points() -> None:
    seen = trace(nn.Sequential(nn.Linear(3, CLASSES)), torch.randn(2, 3))
    with pytest.raises(UnknownLayerError, match="at depth '50%': 0 tap points found"):
        matches(seen, "50%")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "never",
            LayerNotCalledError,
            "layer 'never' of Branchy was never called in the dry run (in training mode, input (2, 3)). "
            "Choose a layer that runs, for example: stem, fc.",
        ),
        (
            "twice",
            LayerReusedError,
            "layer 'twice' of Branchy ran 2 times in one forward, so its output is ambiguous. "
            "Name the call, from 'twice#1' to 'twice#2' or 'twice#-1', the last; or choose the block around it.",
        ),
        (
            "cut",
            LayerError,
            "no gradient can flow into the output of layer 'cut' of Branchy: it was computed without a graph, as "
            "reentrant checkpointing or torch.no_grad do. Checkpoint with use_reentrant=False, or tap outside it.",
        ),
    ],
)
def test_an_unreadable_layer_says_why(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        check_readable(trace(Branchy(), torch.randn(2, 3)), name)
    assert str(caught.value) == message


def test_readable_layers_pass() -> None:
    seen = trace(Branchy(), torch.randn(2, 3))
    for name in ("stem", "side", "fc"):
        assert check_readable(seen, name) is seen.layers[name]


@pytest.mark.parametrize("pick", [(5,), ("hidden",)])
def test_a_pick_that_is_not_there_lists_what_is(pick: Any) -> None:
    seen = trace(telling(), images(), picks={"block": pick})
    with pytest.raises(LayerError, match=rf"no output '{pick[0]}'; it returned tuple with 0, 1.deep, 1.states.0"):
        check_readable(seen, "block")


def test_more_dimensions_than_any_head_reads_are_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Unflatten(1, (1, 1, 1, 1, 3)), nn.Flatten(), nn.Linear(3, CLASSES))
    with pytest.raises(LayerError, match="layer '1' of Sequential gives out a tensor with too many dimensions"):
        check_readable(trace(model, torch.randn(2, 3)), "1")


def test_a_layer_that_says_nothing_about_the_sample_is_refused() -> None:
    seen = trace(Queries(), images())
    with pytest.raises(LayerError, match="'queries' of Queries does not depend on the input"):
        check_readable(seen, "queries")
    assert check_readable(seen, "mix").name == "mix"
