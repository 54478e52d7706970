"""Plans from JSON: every key is checked, and whatever is done to a file, it is the plan that it says or an error of ours."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import deepsup as ds
from deepsup import gradients, schedules
from deepsup.errors import DeepsupError, PlanError, TapError
from deepsup.plans import plan_keys as keys
from tests.support.small_nets import Plain, images

KEPT = Path(__file__).parents[1] / "kept" / "plans"
RICH = ("dsn", "byot", "one", "dhm", "cds", "dlb")  # brackets, further outputs, a gate, terms, two views, overlap


def plain() -> dict[str, Any]:
    options: dict[str, Any] = {"weight": "linear(0.3, 0)", "gradient": "scale(0.5)"}
    plan = ds.plan(Plain(), images(), {"early": "conv1", "late": "relu2"}, **options)
    found: dict[str, Any] = json.loads(json.dumps(plan.to_dict()))
    return found


def refused(data: object) -> str:
    with pytest.raises(PlanError) as caught:
        ds.Plan.from_dict(data)  # type: ignore[arg-type]
    return str(caught.value)


def changed(path: str, value: object) -> dict[str, Any]:
    """The plain plan with another value at a dotted path."""
    data: Any = plain()
    data["edges"] = [{"from": "main", "to": "late", "loss": "kl", "weight": "1", "gate": None, "detach": True}]
    ds.Plan.from_dict(data)
    *above, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    here = data
    for part in above:
        here = here[part]
    here[last] = value
    return data  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("metod", "aux", "there is no key 'metod'. Closest: method. Keys: format, model, method,"),
        ("branches.0.gradiant", "project", "there is no key 'branches[0].gradiant'. Closest: gradient."),
        ("trunk.parms", 1, "there is no key 'trunk.parms'. Closest: params."),
        ("edges.0.form", "main", "there is no key 'edges[0].form'. Closest: from."),
        ("branches.1.name", "main", "branches[1]: no branch may be called 'main': that is the model's own output"),
        ("branches.1.name", "y", "no branch may be called 'y'"),
        ("branches.1.name", "ensemble", "no branch may be called 'ensemble'"),
        ("branches.1.name", "previous", "no branch may be called 'previous'"),
        ("branches.1.name", "a/b", "branches[1]: a branch needs a name in one line, without '/' and '<-'; found 'a/b'"),
        ("branches.1.name", "early", "two outputs are called 'early'"),
        ("branches.1.name", 3, "branches[1].name is 3, and needs to be a text in one line that is not empty"),
        ("branches.1.layer", "", "branches[1].layer is '', and needs to be a text"),
        ("branches.0.weight", "lineal(1)", "branches[0].weight is 'lineal(1)': cannot read the schedule"),
        ("branches.0.weight", True, "branches[0].weight is True, and needs to be a number or a text"),
        ("branches.0.weight", "-1", "branches[0].weight is '-1': schedule 'constant' needs value to be a finite number"),
        ("branches.0.gradient", "projekt", "branches[0].gradient is 'projekt': no gradient rule is called 'projekt'"),
        ("branches.0.gradient", None, "branches[0].gradient is None, and needs to be a text"),
        ("branches.0.head", "pol", "branches[0].head is 'pol': no head is called 'pol'. Closest: pool."),
        ("branches.0.head", "custom:mine", "custom:... stands for your own, which JSON cannot hold"),
        ("branches.0.loss", "crossentropy", "Closest: cross_entropy"),
        ("branches.0.shape", [8, 0, 16], "branches[0].shape is [8, 0, 16], and needs to be a list of at most 9 whole numbers"),
        ("branches.0.shape", [8, 16], "layout 'NCHW' does not fit"),
        ("branches.0.shape", [8, True, 16], "needs to be a list"),
        ("branches.0.shape", [10**9, 10**9, 10**9], "needs to be a list"),
        ("branches.0.layout", "XY", "layout 'XY' does not fit"),
        ("branches.0.pick", "a..b", "branches[0].pick is 'a..b': it is no path to a tensor"),
        ("branches.0.pick", "²", None),
        ("branches.0.params", "45", "branches[0].params is '45', and needs to be a whole number of at least 0"),
        ("branches.0.params", True, "needs to be a whole number"),
        ("branches.0.flops", -1, "needs to be a whole number of at least 0"),
        ("branches.0.flops", 1.0, "needs to be a whole number"),
        ("branches.0.flops", 10**400, "needs to be a whole number"),
        ("branches.0.depth", float("nan"), "branches[0].depth is nan, and needs to be a number from 0 to 1"),
        ("branches.0.clone", 1, "branches[0].clone is 1, and needs to be True or False"),
        ("branches.0.gate", [1], "null or a list of two numbers"),
        ("branches.0.extras", "norm", "branches[0].extras is 'norm', and needs to be a list of names"),
        ("branches.0.extras", ["x", "x"], "two outputs are called 'early/x'"),
        ("branches.0", [], "branches[0] is [], and needs to be an object"),
        ("branches", {}, "branches is {}, and needs to be a list of objects"),
        ("classes", 0, "classes is 0, and needs to be a whole number of at least 1"),
        ("main_weight", float("inf"), "main_weight is inf, and needs to be a number of at least 0"),
        ("main_loss", "kl", "its loss compares with another output"),
        ("views", 3, "views is 3, and needs to be 1 or 2"),
        ("method", "axu", "method is 'axu': no method is called 'axu'. Closest: aux."),
        ("fingerprint", "xyz", "fingerprint is 'xyz', and needs to be 12 hex digits"),
        ("trunk", [1, 2], "trunk is [1, 2], and needs to be an object"),
        ("notes", ["\x1b[2J"], "needs to be a list of texts"),
        ("edges.0.to", "lat", "the term kl(main <- lat) names the output 'lat', which is not there. Closest: late."),
        ("edges.0.from", "erly", "names the output 'erly'"),
        ("edges.0.weight", "step(1)", "edges[0].weight is 'step(1)'"),
        ("format", True, "this is not a plan of format 1: found format True"),
        ("format", 1.0, "this is not a plan of format 1: found format 1.0"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_what_was_found_and_what_is_allowed(
    path: str, value: object, message: str | None
) -> None:
    data = changed(path, value)
    if message is None:
        assert ds.Plan.from_dict(data).to_dict()["branches"][0]["pick"] == value
        return
    assert message in refused(data)


@pytest.mark.parametrize("data", [None, 3, "plan", [], [{"format": 1}]], ids=repr)
def test_what_is_no_object_is_no_plan(data: object) -> None:
    assert "this is not a plan of format 1: found a" in refused(data)


def test_a_key_that_is_missing_is_named_where_it_is_missing() -> None:
    data = plain()
    del data["branches"][1]["gradient"]
    assert "'branches[1].gradient' is missing" in refused(data)
    data = plain()
    del data["trunk"]["flops"]
    assert "'trunk.flops' is missing" in refused(data)


def test_a_file_has_all_keys_of_its_time() -> None:
    data = plain()
    del data["forwards"]
    ds.Plan.from_dict(data)  # before halves had a forward each
    for part in (data, *data["branches"]):
        del part["prediction"]
    ds.Plan.from_dict(data)  # before it was known what outputs are
    for branch in data["branches"]:
        del branch["optional"]
    ds.Plan.from_dict(data)  # before layers that the model may skip
    del data["main_weight"]
    ds.Plan.from_dict(data)  # before methods whose weights sum to 1
    del data["main_loss"]
    assert "'main_loss' is missing" in refused(data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"format": 1, "format": 1}', "the key 'format' stands twice in one object"),
        (b'{"format": 1, "x": {"a": NaN}}', "NaN is no number"),
        (b'{"format": Infinity}', "Infinity is no number"),
        (b"[" * 100_000, "is no valid JSON"),
        (b"1" * 5000, "is no valid JSON"),
        (b"\xff\xfe\x00", "is no valid JSON"),
        (b'"' + b"a" * keys.LARGEST, "it holds more than 16 MiB"),
    ],
    ids=["twice", "nan", "infinity", "deep", "long", "bytes", "large"],
)
def test_a_file_that_is_no_json_of_ours_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(PlanError, match=r"plan\.json") as caught:
        ds.Plan.load(tmp_path / "plan.json")
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_a_plan_error_and_a_wrong_key_names_its_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.json"):
        with pytest.raises(PlanError, match="cannot read the plan"):
            ds.Plan.load(path)
    (tmp_path / "plan.json").write_text(json.dumps(changed("branches.0.gradiant", 1)))
    with pytest.raises(PlanError, match=r"plan.json: the plan is damaged: there is no key 'branches\[0\].gradiant'"):
        ds.Plan.load(tmp_path / "plan.json")


def test_a_layer_that_the_model_does_not_have_is_named_by_attach() -> None:
    model = Plain()
    with pytest.raises(
        PlanError, match=r"branch 'early' reads the layer 'conv11', which Plain does not have. Closest: conv1"
    ):
        ds.attach(model, ds.Plan.from_dict(changed("branches.0.layer", "conv11")))
    assert not ds.is_supervised(model)


@pytest.mark.parametrize("head", ["network(name=3)", "cnds(hidden=-1)", "cnds(hidden='a')", "continuation(width=0)"])
def test_an_option_that_no_head_can_have_is_an_error_of_ours_when_it_is_attached(head: str) -> None:
    with pytest.raises(DeepsupError):
        ds.attach(Plain(), ds.Plan.from_dict(changed("branches.0.head", head)))


def test_outputs_that_the_head_does_not_give_are_named_in_the_first_step() -> None:
    net = ds.attach(Plain(), ds.Plan.from_dict(changed("branches.0.extras", ["feature"]))).train()
    with pytest.raises(
        DeepsupError, match="outputs scores, feature of the head of branch 'early', and the head gives one"
    ):
        net(images())


def test_a_tensor_that_the_layer_does_not_give_is_named_in_the_first_step() -> None:
    for pick in ("0", "hidden.deep"):
        net = ds.attach(Plain(), ds.Plan.from_dict(changed("branches.0.pick", pick))).train()
        with pytest.raises(
            TapError, match=rf"branch 'early' gives no tensor at '{pick}' of its output, .* tensors at ''"
        ):
            net(images())


HOSTILE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 1.5, -0.5, float("nan"), float("inf"), 1e308, 10**30, 10**400),
    *("", "a", "main", "y", "ensemble", "previous", "zzz", "1", "-1", "nan", "a/b", "a<-b", "a@b", "a#b", "\n", "\ud800"),
    *("pool", "none", "kl", "hint", "supcon", "identity", "embed", "network(name='os:system')", "linear(0.3, 0)", "scale(-1)"),
    *("add(", "step(1, {0: [1]})", "cnds(hidden=0)", "warmup(3, 0)", "custom:x", "x" * 20_000, "(" * 3000, "linear(**{1: 2})"),
    *([], [0], [1], [1, 2, 3], [[]], {}, {"a": 1}, [{}], [None], [8, 0, 16], [-1, 2, 2], [8.0, 16, 16], ["a"], ["a", "a"]),
]  # fmt: skip


def places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key of it, at any depth."""
    for key in list(data) if isinstance(data, dict) else range(len(data)):
        yield data, key
        if isinstance(data[key], (dict, list)):
            yield from places(data[key])


