"""Reports: what is read is what was written, what is shown is what was read, and the page needs no network."""

from __future__ import annotations

import gc
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepsup import reports
from deepsup.errors import ConfigError, MissingPackageError
from deepsup.training import run_folders
from tests.support.drawn_figures import texts
from tests.support.shown_reports import Page, shown
from tests.support.synthetic_journals import COMPARISON, NINE, conflicts, journal, older, write


def test_the_page_shows_what_the_journals_say(demo: Path, page: str) -> None:
    every = [row for row in Page(page).rows if row and row[1:2] in (["plain"], ["supervised"])]
    rows, costs = ([row for row in every if len(row) == n] for n in (8, 12))
    arms = [demo / group / arm for group in ("sgd", "adam") for arm in ("plain", "supervised")]
    for row, cost, folder in zip(rows, costs, arms, strict=True):
        texts = [(folder / f"seed{seed}" / "journal.jsonl").read_text() for seed in range(3)]
        ends = [json.loads(text.splitlines()[-1]) for text in texts]
        final = [100 * end["accuracy"] for end in ends]
        assert row[1] == folder.name
        assert row[3] == f"{statistics.fmean(final):.1f} ± {statistics.stdev(final):.1f}"
        assert cost[3] == f"{statistics.fmean(end['seconds'] for end in ends):.1f} s"
        assert cost[6] == ("1.9 MiB" if folder.name == "plain" else "2.9 MiB")


