"""One term of an objective: its name, what JSON stores of it, and its part of the formula."""

from __future__ import annotations

from deepsup import losses, schedules
from deepsup.terms import Bracket, Edge


def test_a_weight_becomes_the_schedule_that_it_means() -> None:
    assert Edge("main").weight == schedules.constant(1)
    assert Edge("main", weight=0.3).weight == Edge("main", weight="0.3").weight == schedules.constant(0.3)  # type: ignore[arg-type]


def test_a_term_is_named_after_what_it_holds_against_what() -> None:
    assert Edge("layer1").name == "layer1"
    assert Edge("layer1", "main", "kl").name == "layer1<-main"


def test_a_term_prints_as_its_part_of_the_formula() -> None:
    assert str(Edge("layer1")) == "cross_entropy(layer1, y)"
    assert str(Edge("layer1", "main", "kl(temperature=3)")) == "kl(temperature=3)(layer1 <- main)"
    gated = Edge("layer1", loss="squared_hinge", bracket=Bracket(0.1, 2e-5))
    assert str(gated) == "[2e-05 |w|² + squared_hinge(layer1, y) - 0.1]+"


def test_json_has_all_of_it() -> None:
    term = Edge(
        "layer1", "main", losses.get("kl(temperature=3)"), schedules.linear(0.3, 0), Bracket(0.1, 0.5), detach=False
    )
    assert term.to_dict() == {
        "from": "layer1",
        "to": "main",
        "loss": "kl(temperature=3)",
        "weight": "linear(0.3, 0)",
        "gate": [0.1, 0.5],
        "detach": False,
    }
