"""Texts with options: what is read, and what is said about a text that is none."""

from __future__ import annotations

from typing import Any

import pytest

from deepsup import specs
from deepsup.errors import ConfigError, HeadError


def plain(feature: object, classes: int) -> None: ...


def rich(feature: object, *, width: int = 64, blocks: object = None, model: object = None) -> None: ...


KNOWN = {"plain": plain, "rich": rich, "two-words": rich}


def read(text: object) -> tuple[str, dict[str, object]]:
    return specs.read(text, KNOWN, "method", ConfigError, hidden={"model"})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("plain", ("plain", {})),
        ("  plain ", ("plain", {})),
        ("plain()", ("plain", {})),
        ("rich(width=256)", ("rich", {"width": 256})),
        ("rich (width = -1.5)", ("rich", {"width": -1.5})),
        ("rich(\n  width='a b',\n)", ("rich", {"width": "a b"})),
        ("rich(blocks=[[5, 3], [5]], width=None)", ("rich", {"blocks": [[5, 3], [5]], "width": None})),
        ("rich(blocks={'a': (1, True)})", ("rich", {"blocks": {"a": (1, True)}})),
        ("two-words", ("two-words", {})),
        ("two-words(width=3)", ("two-words", {"width": 3})),
    ],
)
def test_a_name_and_its_options_are_read(text: str, found: tuple[str, dict[str, Any]]) -> None:
    name, options = read(text)
    assert (name, options) == found
    assert list(options) == list(found[1])  # in the order in which they are written
    assert read(specs.show_call(name, options)) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plan", "no method is called 'plan'. Closest: plain. Methods: plain, rich, two-words."),
        ("two_words(width=3)", "no method is called 'two_words(width=3)'. Closest: two-words. Methods: plain,"),
        ("Two Words", "no method is called 'Two Words'. Closest: two-words. Methods: plain,"),
        ("ramp", "no method is called 'ramp'. Methods: plain, rich, two-words."),
        ("qqq", "no method is called 'qqq'. Methods: plain, rich, two-words."),
        ("", "no method is called ''. Methods:"),
        ("rich(", "no method is called 'rich('. Closest: rich. Methods:"),
        ("rich)(", "no method is called 'rich)('. Closest: rich. Methods:"),
        ("rich()()", "no method is called 'rich()()'. Closest: rich. Methods:"),
        ("rich() + rich()", "no method is called 'rich() + rich()'."),
        ("rich(width=1)(width=1)", "no method is called 'rich(width=1)(width=1)'."),
        ("a.rich(width=1)", "no method is called 'a.rich(width=1)'."),
        ("(lambda: 0)()", "no method is called '(lambda: 0)()'."),
        ("rich(64)", "no method is called 'rich(64)'. Closest: rich. Options are written by name: option=value."),
        (None, "no method is called None. Methods:"),
        (["rich"], "no method is called ['rich']. Methods:"),
        ("plain(width=3)", "method 'plain' has no option 'width'. Options: none."),
        ("rich(widht=3)", "method 'rich' has no option 'widht'. Options: width, blocks. Closest: width."),
        ("rich(feature=3)", "method 'rich' has no option 'feature'. Options: width, blocks."),
        ("rich(model=3)", "method 'rich' has no option 'model'. Options: width, blocks."),
        ("rich(**{'width': 3})", "method 'rich' has no option None. Options: width, blocks."),
        ("rich(width=1, width=2)", "method 'rich(width=1, width=2)' gives the option 'width' twice. Write it once."),
        (
            "rich(width=x)",
            "method 'rich(width=x)' has an option that is no plain value. Write numbers, or texts in quotes.",
        ),
        ("rich(width=__import__('os').getpid())", "method \"rich(width=__import__('os').getpid())\" has an option that"),
        ("rich(blocks={[1]: 2})", "method 'rich(blocks={[1]: 2})' has an option that is no plain value."),
    ],
)  # fmt: skip
def test_a_text_that_names_nothing_is_told_what_there_is(text: object, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("text", ["rich(" * 300 + ")" * 300, "rich(width=" + "[" * 5000 + "]" * 5000 + ")", "ri\0ch()"])
def test_a_text_that_python_itself_cannot_parse_is_refused_too(text: str) -> None:
    with pytest.raises(ConfigError, match="rich"):
        read(text)


@pytest.mark.parametrize(
    ("kind", "ends"),
    [
        ("loss", "Losses: plain, rich, two-words; or pass a function."),
        ("head", "Heads: auto, plain, rich, two-words; or pass your own module."),
        ("method", "Methods: plain, rich, two-words."),
    ],
)
def test_each_kind_lists_what_may_be_passed_and_raises_its_error(kind: Any, ends: str) -> None:
    with pytest.raises(HeadError) as caught:
        specs.read("zzz", KNOWN, kind, HeadError)
    assert str(caught.value) == f"no {kind} is called 'zzz'. {ends}"


def test_what_a_callable_takes_by_keyword_only_are_its_options() -> None:
    assert specs.options(rich) == ("width", "blocks", "model")
    assert specs.options(rich, hidden={"model", "width"}) == ("blocks",)
    assert specs.options(plain) == ()


def test_a_call_is_shown_as_it_is_read() -> None:
    assert specs.show_call("kl", {}) == "kl"
    assert specs.show_call("kl", {"temperature": 3, "squared": False}) == "kl(temperature=3, squared=False)"
    assert specs.show_call("squared_hinge", {"form": "one-vs-rest"}) == "squared_hinge(form='one-vs-rest')"
