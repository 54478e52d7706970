"""Every method is a preset that `plan` can use as it stands."""

from __future__ import annotations

import pytest

from deepsup import heads, losses, methods, schedules
from deepsup.errors import ConfigError
from deepsup.methods import METHODS, Method
from deepsup.probes import LayerGradient, Probe
from deepsup.probes.magnitudes import Magnitudes


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_a_method_is_made_of_known_parts_and_says_where_it_comes_from(method: Method) -> None:
    assert METHODS[method.name] is method
    assert method.head == heads.AUTO or heads.read(method.head)
    assert callable(losses.get(method.loss))
    assert 0 <= schedules.parse(method.weight_over())(0.0) <= 1
    Probe("Net", (LayerGradient("a", "a", 0.5, Magnitudes((1.0,))),), 1).recommend(method.rule)
    for text in (method.summary, method.formula, method.source, method.deviations):
        assert text == text.strip()
        assert text


def test_the_published_weights() -> None:
    assert METHODS["aux"].weight == "constant(0.3)"
    assert schedules.parse(METHODS["cnds"].weight_over(40)) == schedules.cnds(0.3, 40, "iterated")
    assert (METHODS["cnds"].head, METHODS["cnds"].rule) == ("cnds", "threshold")
    assert schedules.parse(METHODS["none"].weight)(0.0) == 0


def test_an_unknown_method_is_told_what_there_is() -> None:
    assert methods.get("cnds") is METHODS["cnds"]
    with pytest.raises(ConfigError) as caught:
        methods.get("cdns")
    assert str(caught.value).startswith("no method is called 'cdns'. Closest: cnds. Methods: none, aux, cnds")
