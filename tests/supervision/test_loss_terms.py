"""Terms tell their numbers, and say what to do where a tensor was expected."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch

import deepsup as ds
from deepsup.errors import OutputError, TermsError


def terms() -> ds.Terms:
    main, early = torch.tensor(2.0, requires_grad=True), torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    return ds.Terms(main + 0.5 * early, {"main": main, "layer1": early}, {"main": 1.0, "layer1": 0.5})


def test_scalars_are_the_total_and_the_parts_and_detached_terms_hold_no_graph() -> None:
    assert terms().scalars() == {"total": 4.0, "main": 2.0, "layer1": 4.0}
    plain = terms().detached()
    assert not plain.total.requires_grad
    assert plain.scalars() == terms().scalars()


@pytest.mark.parametrize("name", ["backward", "item", "detach", "requires_grad"])
def test_an_attribute_of_tensors_names_the_total(name: str) -> None:
    with pytest.raises(TermsError, match=rf"write terms\.total\.{name}\."):
        getattr(terms(), name)
    assert not hasattr(terms(), name)


@pytest.mark.parametrize(
    "use",
    [lambda t: t / 4, lambda t: 2 * t, lambda t: t * 2, lambda t: t + t, lambda t: sum([t]), operator.neg, float],
    ids=["/4", "2*", "*2", "+", "sum", "-", "float"],
)
def test_arithmetic_names_the_total_instead_of_repeating_a_tuple(use: Any) -> None:
    with pytest.raises(OutputError, match=r"write terms\.total\..* deepsup\.Criterion\(plan\)"):
        use(terms())


def test_what_no_tensor_has_is_a_usual_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'Terms' object has no attribute 'nonsense'"):
        terms().nonsense  # noqa: B018
