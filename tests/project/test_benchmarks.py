"""What the committed results say is what the texts claim."""

from __future__ import annotations

import json
import runpy
import statistics
from pathlib import Path
from typing import Any

import pytest

from deepsup.comparisons.results import judge
from deepsup.methods import METHODS
from deepsup.reports.summary import baseline, evidence, judged

ROOT = Path(__file__).parents[2]


def rows(name: str) -> dict[str, dict[str, Any]]:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())["rows"]


def test_every_rule_did_to_the_measured_conflict_what_its_formula_says() -> None:
    found = rows("conflict_rules")
    assert {"add", "scale(0.5)", "detach", "warmup(0.5)", "project", "pcgrad", "mgda", "equilibrium"} <= set(found)
    for branch in ("stage1", "stage2"):
        by_rule = {rule: row["branches"][branch] for rule, row in found.items()}
        assert by_rule["add"]["kept_lowest"] < 1
        assert by_rule["project"]["kept_lowest"] >= 0.999
        assert by_rule["detach"]["kept_lowest"] == pytest.approx(1, abs=1e-3)
        assert by_rule["detach"]["kept"] == pytest.approx(1, abs=1e-3)
        assert 0 < by_rule["mgda"]["kept_lowest"] < by_rule["mgda"]["kept"] < 1
        assert by_rule["scale(0.5)"]["kept_lowest"] > by_rule["add"]["kept_lowest"] - 0.05


def test_the_card_of_dlb_says_what_one_forward_was_measured_to_change() -> None:
    found = rows("dlb_forwards").values()
    away = sorted(round(100 * row["difference"]) for row in found)
    cosine = sorted(f"{row['cosine']:.2f}" for row in found)
    said = f"{away[0]} to {away[-1]} % of its length away, at a cosine of {cosine[0]} to {cosine[-1]}"
    assert said in METHODS["dlb"].deviations


def test_methods_train_with_their_defaults_on_the_networks_that_they_were_made_for() -> None:
    sweep = runpy.run_path(str(ROOT / "benchmarks/defaults_sweep.py"))
    networks, found = sweep["NETWORKS"], rows("defaults_sweep")
    assert {*networks, *sweep["LEFT_OUT"]} == set(METHODS)
    expected = [f"{method} on {model}" for method, models in networks.items() for model in models]
    assert set(found) <= set(expected)
    assert {name for name in expected if name.startswith("dsn")} <= set(found)
    for name, row in found.items():
        assert row["finite"], name
        assert row["last"] < 2 * row["first"], name
    readme = (ROOT / "benchmarks/README.md").read_text()
    assert f"{len(found)} of {len(expected)} rows" in readme


def test_the_table_in_the_log_is_the_committed_one() -> None:
    log = (ROOT / "docs/log.md").read_text()
    for rule, row in rows("conflict_rules").items():
        if rule.startswith("scale(linear"):
            continue
        b = row["branches"]["stage1"]
        line = next(line for line in log.splitlines() if line.startswith(f"| {rule} |"))
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        accuracy = sum(row["accuracy"]) / len(row["accuracy"])
        assert cells[1:] == [
            f"{b['in_conflict']:.0%}".replace("%", " %"),
            f"{b['ratio']:.2f}",
            f"{b['kept']:.2f}",
            f"{b['kept_lowest']:.2f}",
            f"{b['steps_kept_below_1']:.0%}".replace("%", " %"),
            f"{accuracy:.3f}",
        ], rule


def test_scores_of_a_search_cost_what_the_page_says() -> None:
    found = rows("search_scores")
    page = " ".join((ROOT / "docs/reidentification.md").read_text().split())
    narrow, wide = found["scores, 384 wide"], found["scores, 2048 wide"]
    assert narrow["of interpreted"]["ratio"] <= 1 / 25
    assert all(row["of compiled"]["ratio"] <= 1 and row["resident_mib"]["ours"] <= 64 for row in (narrow, wide))
    of = [row[other]["ratio"] for row in (narrow, wide) for other in ("of compiled", "of interpreted")]
    assert "{:.2f} of the same rule in C and {:.3f} of the rule with a Python loop".format(*of[:2]) in page
    assert "{:.2f} and {:.3f} for 2,048".format(*of[2:]) in page
    assert "{:.0f} and {:.0f} MiB".format(*(row["resident_mib"]["ours"] for row in (narrow, wide))) in page
    again = found["re-ranking, every second image"]
    assert again["largest_difference"] <= 1e-5
    assert again["resident_mib"]["our re-ranking"] <= again["resident_mib"]["dense re-ranking"] / 10
    assert f"it takes {again['ratio']:.2f} |" in (ROOT / "benchmarks/README.md").read_text()


