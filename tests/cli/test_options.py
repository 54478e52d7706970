"""Options that several commands take."""

from __future__ import annotations

import pytest

from tests.support.command_line import call, wide  # noqa: F401  (the fixture widens the terminal)


@pytest.mark.parametrize(
    ("option", "verbs"),
    [
        ("--trust", ("probe", "doctor", "train", "compare", "predict", "strip")),
        ("--dry-run", ("train", "compare")),
        ("--channels", ("layers", "plan", "doctor")),
    ],
)
def test_commands_that_share_an_option_say_the_same_of_it(option: str, verbs: tuple[str, ...]) -> None:
    said = {" ".join(call(verb, "--help").partition(option)[2].partition("--")[0].split()) for verb in verbs}
    assert len({words[:40] for words in said}) == 1
    assert "" not in said
