"""Plans: frozen, printed as a table, stored as JSON and nothing else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import deepsup as ds
from deepsup.errors import DeepsupError, PlanError
from deepsup.plans.plan import Branch, Plan, fingerprint
from tests.support.method_steps import Case
from tests.support.odd_nets import telling
from tests.support.small_nets import CLASSES, Plain, Residual, images


def planned(**options: Any) -> Plan:
    return ds.plan(Plain(), images(), ["conv1", "relu2"], **options)


EVERY_KIND = [
    planned(),
    planned(method="cnds", weight={"conv1": "step(0.3, {0.8: 0, 0.5: 0.1})", "relu2": 1}),
    ds.plan(Plain(), images(), method="none"),
    ds.plan(Residual(), images(), {"early": "layer1.0.bn2", "late": "75%"}, head={"early": "linear"}),
    ds.plan(telling(), images(), ["block@1.deep"]),
    ds.plan(telling(), {"x": images()}, ["conv"], layout={"conv": "NHWC"}),
]


@pytest.mark.parametrize("plan", EVERY_KIND, ids=range(len(EVERY_KIND)))
def test_a_plan_comes_back_from_json_equal(plan: Plan, tmp_path: Path) -> None:
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again == plan
    assert str(again) == str(plan)
    assert again.to_dict() == plan.to_dict()
    assert Plan.from_dict(plan.to_dict()) == plan


def test_a_stored_plan_can_be_attached(tmp_path: Path) -> None:
    model = Plain()
    ds.plan(model, images(), ["conv1", "relu2"], head="linear").save(tmp_path / "plan.json")
    net = ds.attach(model, Plan.load(tmp_path / "plan.json"))
    assert {n: tuple(t.shape) for n, t in net.train()(images()).aux.items()} == {"conv1": (2, 5), "relu2": (2, 5)}


def test_a_plan_says_what_it_holds_by_name() -> None:
    plan = planned()
    assert plan.names == ("conv1", "relu2")
    assert plan.cost == {
        "trunk_params": 1477,
        "head_params": (8 + 1) * 5 + (16 + 1) * 5,
        "trunk_flops": 258208,
        "head_flops": 2 * 8 * 5 + 2 * 16 * 5,
    }
    assert json.loads(json.dumps(plan.to_dict()))["branches"][0] == {
        "name": "conv1",
        "layer": "conv1",
        "pick": "",
        "shape": [8, 16, 16],
        "layout": "NCHW",
        "depth": 0.3333,
        "head": "pool",
        "loss": "cross_entropy",
        "weight": "constant(0.3)",
        "gradient": "add",
        "clone": False,
        "requires_grad": True,
        "read_inside": False,
        "gate": None,
        "zero": False,
        "predicts": True,
        "optional": False,
        "extras": [],
        "prediction": {"kind": "class", "axis": 1, "classes": 5, "places": 0, "source": "pool"},
        "params": 45,
        "flops": 80,
        "activation_bytes": 4 * (8 + 5),
    }


def test_a_plan_is_frozen() -> None:
    plan = planned()
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.classes = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.branches[0].weight = ds.schedules.constant(0)  # type: ignore[misc]


def test_a_plan_prints_as_a_table() -> None:
    plan = planned(method="cnds", head={"relu2": "linear"}, weight={"relu2": "linear(0.3, 0)", "conv1": 0.25})
    assert str(plan) == (
        "Plain: 1.48k parameters, 258k FLOPs a sample; 2 branches by method 'cnds'\n"
        "  main: cross_entropy of 5 classes, (N, 5)\n"
        "  branch  shape    depth  head    loss           weight          params  FLOPs\n"
        "  conv1   8x16x16    33%  cnds    cross_entropy  0.25             4.27M  8.58M\n"
        "  relu2   16x8x8     67%  linear  cross_entropy  linear(0.3, 0)   5.12k  10.2k\n"
        "  training adds 2893 times the parameters, 33 times the FLOPs; inference adds nothing"
    )


def test_a_plan_without_branches_prints_one_line_and_notes_come_last() -> None:
    none = ds.plan(Plain(), images(), method="none")
    assert str(none) == (
        "Plain: 1.48k parameters, 258k FLOPs a sample; 0 branches by method 'none'\n"
        "  main: cross_entropy of 5 classes, (N, 5)"
    )
    one = ds.plan(Residual(), images(), "bn1")
    assert "1 branch by method 'aux'" in str(one)
    note = "'bn1' is overwritten in place by what follows, so its tap keeps a copy"
    assert str(one).endswith(f"inference adds nothing\n  note: {note}")


def test_a_layout_other_than_the_usual_one_is_printed() -> None:
    assert "4x14x14 NHWC" in str(ds.plan(telling(), images(), "conv", layout={"conv": "NHWC"}))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 parameters"),
        (999, "999 parameters"),
        (1000, "1k parameters"),
        (999_499, "999k parameters"),
        (999_999, "1M parameters"),
        (1_234_567, "1.23M parameters"),
        (25_557_032, "25.6M parameters"),
        (999_999_999, "1G parameters"),
        (6_738_415_616, "6.74G parameters"),
        (123_456_789_012, "123G parameters"),
        (1_760_000_000_000, "1760G parameters"),
    ],
)
def test_counts_are_printed_with_three_digits(count: int, text: str) -> None:
    assert text in str(dataclasses.replace(planned(), params=count))


def test_a_tiny_cost_is_not_printed_as_nothing() -> None:
    plan = dataclasses.replace(planned(), params=10**9, flops=10**12)
    assert "training adds under 0.1% parameters, under 0.1% FLOPs; inference" in str(plan)
    plan = dataclasses.replace(planned(), params=0, flops=0)
    assert "training adds 130 parameters, 240 FLOPs; inference" in str(plan)


def own_head(feature: ds.Feature, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(8 * 16 * 16, classes))


def wiggle(progress: float) -> float:
    return progress


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"head": own_head}, "a head of your own (custom:own_head)"),
        ({"head": own_head(ds.Feature((8,), "NC"), CLASSES)}, "a head of your own (custom:Sequential)"),
        ({"branch_loss": F.cross_entropy}, "a loss of your own (custom:cross_entropy)"),
        ({"weight": wiggle}, "a weight of your own (custom:"),
        ({"weight": ds.schedules.until(wiggle, 0.5)}, "a weight of your own ("),
        ({"weight": ds.schedules.warmup(ds.schedules.until(wiggle, 0.5), 0.1)}, "a weight of your own ("),
    ],
    ids=["function", "module", "loss", "schedule", "schedule inside a schedule", "two deep"],
)
def test_what_json_cannot_hold_is_refused_when_it_is_saved(options: Any, text: str, tmp_path: Path) -> None:
    plan = ds.plan(Plain(), images(), ["conv1"], **options)
    assert str(plan)
    with pytest.raises(PlanError) as caught:
        plan.save(tmp_path / "plan.json")
    assert str(caught.value).startswith(f"branch 'conv1' has {text}")
    assert "which JSON cannot hold. Make this plan in Python" in str(caught.value)
    assert not (tmp_path / "plan.json").exists()
    with pytest.raises(PlanError):
        Plan.from_dict(plan.to_dict())


def test_a_schedule_class_of_the_users_is_refused_too(tmp_path: Path) -> None:
    class bump(ds.schedules.Schedule):
        def __call__(self, progress: float) -> float:
            return 0.1

        def __repr__(self) -> str:
            return "bump()"

    with pytest.raises(PlanError, match="a weight of your own"):
        ds.plan(Plain(), images(), ["conv1"], weight=bump()).save(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not a plan: it is no valid JSON"),
        ('{"format": 1, "model": ', "is not a plan: it is no valid JSON"),
        ("[1, 2]", "is not a plan: it holds list, not an object"),
        ("{}", "this is not a plan of format 1: found format None. Plan again."),
        ('{"format": 2}', "this is not a plan of format 1: found format 2. Plan again."),
        ('{"format": 1}', "the plan is damaged: 'model' is missing"),
    ],
)
def test_a_file_that_is_no_plan(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(content)
    with pytest.raises(PlanError) as caught:
        Plan.load(path)
    assert message in str(caught.value)


def test_a_binary_file_is_no_plan(tmp_path: Path) -> None:
    ds.save_weights(Plain(), tmp_path / "model.safetensors")
    with pytest.raises(PlanError, match=r"model.safetensors is not a plan"):
        Plan.load(tmp_path / "model.safetensors")


LATER = (
    "main_loss",
    "main_weight",
    "edges",
    "dynamic",
    "views",
    "overlap",
    "forwards",
    "prediction",
)  # plans of 0.1 do without them


@pytest.mark.parametrize("key", [k for k in planned().to_dict() if k not in ("format", *LATER)])
def test_a_plan_with_a_part_missing_is_a_plan_error(key: str) -> None:
    data = json.loads(json.dumps(planned().to_dict()))
    del data[key]
    with pytest.raises(PlanError, match=f"the plan is damaged: '{key}' is missing"):
        Plan.from_dict(data)


@pytest.mark.parametrize("key", ["branches", "trunk", "notes", "input_shape"])
@pytest.mark.parametrize("value", [None, 3, [3]], ids=str)
def test_a_plan_with_a_part_of_another_kind_is_a_plan_error(key: str, value: object) -> None:
    data = json.loads(json.dumps(planned().to_dict()))
    data[key] = value
    if value == [3] and key == "input_shape":
        assert Plan.from_dict(data)  # a list is what stands there
        return
    with pytest.raises(PlanError, match="the plan is damaged"):
        Plan.from_dict(data)


OPTIONAL = {"gradient", "read_inside", "gate", "zero", "predicts", "extras", "prediction"}


@pytest.mark.parametrize("key", sorted({*planned().to_dict()["branches"][0]} - OPTIONAL))
def test_a_damaged_branch_is_a_plan_error(key: str) -> None:
    data = json.loads(json.dumps(planned().to_dict()))
    del data["branches"][0][key]
    with pytest.raises(PlanError, match="the plan is damaged"):
        Plan.from_dict(data)


@pytest.mark.parametrize(
    ("key", "value"),
    [("weight", None), ("gradient", None), ("gradient", "projekt"), ("head", "pol"), ("loss", "crossentropy"),
     ("weight", "lineal(1)"), ("weight", [1]), ("shape", 5), ("shape", [8, 16]), ("layout", "XY"), ("pick", 3)],
)  # fmt: skip
def test_a_damaged_value_is_an_error_of_ours(key: str, value: object) -> None:
    data = json.loads(json.dumps(planned().to_dict()))
    data["branches"][0][key] = value
    with pytest.raises(DeepsupError):
        Plan.from_dict(data)


def test_the_fingerprint_knows_names_types_and_shapes_but_not_values() -> None:
    one, other = Plain(), Plain()
    assert not torch.equal(one.fc.weight, other.fc.weight)
    assert fingerprint(one) == fingerprint(other)
    other.train().bfloat16().requires_grad_(False)
    assert fingerprint(one) == fingerprint(other)
    assert len(fingerprint(one)) == 12
    changed = [Plain(CLASSES + 1), Residual(), nn.Sequential(Plain())]
    swapped = Plain()
    swapped.relu1 = nn.GELU()
    added = Plain()
    added.extra = nn.Identity()
    prints = {fingerprint(m) for m in (one, *changed, swapped, added)}
    assert len(prints) == 6


def test_branches_compare_by_value() -> None:
    a = Branch("a", "a", ds.Feature((3,), "NC"), "pool", "cross_entropy", ds.schedules.constant(0.3))
    assert a == dataclasses.replace(a)
    assert a != dataclasses.replace(a, weight=ds.schedules.constant(0.4))


def test_a_plan_says_what_its_batches_hold_and_what_it_drops() -> None:
    assert "a batch holds two crops of each image: twice the FLOPs" in str(Case("cds").plan)
    assert "1 * kl(temperature=3): main <- previous" in str(Case("dlb").plan)
    assert "the samples of the one before as well" in str(Case("dlb").plan)
    assert "each step drops a random part" in str(Case("dhm(dynamic=True)").plan)
    assert repr(Case("dhm(dynamic=True)").objective).endswith("drops a random part of the terms between outputs")
