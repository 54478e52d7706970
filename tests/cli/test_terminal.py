"""What is printed stays as it is written."""

from __future__ import annotations

from pathlib import Path

from tests.support.command_line import call, wide  # noqa: F401  (the fixture widens the terminal)

QUICK = ["model=deepsup:plain-6", "epochs=1", "data.limit=64", "engine.threads=1"]


def test_names_with_brackets_and_colons_are_printed_as_they_are(tmp_path: Path) -> None:
    run = tmp_path / "[/red] :warning: [bold]"
    words = [*QUICK, "supervise.at=[relu2]", f"output='{run}'", "name='[/x] [red]n'"]
    assert str(run) in call("train", *words).replace("\n", "")
    assert str(run) in call("train", *words, "--dry-run")
    assert "finished already" in call("train", *words)
    assert str(run) in call("strip", str(run), "--verify").replace("\n", "")
    assert str(run) in call("report", str(run), "--picture", str(run / "p.png")).replace("\n", "")
    plan = ["plan", "deepsup:plain-12", "--at", "relu3", "--size", "16", "--save", str(run / "p.json")]
    assert str(run) in call(*plan).replace("\n", "")
