"""What the doctor says: lines, order, and errors turned into findings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deepsup.doctor.findings import TRAPS, Finding, diagnosis, from_error, warning
from deepsup.errors import LayerReusedError, UnknownLayerError


def test_a_finding_prints_what_where_why_and_fix_in_one_line() -> None:
    one = TRAPS["reused-layer"].found("layer 'relu'", "it ran\n  twice.")
    assert str(one) == (
        "error: layer 'relu': it ran twice. It gives several outputs in one forward, and nothing says which one a branch "
        "should read. Fix: Name the call, at=['LAYER#2'] say, or choose the block around it. [reused-layer]"
    )
    assert one.to_dict() == dict(
        zip(("code", "severity", "where", "what", "why", "fix"), vars(one).values(), strict=True)
    )


def test_a_diagnosis_counts_and_puts_errors_first_without_repeating_any() -> None:
    late = TRAPS["dear-branch"].found("branch 'a'", "it is dear")
    bad = TRAPS["foreign-plan"].found("plan", "it is another's")
    found = diagnosis([late, bad, bad, TRAPS["side-path"].found("branch 'b'", "it leads nowhere")], "nothing")
    assert found.codes == ("foreign-plan", "dear-branch", "side-path")
    assert (len(found.errors), len(found.warnings), len(found)) == (1, 2, 3)
    assert str(found).splitlines()[-1] == "1 error, 2 warnings"
    assert len(str(found).splitlines()) == 4
    assert json.loads(json.dumps(found.to_dict()))[1] == late.to_dict()
    assert Finding(**found.to_dict()[0]) == bad


def test_no_finding_says_what_was_looked_at() -> None:
    assert str(diagnosis([], "all is well with layer1")) == "no finding: all is well with layer1"
    assert not diagnosis([], "")


def test_an_error_becomes_a_finding_whose_last_sentences_are_the_fix() -> None:
    error = UnknownLayerError("no layer matches 'a.b' in Net. Closest: a.c. List all 3 with: deepsup layers MODEL")
    found = from_error(error, "layer 'a.b'")
    assert (found.code, found.what) == ("unknown-layer", "no layer matches 'a.b' in Net")
    assert found.fix == "Closest: a.c. List all 3 with: deepsup layers MODEL"
    assert from_error(LayerReusedError("it ran twice"), "x").fix == TRAPS["reused-layer"].fix
    assert from_error(ValueError("v"), "x", trap=TRAPS["loss-failed"]).what == "ValueError: v"


def test_every_trap_is_written_as_sentences_without_their_full_stop() -> None:
    for code, trap in TRAPS.items():
        assert trap.severity in ("error", "warning"), code
        for text in (trap.why, trap.fix):
            assert text[0].isupper(), (code, text)
            assert not text.endswith("."), (code, text)


def test_the_documentation_explains_every_code() -> None:
    text = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()
    assert sorted(line[3:] for line in text.splitlines() if line.startswith("## ")) == sorted(TRAPS)


def test_a_code_is_registered_once() -> None:
    with pytest.raises(ValueError, match="two traps are registered as 'side-path'"):
        warning("side-path", why="Another", fix="None")