def test_the_figures_of_the_example_of_identities_are_the_committed_ones() -> None:
    journal = (ROOT / "benchmarks/results/identities/journal.jsonl").read_text().splitlines()
    scores = [r for r in map(json.loads, journal) if r["kind"] == "epoch"][-1]["validation"]["scores"]
    main, both = ([f"{100 * scores[name][m]:.0f} %" for m in ("mAP", "rank-1")] for name in ("main", "ensemble"))
    said = " ".join((ROOT / "examples/identities.yaml").read_text().replace("#", "").split())
    assert f"mAP {main[0]} and rank-1 {main[1]} of main, {both[0]} and {both[1]} of the ensemble" in said


def test_looking_at_gradients_costs_what_the_page_says() -> None:
    found = rows("diagnostics_cost")
    page = (ROOT / "docs/gradients.md").read_text()
    for name, row in found.items():
        assert f"| {name} | {row['ratio']:.2f} |" in page, name


@pytest.mark.parametrize(
    "name", [p.parent.name for p in sorted((ROOT / "benchmarks/results").glob("cifar100-*/compare.json"))]
)
def test_the_methods_in_the_log_are_the_committed_ones(name: str) -> None:
    result = json.loads((ROOT / f"benchmarks/results/{name}/compare.json").read_text())
    (group,) = result["groups"]
    assert result["complete"]
    section = (ROOT / "docs/log.md").read_text().partition(f"benchmarks/results/{name}`")[2].partition("\n## ")[0]
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| ")]
    told = {cells[0]: cells[1:] for cells in lines[1:]}
    assert list(told) == list(group["arms"])
    for arm, row in group["arms"].items():
        journals = [ROOT / f"benchmarks/results/{name}/{run}/journal.jsonl" for run in row["runs"]]
        ends = [json.loads(j.read_text().splitlines()[-1]) for j in journals]
        assert [end.get("score", end.get("accuracy")) for end in ends] == row["final"]
        assert told[arm][0] == f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}"
        assert told[arm][-1] == str(row["epochs"][0])
        if (judged := group["verdicts"].get(arm)) is not None:
            assert told[arm][1] == f"{100 * judged['mean_difference']:+.1f}"
            assert told[arm][2] == f"{100 * judged['ci_low']:+.1f} to {100 * judged['ci_high']:+.1f}"
            assert told[arm][3] == judged["verdict"]