def mutate(data: Any, draw: random.Random) -> None:
    """Do one thing to a plan, anywhere."""
    here, key = draw.choice(list(places(data)))
    value = here[key]
    kind = draw.randrange(9)
    if kind == 0:
        del here[key]
    elif kind == 1 and isinstance(here, dict):
        at = draw.randrange(len(key))
        here[key[:at] + draw.choice("aeiouxyz") + key[at + draw.randrange(2) :]] = here.pop(key)
    elif kind == 2 and isinstance(value, list) and value:
        value.insert(draw.randrange(len(value)), copy.deepcopy(draw.choice(value)))
    elif kind == 3 and isinstance(value, str) and value:
        at = draw.randrange(len(value))
        here[key] = value[:at] + draw.choice(["", "x", "(", ")", "=", "9", "'", "-", "."]) + value[at + 1 :]
    elif kind == 4 and isinstance(value, (int, float)):
        here[key] = draw.choice([-value, value * 1000, value + 0.5, str(value), value + 1])
    elif kind == 5 and isinstance(here, dict):
        here[draw.choice(["gradiant", "x", "name", "weight", "prediction2", "Format"])] = draw.choice(HOSTILE)
    elif kind == 6:  # what stands under this key elsewhere fits, or nearly
        here[key] = copy.deepcopy(draw.choice([there[k] for there, k in places(data) if k == key]))
    else:
        here[key] = copy.deepcopy(draw.choice(HOSTILE))


