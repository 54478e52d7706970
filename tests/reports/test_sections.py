"""What a run says in words: findings, placements, gains and pulls."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import pytest

from deepsup import reports
from deepsup.reports import curves, formats, sections
from deepsup.training import run_folders
from tests.support.shown_reports import Page
from tests.support.synthetic_journals import LAYERS, conflicts, journal, older, placement, write


@pytest.mark.parametrize(
    ("kept", "share", "says"),
    [
        (-0.2, 1.0, "turned what they asked for around"),
        (0.93, 0.5, "left 93 % of what they asked for"),
        (1.001, 0.5, "took nothing from them"),
        (
            1.4,
            0.0,
            "in none of the 10 steps in which both gradients reached the layer did the branch at conv3 pull against",
        ),
        (1.4, 0.0, "added 40 % to what they asked for"),
        (1.0, 0.001, "for under 1 % of the 10 steps in which both gradients reached the layer the branch"),
    ],
)
def test_what_a_branch_does_is_told_in_words(kept: float, share: float, says: str, tmp_path: Path) -> None:
    write(tmp_path, conflicts((10, 0.2, {"conv3": (0.5, 4.0, kept, share)})))
    (sentence,) = sections.pulls(reports.evidence(tmp_path))
    assert says in sentence[0].lower() + sentence[1:]


def test_cosines_at_the_parameters_are_told_where_they_were_sampled(tmp_path: Path) -> None:
    records = conflicts((10, 0.2, {"conv3": (0.5, 4.0, 3.0, 0.0)}), (10, 0.4, {"conv3": (0.5, 4.0, 3.0, 0.0)}))
    assert "At the parameters" not in sections.pulls(reports.evidence(write(tmp_path / "a", records)))[0]
    for record, cosine in zip(records[-2:], (-0.5, 0.1), strict=True):
        record["parameters"] = [{"step": record["step"], "conv3": {"cosine": cosine, "ratio": 2.0}}]
    told = sections.pulls(reports.evidence(write(tmp_path / "b", records)))[0]
    assert "looked at in 2 steps, the agreement was -0.20; there it pulled against the rest in 50 % of them." in told


def test_findings_are_shown_once_errors_first_and_none_is_said(demo: Path, tmp_path: Path, page: str) -> None:
    found = sections.findings(reports.evidence(demo))
    assert found is not None
    assert [(row["error"], row["where"]) for row in found["rows"]] == [(True, "labels"), (False, "conv6")]
    assert found["rows"][1]["owners"] == "sgd / supervised and adam / supervised"
    assert found["unchecked"] is None
    (row,) = [row for row in Page(page).rows if row and row[0].startswith("warning")]
    assert row[1] == "relu6 overwrites what conv6 gives out."  # a name keeps its case
    assert row[3] == "Tap the layer that follows, or set inplace=False there."
    plain = Page(reports.render(demo / "sgd" / "plain" / "seed0")).text
    assert "No finding in one batch before the first step." in plain
    write(tmp_path / "a/plain/seed0", journal("sgd", "plain", 0, epochs=1))
    write(tmp_path / "a/plain/seed1", older(journal("sgd", "plain", 1, epochs=1)))
    assert "Not checked: sgd/plain/seed1." in Page(reports.render(tmp_path)).text


def test_a_choice_of_layers_is_shown_with_its_reason(demo: Path) -> None:
    (choice,) = sections.placements(reports.evidence(demo))
    assert choice["owners"] == "sgd / supervised and adam / supervised"
    assert choice["reason"].startswith("The training signal fades")
    assert [place["layer"] for place in choice["shown"]][:4] == ["conv3", "conv6", "conv9", "conv1"]
    assert [place["chosen"] for place in choice["shown"]] == [True] * 3 + [False] * 5
    assert len(choice["shown"] + choice["hidden"]) == len(LAYERS) - 1
    others = [place["gradient"] for place in (choice["shown"] + choice["hidden"])[3:]]
    assert others == sorted(others)
    assert choice["shown"][0]["gradient"] == pytest.approx(placement()["gradients"]["conv3"])


@pytest.mark.parametrize(
    "probe", [None, {}, {"rows": None}, {"rows": "x"}, {"rows": [1, {"layer": "conv1", "tap": "conv1", "weight": [3]}]}]
)
def test_a_placement_is_read_without_a_probe_that_can_be_read(probe: Any, tmp_path: Path) -> None:
    records = journal("sgd", "supervised", 0, epochs=1)
    stated = next(r for r in records if r["kind"] == "placement")
    del stated["reason"]
    stated["probe"] = probe
    html = reports.render(write(tmp_path, records))
    text = Page(html).text
    assert "by the rule" in text
    assert "The reason:" not in text
    assert "Every place where a branch could go" not in text
    before = sections.before(run_folders.run(tmp_path))
    assert before is not None
    assert [g.layers for g in before.gradients] == [stated["gradients"]]
    assert "The steps before were made by the probe" not in text  # means alone are no timeline
    assert "before, without branches: the smallest mean gradient is 8.6e-9, in conv1" in text


def test_what_the_probe_saw_stands_beside_what_training_saw(demo: Path, tmp_path: Path) -> None:
    run = run_folders.run(demo / "sgd" / "supervised" / "seed0")
    before = sections.before(run)
    assert before is not None
    assert len(before.gradients) == 20
    assert curves.profile([before]).mean[0] == pytest.approx(placement()["gradients"]["conv1"])
    assert not curves.branch_layers([before])
    assert len(run.gradients) > 20
    as_many = dataclasses.replace(run, gradients=run.gradients[:20])
    gain = curves.profile([as_many]).mean[0] / curves.profile([before]).mean[0]
    text = " ".join(Page(reports.render(run.path)).text.split())
    assert f"gets {formats.strength(gain)} times that gradient" in text
    assert "over the first 20 iterations of each)." in text
    assert "the average over the first 20 iterations of each run for each layer" in text
    assert (
        f"The 20 steps before were made by the probe, with the loss at the end alone; the {len(run.gradients)} after"
        in text
    )
    records = journal("sgd", "supervised", 0, epochs=1)
    records[0]["plan"] = None  # the rule found nothing to supervise
    assert sections.before(run_folders.run(write(tmp_path, records))) is None


def test_a_comparison_says_what_the_weakest_layer_gains(demo: Path) -> None:
    found = reports.evidence(demo)
    sentences = sections.gradients(found.groups, {"sgd": "plain", "adam": "plain"})
    arms = [f"{group} / {arm}" for group in ("sgd", "adam") for arm in ("plain", "supervised")]
    assert [s.partition(":")[0] for s in sentences] == [*arms, "sgd / supervised", "adam / supervised"]
    by_hand = [statistics.fmean(g.layers["conv1"] for g in run.gradients) for run in found.groups["sgd"]["plain"]]
    smallest = formats.magnitude(statistics.fmean(by_hand))
    assert f"the smallest mean gradient is {smallest}, in conv1; 3 of 13 layers are under 1e-7." in sentences[0]
    assert "conv1, the weakest layer of “plain”, gets 4" in sentences[4]
    assert not any("gets" in sentence for sentence in sections.gradients(found.groups, {"sgd": None}))
