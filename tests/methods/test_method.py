"""Every method is a preset that `plan` can use as it stands, named by a text."""

from __future__ import annotations

import pytest
import torch

import deepsup as ds
from deepsup import heads, losses, methods
from deepsup.errors import BranchNameError, ConfigError
from deepsup.layers.selectors import select
from deepsup.methods import METHODS, Method, Places
from deepsup.methods.method import NotNegative
from deepsup.probes import LayerGradient, Probe
from deepsup.probes.magnitudes import Magnitudes
from tests.support.method_steps import Case
from tests.support.registering import registered


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_a_method_is_made_of_known_parts_and_says_where_it_comes_from(method: Method) -> None:
    assert METHODS[method.name] is method
    assert methods.get(method.name) is method
    assert method.head == heads.AUTO or heads.read(method.head)
    assert callable(losses.get(method.loss))
    assert callable(losses.get(method.main_loss))
    Probe("Net", (LayerGradient("a", "a", 0.5, Magnitudes((1.0,))),), 1).recommend(method.rule)
    for text in (method.summary, method.formula, method.source, method.deviations):
        assert text == text.strip()
        assert text


ON_CLASSIFIERS = sorted(m.name for m in METHODS.values() if not m.maps)  # the others: test_segmenters.py


@pytest.mark.parametrize("name", sorted(set(ON_CLASSIFIERS) - {"cds", "equal-compute"}))
def test_every_method_trains_a_small_net_and_leaves_no_trace(name: str) -> None:
    method = METHODS[name]
    at = None if method.bare or method.places else ["layer1", "layer2"]
    case = Case(name, at)
    assert ds.Plan.from_dict(case.plan.to_dict()) == case.plan
    assert repr(case.objective).startswith("total = ")
    terms = case.objective(case.net(case.x), case.y, progress=0.5)
    terms.total.backward()
    assert terms.total.isfinite()
    assert sum(float(torch.as_tensor(terms.weights[n]) * p.detach()) for n, p in terms.parts.items()) == pytest.approx(
        float(terms.total.detach())
    )
    if case.plan.branches:
        assert ds.strip(case.net) is case.model
        assert not ds.is_supervised(case.model)


@pytest.mark.parametrize("name", ["aux", "dsn", "cnds", "dhm", "byot", "dml"])
def test_zero_initialised_heads_send_no_gradient_into_the_trunk_at_first(name: str) -> None:
    at = ["layer1", "layer2"] if METHODS[name].places is None else None
    case = Case(name, at, zero_heads=True)
    scoring = [b.name for b in case.plan.branches if b.predicts]
    assert [b.name for b in case.plan.branches if b.zero] == scoring
    assert len(scoring) >= 1
    outputs = case.net(case.x)
    assert all(not torch.count_nonzero(outputs.aux[n]) for n in scoring)


def test_settings_for_all_branches_leave_a_methods_own_readers_alone() -> None:
    plan = Case("byot", weight=0.25).plan
    assert [(b.name, b.weight(0)) for b in plan.branches] == [("layer1", 0.25), ("layer2", 0.25), ("deepest", 0.0)]
    with pytest.raises(BranchNameError, match="weight= names branch 'layer9', which is not there"):
        Case("byot", weight={"layer9": 0.25})


def test_methods_that_place_themselves_can_be_placed_by_the_user() -> None:
    plan = Case("dhm", {"a": "layer1", "b": "layer2"}).plan
    assert [(b.name, b.layer) for b in plan.branches] == [("a", "layer1"), ("b", "layer2")]
    assert [b.head for b in plan.branches] == [b.head for b in Case("dhm").plan.branches]
    assert len(plan.edges) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dhm(temperature=0)", "method 'dhm' needs temperature to be a finite number above 0; found 0."),
        ("dml(peers=0)", "method 'dml' needs peers to be a whole number of at least 1; found 0."),
        ("byot(alpha=2)", "method 'byot' needs alpha to be a number from 0 to 1; found 2."),
        ("dsn(gamma=-1)", "method 'dsn' needs gamma to be a number of at least 0; found -1."),
        ("byot(hint='x')", "needs hint to be a number of at least 0; found 'x'."),
        (
            "label-smoothing(smoothing=1.5)",
            "method 'label-smoothing' needs smoothing to be a number from 0 to 1; found 1.5.",
        ),
        ("aux(weight=-1)", "needs weight to be a number of at least 0; found -1."),
        ("dhm(dynamic=3)", "needs dynamic to be True or False; found 3."),
        ("dsn(decay='square')", "method 'dsn' needs decay to be 'linear' or 'iterated' or 'constant'; found 'square'."),
        ("one(branches=1)", "needs branches to be a whole number of at least 2; found 1."),
        ("cds(loss='triplet')", "needs loss to be 'supcon' or 'simclr'; found 'triplet'."),
        ("dhm(heat=2)", "has no option 'heat'. Options: temperature, weight, dynamic, eps."),
        ("cnd", "no method is called 'cnd'. Closest: cnds. Methods: aux, googlenet,"),
        ("dml-relased(peers=2)", "Closest: dml-released."),
        ({}, "no method is called {}. Methods: aux"),
    ],
)
def test_impossible_methods_are_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        methods.get(text)
    assert message in str(caught.value)


def test_a_text_with_options_names_the_method() -> None:
    assert methods.get("dhm(temperature=2, dynamic=True)").name == "dhm(temperature=2, dynamic=True)"
    assert methods.get("dml-released(peers=2)").name == "dml-released(peers=2)"


def half_way(*, weight: NotNegative = 0.5) -> Method:
    """One branch half way.

    An example.
    """
    places = Places("half way", lambda scene: {"middle": select(scene.seen, "50%")[0]})
    return Method(formula="L = L_main + w L_k", source="-", weight=f"constant({weight})", places=places)


def test_a_new_method_is_one_function_and_its_options_have_limits() -> None:
    with registered(methods.BUILDERS, half_way):
        method = methods.get("half-way(weight=0.1)")
        assert (method.name, method.summary, method.options) == (
            "half-way(weight=0.1)",
            "one branch half way",
            {"weight": 0.1},
        )
        assert Case("half-way").plan.names == ("middle",)
        with pytest.raises(ConfigError, match="method 'half-way' needs weight to be a number of at least 0; found -1"):
            methods.get("half-way(weight=-1)")
    with pytest.raises(ConfigError, match="no method is called 'half-way'"):
        methods.get("half-way")
