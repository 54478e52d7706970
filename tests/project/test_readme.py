"""README and docs say what is true: code and commands run, printed outputs and figures are the real ones."""

from __future__ import annotations

import inspect
import io
import json
import re
import shlex
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from deepsup import errors
from tests.support.command_line import call, wide  # noqa: F401  (the fixture widens the terminal)

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_code_runs_and_prints_what_the_readme_shows() -> None:
    first, methods, maps, second = blocks("python")
    names: dict[str, object] = {}
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(first, "README.md", "exec"), names)
    assert printed.getvalue() == blocks("text")[0]
    with redirect_stdout(printed):
        exec(compile(methods, "README.md", "exec"), names)
    assert printed.getvalue() == blocks("text")[0] + blocks("text")[2]
    exec(compile(maps, "README.md", "exec"), names)
    (branch,) = names["net"].plan.branches  # type: ignore[attr-defined]
    assert (branch.layer, branch.weight(0.5)) == ("backbone.layer3", 0.4)
    assert all(p.grad is not None for p in names["net"].parameters())  # type: ignore[attr-defined]
    with redirect_stdout(printed):
        exec(compile(second, "README.md", "exec"), names)
    assert "no finding" in printed.getvalue()
    assert "in conflict" in printed.getvalue()


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (session,) = blocks("console")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    outputs = {}
    for line in session.splitlines():
        program, *words = shlex.split(line.removeprefix("$ "))
        assert program == "deepsup"
        outputs[words[0]] = call(*words)
    assert blocks("text")[1] in outputs["probe"]
    assert "no finding" in outputs["doctor"]
    assert "outputs identical" in outputs["strip"]
    assert (tmp_path / "runs/readme/report.html").exists()


def test_make_has_the_two_commands_and_ci_runs_the_suite() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test", "check"):
        assert re.search(rf"^{target}: ", makefile, flags=re.M)
    assert "deepsup compare examples/digits-comparison.yaml" in makefile
    assert {"make check", "make test"} <= set((ROOT / ".ci/run").read_text().splitlines())


def test_the_figures_in_the_caption_are_those_of_the_committed_comparison() -> None:
    result = json.loads((ROOT / "benchmarks/results/digits-comparison/compare.json").read_text())
    text = " ".join(README.split())
    groups = {g["name"]: g for g in result["groups"]}
    for arm in groups["sgd"]["arms"].values():
        assert f"{100 * arm['mean']:.1f} ± {100 * arm['std']:.1f} %" in text
    reached = {name: [e for e in arm["epochs_to_90"] if e] for name, arm in groups["sgd"]["arms"].items()}
    assert (reached["plain"], len(reached["supervised"])) == ([], 3)  # no rounding turns that into another verdict
    assert "reached with 0 of 3 seeds" in text
    assert "0 of 3 against 3 of 3" in text
    adam = groups["adam"]
    assert (
        f"{min(adam['arms']['supervised']['epochs_to_90'])} to {max(adam['arms']['supervised']['epochs_to_90'])} epochs"
        in text
    )
    late = [e for e in adam["arms"]["plain"]["epochs_to_90"] if e]
    assert f"takes {min(late)} to {max(late)} or never takes off" in text


def test_the_measured_ratios_are_those_of_the_committed_benchmark_and_within_their_limits() -> None:
    rows = json.loads((ROOT / "benchmarks/results/step_cost.json").read_text())["rows"]
    step, evaluation = rows["training step / by hand"], rows["eval forward / plain"]
    assert step["ratio"] <= step["limit"] == 1.03
    assert evaluation["ratio"] <= evaluation["limit"] == 1.01
    text = " ".join(README.split())
    assert f"takes {step['ratio']:.2f} of the same step" in text
    assert f"an evaluation {evaluation['ratio']:.2f} of the plain" in text


def test_the_readme_fits_one_reading() -> None:
    assert len(README.splitlines()) <= 150
    assert "make demo" in README.partition("```python")[0]  # the first screen installs, runs and shows


def test_the_page_of_a_step_names_files_that_exist() -> None:
    page = (ROOT / "docs/how-a-step-runs.md").read_text()
    named = set(re.findall(r"[a-z_]+(?:/[a-z_]+)*/[a-z_]+\.py", page))
    assert len(named) > 20
    assert [name for name in named if not (ROOT / "src/deepsup" / name).exists()] == []


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md", *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_error_has_its_place_in_troubleshooting() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs/troubleshooting.md").read_text(), flags=re.M)
    classes = [n for n, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, errors.DeepsupError)]
    assert sorted(headings) == sorted(set(classes) - {"DeepsupError"})


def test_the_projects_texts_name_no_place_outside_it() -> None:
    for page in [ROOT / "README.md", ROOT / "constraints.txt", ROOT / "Makefile", *ROOT.glob("docs/*.md")]:
        assert not re.search(r"/root/|/work/|/home/|file:///|index-url", page.read_text()), page.name