@pytest.mark.parametrize(
    ("name", "columns"),
    [("drive-unet", ["ROC-AUC", "F1", "Jaccard"]), ("camvid-weights", ["mean IoU", "pixel accuracy"])],
)
def test_the_maps_in_the_log_are_the_committed_ones(name: str, columns: list[str]) -> None:
    result = json.loads((ROOT / f"benchmarks/results/{name}/compare.json").read_text())
    assert result["complete"]
    section = (ROOT / "docs/log.md").read_text().partition(f"benchmarks/results/{name}`")[2].partition("\n## ")[0]
    told = [[c.strip() for c in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| ")]
    assert told[0][2 : 2 + len(columns)] == [f"{column}, %" for column in columns]
    arms = [(group, arm) for group in result["groups"] for arm in group["arms"]]
    assert [(row[0], row[1]) for row in told[1:]] == [(group["name"], arm) for group, arm in arms]
    for (group, arm), row in zip(arms, told[1:], strict=True):
        runs = group["arms"][arm]["runs"]
        journals = [(ROOT / f"benchmarks/results/{name}/{run}/journal.jsonl").read_text().splitlines() for run in runs]
        assert [json.loads(lines[-1])["score"] for lines in journals] == group["arms"][arm]["final"]
        epochs = [[json.loads(line) for line in lines if '"kind": "epoch"' in line][-1] for lines in journals]
        for place, column in enumerate(columns):
            values = [100 * epoch["validation"]["scores"]["main"][column] for epoch in epochs]
            assert row[2 + place] == f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
        if (judged := group["verdicts"].get(arm)) is not None:
            assert row[-3] == f"{100 * judged['mean_difference']:+.2f}"
            assert row[-2] == f"{100 * judged['ci_low']:+.2f} to {100 * judged['ci_high']:+.2f}"
            assert row[-1] == judged["verdict"]


def test_the_dense_loss_is_told_as_it_was_measured() -> None:
    rows = json.loads((ROOT / "benchmarks/results/dense_loss.json").read_text())["rows"]
    page = (ROOT / "docs/segmentation.md").read_text()
    for name, row in rows.items():
        what, threads = name.split(", ")
        told = f"| {what} | {threads.split()[0]} | {row['ratio']:.2f} | {row['memory_mib']['ratio']:.3f} |"
        assert told in page
        if "4x150x60x60" in name:  # what the README says: a fifth of the time, a fiftieth of the memory
            assert row["ratio"] <= 0.2
            assert row["memory_mib"]["ratio"] <= 0.0215


def test_the_log_and_the_readme_claim_what_stands_by_the_rule_of_today() -> None:
    told = (ROOT / "docs/log.md").read_text().partition("judged again: of six")[2].partition("\n## ")[0]
    listed = [[c.strip() for c in line.strip("|").split("|")] for line in told.splitlines() if line.startswith("| ")][
        1:
    ]
    found, stands = [], {}
    for file in sorted((ROOT / "benchmarks/results").glob("*/compare.json")):
        groups = [{**g, "baseline": baseline(g)} for g in evidence(file.parent).compare["groups"]]
        for before, now in zip(groups, judge(groups, confidence=0.95, correction="holm"), strict=True):
            for arm, new in now["verdicts"].items():
                was = judged(before)[arm]
                old, name = was["verdict"], arm if len(groups) == 1 else f"{now['name']}/{arm}"
                stands[file.parent.name, name] = new
                if was.get("confidence") == new["confidence"] and old == new["verdict"]:
                    continue  # judged by this rule from the beginning
                if "no evidence" not in (old, new["verdict"]) or old != new["verdict"]:
                    low, high = (f"{100 * new[end]:+.2f}" for end in ("ci_low", "ci_high"))
                    span = f"{low} to {high} ({100 * new['confidence']:.4g} %)"
                    points, p = f"{100 * new['mean_difference']:+.2f}", f"{new['p']:.4f}"
                    found.append([file.parent.name, name, points, old, new["verdict"], span, p])
    assert sorted(listed) == sorted(found)
    readme = " ".join((ROOT / "README.md").read_text().split())
    methods = [v for (comparison, _), v in stands.items() if comparison == "cifar100-methods"]
    assert [v["verdict"] for v in methods] == ["no evidence"] * 10
    assert "none stands against the plain network after three seeds" in readme
    most = max(
        (v for (comparison, _), v in stands.items() if comparison == "cifar100-methods"),
        key=lambda v: v["mean_difference"],
    )
    assert (most["candidate"], f"{100 * most['mean_difference']:+.1f}") == ("equal-compute", "+7.3")
    assert "the largest difference, +7.3 points, was that of spending DKS's compute on more epochs" in readme
    digits = stands["digits-comparison", "sgd/supervised"]
    low, high = (f"+{100 * digits[end]:.1f}" for end in ("ci_low", "ci_high"))
    span = f"{100 * digits['confidence']:.4g} % interval {low} to {high}"
    assert f"+{100 * digits['mean_difference']:.1f} points, {span}" in readme
    assert stands["digits-comparison", "adam/supervised"]["verdict"] == "no evidence"


def test_no_model_of_transformers_has_another_loss_in_silence_and_the_table_counts_them() -> None:
    found = rows("transformers_losses")
    outcomes = [row["outcome"] for row in found.values()]
    assert set(outcomes) == {"equal", "refused", "no loss", "no labels", "not built"}
    page = (ROOT / "docs/predictions.md").read_text()
    counts = " | ".join(str(outcomes.count(name)) for name in ("equal", "refused", "no loss", "no labels", "not built"))
    assert f"| all | {counts} |" in page
    assert f"{len(found):,} of" in page