def meant(data: Any) -> str:
    """What a file says, its schedules and rules as they print."""
    for each in (*data["branches"], *data["edges"]):
        each["weight"] = schedules.show(schedules.parse(each["weight"]))
        if "gradient" in each:
            each["gradient"] = repr(gradients.parse(each["gradient"]))
    return json.dumps(data, sort_keys=True)


def test_whatever_is_done_to_a_plan_it_is_what_the_file_says_or_an_error_of_ours(tmp_path: Path) -> None:
    draw = random.Random(20261126)
    bases = [plain(), plain(), *(json.loads((KEPT / f"{name}.json").read_text()) for name in RICH)]
    model, loaded, attached = Plain(), 0, 0
    for n in range(600):
        data = copy.deepcopy(bases[n % len(bases)])
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            mutate(data, draw)
        try:
            plan = ds.Plan.from_dict(data)
        except DeepsupError:
            continue
        loaded += 1
        if "main_weight" in data and all("optional" in b for b in data["branches"]):  # else a file of before
            assert meant({"forwards": 1, **data}) == json.dumps(plan.to_dict(), sort_keys=True)
        assert str(plan)
        try:
            net = ds.attach(model, plan)
        except DeepsupError:
            continue
        attached += 1
        ds.Objective(plan)
        ds.strip(net)
    assert loaded > 40  # not everything is refused
    assert attached > 10


def test_whatever_is_done_to_the_text_of_a_plan_it_is_what_the_file_says_or_an_error_of_ours(tmp_path: Path) -> None:
    draw, path = random.Random(7), tmp_path / "plan.json"
    text = json.dumps(plain(), indent=1)
    for _ in range(200):
        at, much = draw.randrange(len(text)), draw.choice([0, 1, 1, 2, 40])
        path.write_text(
            text[:at] + draw.choice(["", "x", '"', ",", "{", "}", "[", "1", "\\", "NaN", ":"]) + text[at + much :]
        )
        try:
            plan = ds.Plan.load(path)
        except DeepsupError:
            continue
        assert meant(json.loads(path.read_text())) == json.dumps(plan.to_dict(), sort_keys=True)