def test_the_page_loads_nothing(page: str) -> None:
    tags = Page(page).tags
    policy = next(attrs["content"] or "" for tag, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    assert not [attrs for _, attrs in tags if "src" in attrs or "srcset" in attrs]
    assert {tag for tag, attrs in tags if "href" in attrs} <= {"a", "link"}
    links = [attrs["href"] or "" for _, attrs in tags if "href" in attrs]
    assert sorted(links) == ["data:,", "sgd/supervised/seed0/certificate.json"]
    assert not re.search(r"https?:|url\([^#]|@import|<script|javascript:", page)
    assert {(attrs["xlink:href"] or "")[:1] for _, attrs in tags if "xlink:href" in attrs} == {"#"}
    assert len(page) < 1_500_000


def test_no_two_things_on_the_page_have_one_name(page: str) -> None:
    names = [attrs["id"] for _, attrs in Page(page).tags if "id" in attrs]
    assert len(names) == len(set(names))
    used = set(re.findall(r"url\(#([^)]*)\)", page)) | set(re.findall(r'xlink:href="#([^"]*)"', page))
    assert used <= set(names)


def test_figures_fit_any_screen_and_say_what_they_are(page: str) -> None:
    tags = Page(page).tags
    shown_at = [attrs["id"] for tag, attrs in tags if tag == "figure"]
    assert shown_at == [
        "gradients-0", "gradients-1", "profile-0", "score-0", "depth-0", "weights-0", "conflicts-0", "conflicts-1",
    ]  # fmt: skip
    assert all(attrs["aria-label"] for tag, attrs in tags if tag == "figure")
    drawings = [attrs for tag, attrs in tags if tag == "svg"]
    assert [attrs["class"] for attrs in drawings] == ["wide", "narrow"] * len(shown_at)
    assert not any("width" in attrs or "height" in attrs for attrs in drawings)


def test_the_page_says_everything_in_order(page: str) -> None:
    text = Page(page).text
    places = [
        "digits-demo", "deepsup report", "helps", "points of accuracy", "stated before the first run", "side by side",
        "What each arm cost", "What was checked before training", "Where branches belong, and why", "reach the first layers",
        "Gradient by depth", "Accuracy over epochs", "Accuracy over depth", "Weights over training",
        "Do the branches pull against the rest?",
        "What was attached",
        "linear(0.3, 0)", "all branches", "Strip certificate", "a1b2c3d4", "certificate.json", "come from",
        "deepsup compare demo.yaml", "0123abcd", "Configuration of",
    ]  # fmt: skip
    found = [text.find(place) for place in places]
    assert -1 not in found
    assert found == sorted(found)


def test_the_same_journals_give_the_same_page(demo: Path, page: str, tmp_path: Path) -> None:
    assert reports.render(demo) == page
    run = demo / "sgd" / "plain" / "seed0"
    assert reports.write_html(run, tmp_path) == tmp_path / "report.html"
    assert reports.write_html(run, tmp_path / "new" / "page.html").is_file()
    assert not list(tmp_path.rglob("*.part"))


def test_a_page_is_written_over_and_anybody_elses_file_is_not(demo: Path, tmp_path: Path) -> None:
    run, page = demo / "sgd/plain/seed0", tmp_path / "report.html"
    for _ in range(2):
        reports.write_html(run, page)
    whole = page.read_bytes()
    for changed in (b"mine", b"", whole.replace(b"deepsup", b"deeps up", 1), whole[:-1], whole + b"\n"):
        page.write_bytes(changed)
        with pytest.raises(ConfigError, match=r"report\.html is there already"):
            reports.write_html(run, page)
        assert page.read_bytes() == changed
    reports.write_html(run, page, overwrite=True)
    assert page.read_bytes() == whole
    page.unlink()
    page.symlink_to("nothing")
    with pytest.raises(ConfigError):
        reports.write_html(run, page)
    assert page.is_symlink()


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    records = journal("sgd", "supervised", 0, epochs=2)
    text = json.dumps(records).replace("conv3", "</svg><b onload=x>$").replace("supervised", "<i onload=x>")
    html = reports.render(write(tmp_path, json.loads(text)))
    assert "</svg><b" not in html
    assert not re.search(r"<[bi] onload", html)
    assert "&lt;/svg&gt;&lt;b onload=x&gt;$" in texts(html)


def test_a_single_run_has_a_page_without_a_verdict(demo: Path) -> None:
    html = Page(reports.render(demo / "sgd" / "supervised" / "seed0")).text
    assert "Finished, 12 epochs. Accuracy 97.1 %." in html
    assert "stated before the first run" not in html
    assert "34.6 k in branches while training" in html
    plain = Page(reports.render(demo / "sgd" / "plain" / "seed0")).text
    assert "Nothing was attached" in plain
    assert "No branch had a weight" in plain
    assert "No certificate was found" in plain


def test_a_comparison_under_way_says_so(tmp_path: Path) -> None:
    write(tmp_path / "sgd/plain/seed0", journal("sgd", "plain", 0))
    write(tmp_path / "sgd/plain/seed1", journal("sgd", "plain", 1, epochs=3, end=False), tail='{"kind":"epo')
    stopped = {"kind": "stop", "time": 0, "reason": "the loss of branch 'conv3' is nan.", "step": 45}
    write(tmp_path / "sgd/supervised/seed0", [*journal("sgd", "supervised", 0, epochs=1, end=False), stopped])
    write(tmp_path / "sgd/supervised/seed1", [], tail='{"kind":"sta')
    text = Page(reports.render(tmp_path)).text
    assert "There is no compare.json here yet" in text
    assert "sgd/plain/seed1 has not finished: its journal ends after epoch 3." in text
    assert "sgd/supervised/seed0 stopped after epoch 1: the loss of branch 'conv3' is nan." in text
    assert "runs finished: plain 1 of 2, supervised 0 of 1" in text
    listed = {"runs": ["sgd/plain/seed0", "sgd/plain/seed1", "sgd/plain/seed2"]}
    stated = {
        "format": 1,
        "name": "half",
        "groups": [{"name": "sgd", "arms": {"plain": listed, "supervised": {"runs": []}}}],
    }
    (tmp_path / "compare.json").write_text(json.dumps(stated))
    text = Page(reports.render(tmp_path)).text
    assert "Not started yet, or journal missing: sgd/plain/seed2." in text
    assert "plain 1 of 3" in text


def test_a_comparison_that_has_only_been_announced_has_a_page(demo: Path, tmp_path: Path) -> None:
    compare = json.loads((demo / "compare.json").read_text())
    for group in compare["groups"]:
        group["arms"] = {arm: {"runs": fields["runs"]} for arm, fields in group["arms"].items()}
        del group["verdicts"]
    (tmp_path / "compare.json").write_text(json.dumps(compare))
    text = Page(reports.render(tmp_path)).text
    assert "runs finished: plain 0 of 3, supervised 0 of 3" in text
    assert "No gradients were recorded" in text
    assert "No epoch has finished yet" in text
    for kind in ("gradients", "scores"):
        with pytest.raises(ConfigError, match=r"no gradients were recorded|no epoch has finished"):
            reports.picture(kind, tmp_path, tmp_path / "x.png")


@pytest.mark.parametrize(
    ("missing", "extra", "ask"),
    [
        ("matplotlib", "report", reports.render),
        ("jinja2", "report", reports.render),
        ("matplotlib", "report", lambda path: reports.picture("gradients", path, path / "x.png")),
        ("rich", "cli", lambda path: reports.comparison_table(COMPARISON)),
    ],
)
def test_a_missing_package_names_its_extra(
    missing: str, extra: str, ask: Callable[[Path], Any], demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [missing, *(name for name in sys.modules if name.startswith(f"{missing}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=rf'package {missing}, .*pip install "deepsup\[{extra}\]"'):
        ask(demo)


def test_a_conflict_without_numbers_is_told_and_not_drawn(tmp_path: Path) -> None:
    write(tmp_path, conflicts((10, 0.2, {"conv3": (None, None, None, None)})))
    html = reports.render(tmp_path)
    assert "In no step did both gradients meet" in Page(html).text
    assert 'id="conflicts-0"' not in html
    assert "in conflict" not in shown(reports.run_table(run_folders.run(tmp_path)))


NEW_SECTIONS = ("What was checked before training", "Where branches belong", "Do the branches pull", "before, without")


def test_journals_without_the_newer_records_have_the_page_they_had(demo: Path, tmp_path: Path) -> None:
    old = reports.render(write(tmp_path / "old", older(journal("sgd", "supervised", 0))))
    new = reports.render(demo / "sgd" / "supervised" / "seed0")
    for heading in NEW_SECTIONS:
        assert heading in new
        assert heading not in old
    for heading in ("Gradient by depth", "Accuracy over epochs", "What was attached"):
        assert heading in old


def test_seeds_are_spoken_of_only_where_there_are_several(demo: Path, page: str, tmp_path: Path) -> None:
    assert "mean over seeds, the shade" in " ".join(Page(page).text.split())
    assert "seeds" not in Page(reports.render(demo / "sgd" / "supervised" / "seed0")).text
    for arm in ("plain", "supervised"):
        write(tmp_path / "a" / arm / "seed0", journal("sgd", arm, 0, epochs=2))
    text = " ".join(Page(reports.render(tmp_path)).text.split())
    assert "Thick lines are the networks' own outputs, thin lines the branches." in text
    assert "the shade reaches" not in text


def test_the_page_explains_what_it_names(page: str) -> None:
    text = " ".join(Page(page).text.split())
    assert "CNDS, the paper that set branches against vanishing gradients" in text
    assert "above 1 the branch adds to what is asked, which is good: nothing is lost" in text
    assert "At the very start of training conflict and a large relative strength are normal" in text


def test_the_page_of_nine_arms_is_whole_and_in_order(many: Path) -> None:
    html = reports.render(many)
    page = Page(html)
    text = " ".join(page.text.split())
    found = [text.find(arm + " minus none") for arm in NINE[1:]]
    assert -1 not in found
    assert found == sorted(found)
    assert "How much each arm differs" in text
    assert "In words, arm by arm" in text
    rows = [row for row in page.rows if row and row[0] in NINE]
    assert [row[0] for row in rows if len(row) == 7] == NINE
    assert [row[0] for row in rows if len(row) == 11] == NINE
    for name in ("differences", "score", "depth", "profile", "weights", "gradients"):
        assert f'<figure id="{name}-0"' in html


def test_terms_between_outputs_are_shown_with_the_plan(demo: Path, tmp_path: Path) -> None:
    text = (demo / "sgd/supervised/seed0/journal.jsonl").read_text()
    start, *rest = text.splitlines()
    record = json.loads(start)
    edge = {"from": "conv3", "to": "main", "loss": "kl(temperature=3)", "weight": "1", "detach": True}
    record["plan"] |= {"edges": [edge], "main_loss": "squared_hinge"}
    (tmp_path / "journal.jsonl").write_text("\n".join([json.dumps(record), *rest]) + "\n")
    shown_text = " ".join(Page(reports.render(tmp_path)).text.split())
    assert (
        "own output is trained by squared_hinge. Outputs also learn from each other: conv3 <- main: kl(temperature=3)"
        in shown_text
    )
    assert "learn from each other" not in Page(reports.render(demo / "sgd/supervised/seed0")).text


def test_every_place_says_the_name_of_the_score(streets: Path) -> None:
    page = Page(reports.render(streets))
    text = " ".join(page.text.split())
    assert "accuracy" not in text.replace("pixel accuracy", "").lower()
    for words in (
        "points of mean IoU",
        "Mean IoU over epochs",
        "Mean IoU over depth",
        "Mean IoU is intersection over union",
    ):
        assert words in text
    html = reports.render(streets)
    for title in ("mean IoU on validation data", "points of mean IoU, minus 0", "mean IoU after the last epoch"):
        assert title in texts(html)
    assert "epochs to" not in text  # nobody got to 90 %
    found = reports.evidence(streets).compare
    assert "mean IoU %" in shown(reports.comparison_table(found))
    assert "mean IoU %" in shown(reports.depth_table(found))
    assert "points of mean IoU (95 % interval" in reports.verdict_lines(found)[0]


def test_of_more_than_two_arms_the_conflict_timelines_go_on_in_a_second_figure(tmp_path: Path) -> None:
    for arm in ("a", "b", "c"):
        records = journal("sgd", "supervised", 0, epochs=1)
        records[0]["arm"] = arm
        write(tmp_path / "sgd" / arm / "seed0", records)
    html = reports.render(tmp_path)
    assert [html.count(f'<figure id="conflicts-{i}"') for i in range(3)] == [1, 1, 0]


def test_a_page_is_drawn_while_the_collector_rests_and_leaves_it_as_it_was(demo: Path) -> None:
    run = demo / "sgd" / "plain" / "seed0"
    for was in (True, False):
        (gc.enable if was else gc.disable)()
        try:
            reports.render(run)
            assert gc.isenabled() is was
            with pytest.raises(ConfigError):
                reports.render(run / "nothing")
            assert gc.isenabled() is was
        finally:
            gc.enable()


def test_the_page_of_a_long_run_is_light_and_counts_every_step(tmp_path: Path) -> None:
    records = journal("sgd", "supervised", 0)
    kinds = {kind: next(r for r in records if r["kind"] == kind) for kind in ("step", "conflict")}
    n = 5000
    long = [kinds[k] | {"step": i, "progress": i / n} for i in range(1, n + 1) for k in kinds]
    kept = [record for record in records if record["kind"] not in kinds]
    html = reports.render(write(tmp_path, [*kept[:-1], *long, kept[-1]]))
    text = Page(html).text
    assert len(html) < 1_000_000
    assert text.count("Of long runs not all records are drawn: of the longest one in 17, and the last.") == 2
    assert f"of the {10 * n} steps in which both gradients reached the layer" in text
