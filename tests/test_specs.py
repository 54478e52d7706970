"""Texts with options: what is read, and what is said about a text that is none."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import pytest

from deepsup import specs
from deepsup.errors import ConfigError, HeadError, MissingPackageError


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


def metals() -> specs.Registry[Any]:
    found: specs.Registry[Any] = specs.Registry("head", HeadError, dashes=True, hidden={"seen"})

    @found.register
    def raw_iron(
        *,
        grams: Annotated[float, specs.at_least(0)] = 1.0,
        share: Annotated[float, specs.BELOW_ONE] = 0.5,
        pure: Annotated[bool, specs.FLAG] = True,
        colour: Annotated[str, specs.one_of("grey", "red")] = "grey",
        free: object = None,
        seen: object = None,
    ) -> None: ...

    return found


def test_what_is_registered_is_known_by_its_name_and_read_with_its_options() -> None:
    found = metals()
    assert (list(found), len(found)) == (["raw-iron"], 1)
    assert found.read("raw-iron(grams=2, free=[1])") == ("raw-iron", {"grams": 2, "free": [1]})
    with pytest.raises(HeadError, match="head 'raw-iron' has no option 'seen'"):
        found.read("raw-iron(seen=1)")
    with pytest.raises(HeadError, match=r"no head is called 'raw_irn'\. Closest: raw-iron\."):
        found.read("raw_irn")


def test_a_name_is_given_once() -> None:
    def raw_iron() -> None: ...

    found = metals()
    found.register(found["raw-iron"])  # the very same may come again
    with pytest.raises(ValueError, match="two are registered as head 'raw-iron'"):
        found.register(raw_iron)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("grams=-1", "grams to be a number of at least 0; found -1"),
        ("grams=True", "grams to be a number of at least 0; found True"),
        ("share=1", r"share to be a number in \[0, 1\); found 1"),
        ("pure=1", "pure to be True or False; found 1"),
        ("colour='blue'", "colour to be 'grey' or 'red'; found 'blue'"),
    ],
)
def test_an_option_is_held_against_its_limit(option: str, says: str) -> None:
    with pytest.raises(HeadError, match=f"head 'raw-iron' needs {says}"):
        metals().read(f"raw-iron({option})")


def test_a_new_file_of_a_room_is_found_by_being_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = tmp_path / "a_room_of_its_own"
    room.mkdir()
    for name, text in (("__init__", ""), ("first", "LOADED = True"), ("broken", "1 / 0")):
        (room / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    package = importlib.import_module(room.name)
    specs.import_all(package, but=("broken",))
    assert package.first.LOADED
    with pytest.raises(ZeroDivisionError):
        specs.import_all(package)


def test_a_package_that_is_not_there_is_asked_for() -> None:
    assert specs.require("json", purpose="this").dumps([1]) == "[1]"
    with pytest.raises(MissingPackageError, match=r"this needs the package nowhere_to_be_found.*pip install \"it\""):
        specs.require("nowhere_to_be_found.inside", purpose="this", install="it")


def test_the_names_most_like_one() -> None:
    assert specs.closest("miou", ["mean IoU", "accuracy", "m_iou"]) == " Closest: m_iou."
    assert specs.closest("nothing", ["kl", "hint"], cutoff=0.9) == ""
    assert specs.closest(True, ["true"]) == " Closest: true."  # type: ignore[arg-type]
    assert specs.alike("conv", ["conv1", "conv2", "fc"], most=2) == ["conv2", "conv1"]


def test_true_is_no_number() -> None:
    assert [specs.is_number(v) for v in (1, 0.5, True, float("nan"), float("inf"), "1", None)] == [
        True,
        True,
        *[False] * 5,
    ]


def test_things_are_counted_in_words() -> None:
    assert [specs.counted(n, "epoch") for n in (0, 1, 2)] == ["0 epochs", "1 epoch", "2 epochs"]
    assert specs.counted(2, "branch", "branches") == "2 branches"
