"""What compare.json says of a comparison: what the journals say, what else differs between the arms, and the verdicts."""

from __future__ import annotations

import io
import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from deepsup import reports
from deepsup.cli import tables
from deepsup.cli.progress import Display
from deepsup.comparisons import results
from deepsup.comparisons.compare import compare
from deepsup.comparisons.detectable import lacking
from deepsup.comparisons.results import time_side_by_side
from deepsup.comparisons.statistics import compared, verdict
from deepsup.settings import configs
from deepsup.tasks.classification import answers
from deepsup.training.journal import read
from tests.support.tiny_comparisons import Finished, several


def test_the_result_is_what_the_journals_say(finished: Finished):
    assert json.loads((finished.folder / "compare.json").read_text()) == finished.result
    assert finished.result["complete"] is True
    for group in finished.result["groups"]:
        for arm, found in group["arms"].items():
            ends = [read(finished.folder / run / "journal.jsonl", "end")[0] for run in found["runs"]]
            start = read(finished.folder / found["runs"][0] / "journal.jsonl", "start")[0]
            assert found["final"] == [end["score"] for end in ends]
            assert found["mean"] == pytest.approx(statistics.fmean(found["final"]))
            assert found["std"] == pytest.approx(statistics.stdev(found["final"]))
            assert found["seconds"] == [end["seconds"] for end in ends]
            cost = start["cost"]
            assert found["train_flops"] == cost["trunk_flops"] + cost["head_flops"]
            assert (found["train_params"] > found["inference_params"]) == (arm == "aux")
            assert found["inference_ms"] > 0
            assert (start["group"], start["arm"]) == (group["name"], arm)
        plain, aux = (group["arms"][arm] for arm in ("plain", "aux"))
        assert plain["inference_params"] == aux["inference_params"]
        assert plain["inference_flops"] == aux["inference_flops"]
        assert (
            plain["images"] == aux["images"] == read(finished.folder / plain["runs"][0] / "journal.jsonl")[0]["images"]
        )
        measured = aux["image_variance"]
        right = [answers(finished.folder / run) for run in (plain["runs"][0], aux["runs"][0])]
        assert right[0] is not None
        assert right[1] is not None
        assert float(right[1].double().mean()) == pytest.approx(aux["final"][0])
        assert measured[0] == pytest.approx(float((right[1].double() - right[0].double()).var()))
        apart = compared(plain["final"], aux["final"], images=plain["images"], variance=measured[-1])
        expected = apart.verdict(1 - 0.05 / 2)
        others = [g["verdicts"]["aux"]["p"] for g in finished.result["groups"] if g is not group]
        assert all(expected.p > 0.05 or p > 0.05 for p in others)  # so that no interval may be narrower
        lacks = lacking(apart, expected, expected.confidence, names=("plain", "aux"))
        own = expected._asdict() | lacks
        assert group["verdicts"] == {"aux": {**own, "baseline": "plain", "candidate": "aux"}}
        assert group["baseline"] == "plain"


def test_every_supervised_run_has_its_certificate(finished: Finished):
    listed = finished.result["certificates"]
    assert [c["run"] for c in listed] == ["adam/aux/seed0", "sgd/aux/seed0", "adam/aux/seed1", "sgd/aux/seed1"]
    for entry in listed:
        proof = json.loads((finished.folder / entry["path"]).read_text())
        assert entry["identical"] is proof["identical"] is True
        assert entry["state_sha256"] == proof["state_sha256"]


def test_pairs_start_from_the_same_weights_and_see_the_same_batches(finished: Finished):
    for seed in (0, 1):
        first = {
            arm: read(finished.folder / "adam" / arm / f"seed{seed}" / "journal.jsonl", "step")[0]["parts"]["main"]
            for arm in ("plain", "aux")
        }
        assert first["plain"] == first["aux"]


DIFFERS = (
    "The main output's loss differs between the arms{} ({}), and a difference in score may come from that. Set base.loss to "
    "give all of them the same."
)


DICE = "dice_cross_entropy(resize='nearest', background=False, absent=True)"
SMALL = "cross_entropy(resize='nearest')"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"methods": ["none", "nnunet"]}, ("", f"none: cross_entropy; nnunet: {DICE}")),
        ({"methods": ["none", "c1-deepsup", "aux", "ppm-deepsup"]},
         ("", f"none, aux: cross_entropy; c1-deepsup, ppm-deepsup: {SMALL}")),
        ({"methods": ["none", "nnunet"], "groups": {"a": {"loss": "dice"}, "b": {}}},
         (" of b", f"none: cross_entropy; nnunet: {DICE}")),
        ({"methods": ["none", "nnunet"], "groups": {"a": {}, "b": {}}}, ("", f"none: cross_entropy; nnunet: {DICE}")),
        ({"methods": ["none", "nnunet"], "base": {"loss": "dice"}}, None),
        ({"methods": ["none", "dhm", "label-smoothing(smoothing=0.2)"]}, None),
        ({"methods": ["label-smoothing", "dsn"], "baseline": "dsn", "base": {"optimizer": {"lr": 0.02}}}, None),
        ({"vary": {"loss": ["dice", "cross_entropy"]}}, None),
    ],
)  # fmt: skip
def test_what_else_differs_between_the_arms_is_said(settings: dict[str, Any], told: tuple[str, str] | None):
    assert results.notes(configs.parse(settings)) == ([DIFFERS.format(*told)] if told else [])


def test_a_rate_that_a_method_brings_is_said() -> None:
    told = (
        "Arm dsn: SGD's rate is 0.002 (of C classes, more than 10: 10 / C of it), its method's own, since none is set. "
        "Set base.optimizer.lr to give all arms one."
    )
    assert results.notes(configs.parse({"methods": ["none", "dsn"]}))[-1] == told
    for optimizer in ({"lr": 0.1}, {"name": "adam"}):
        assert told not in results.notes(configs.parse({"methods": ["none", "dsn"], "base": {"optimizer": optimizer}}))


def test_what_else_differs_is_said_before_anything_runs_and_with_the_result(tmp_path: Path):
    described = several(tmp_path, methods={"none": None, "dsn": {"at": ["relu1"]}}, arms={})
    events: list[dict[str, Any]] = []

    def stop(event: dict[str, Any]) -> None:
        events.append(event)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(described, on_event=stop)
    note = DIFFERS.format("", "none: cross_entropy; dsn: squared_hinge")
    stated = json.loads((tmp_path / "compare.json").read_text())
    assert stated["notes"] == events[0]["notes"] == [note]
    assert not any(tmp_path.glob("*/*/*/journal.jsonl"))
    assert reports.evidence(tmp_path).notes[0] == note
    shown = Console(file=io.StringIO(), width=300)
    with Display(shown) as display:
        display.see(events[0])
    result = results.summarise(described, stated)
    shown.print(*tables.comparison(result))
    assert "no evidence (losses differ). no pair of runs has finished" in shown.file.getvalue()  # type: ignore[attr-defined]
    same = results.summarise(several(tmp_path), stated)
    assert "losses differ" not in " ".join(reports.verdict_lines(same))
    assert shown.file.getvalue().count(f"note: {note}") == 1  # type: ignore[attr-defined]


def arm(name: str, final: list[float | None], *diverged: int, images: int | None = 1000) -> dict[str, Any]:
    runs = [f"all/{name}/seed{seed}" for seed in range(3, 3 + len(final))]
    return {"runs": runs, "final": final, "diverged": [runs[i] for i in diverged], "images": images}


def test_a_candidate_is_judged_by_the_seeds_that_it_shares_with_the_baseline():
    arms = {
        "none": arm("none", [0.1, 0.2, 0.3, None]),
        "aux": arm("aux", [0.2, None, 0.5, 0.9], images=500),
        "wide": arm("wide", [None] * 4),
    }
    group = {"name": "all", "baseline": "none", "arms": arms}
    (judged,) = results.judge([group], confidence=0.95, correction="bonferroni")
    expected = verdict([0.1, 0.3], [0.2, 0.5], confidence=1 - 0.05 / 2, images=500)
    remarks = [
        "none has no result yet with seed 6, which is left out",
        "aux has no result yet with seed 4, which is left out",
    ]
    found = judged["verdicts"]["aux"]
    remarks.append(
        "aux minus none: about 6 seeds would show a difference of this size four times in five on these images"
    )
    assert found == {
        **expected._asdict(), "baseline": "none", "candidate": "aux", "remarks": remarks, "needed": found["needed"],
    }  # fmt: skip
    assert judged["verdicts"]["wide"]["n"] == 0
    shown = reports.verdict_lines({"groups": [judged]})
    assert "(97.5 % interval" in shown[0]
    assert shown[0].endswith(f"n = 2 paired seeds, 500 images); {'; '.join(remarks)}")
    assert "wide has no result yet with seed 3, seed 4, seed 5 and seed 6" in shown[1]
    assert "Aux has no result yet with seed 4, which is left out." in reports.remarks({"groups": [judged]})


def test_a_run_that_diverged_counts_as_the_worst_and_is_named():
    """Five seeds of which two died gave *helps* from the other three."""
    none = arm("none", [0.5, 0.51, 0.5, 0.51, 0.5], images=10_000)
    aux = arm("aux", [0.6, 0.6, 0.61, None, None], 3, 4, images=10_000)
    group = {"name": "all", "baseline": "none", "arms": {"none": none, "aux": aux}}
    (judged,) = results.judge([group], confidence=0.95, correction="holm")
    found = judged["verdicts"]["aux"]
    assert (found["verdict"], found["n"]) == ("no evidence", 5)
    assert found["mean_difference"] == pytest.approx((0.1 + 0.09 + 0.11 - 0.51 - 0.5) / 5)
    assert found["remarks"][0] == "aux diverged with seed 6 and seed 7, which counts as a score of 0"
    aux["diverged"] = []
    (judged,) = results.judge([group], confidence=0.95, correction="holm")
    assert judged["verdicts"]["aux"]["verdict"] == "helps"  # had they been missing
    assert judged["verdicts"]["aux"]["n"] == 3


def test_timing_takes_turns():
    calls: list[float] = []

    class Recording(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(float(self.weight[0, 0]))
            return super().forward(x)

    states = {name: nn.Linear(1, 1).state_dict() for name in ("a", "b")}
    states["a"]["weight"].fill_(1.0)
    states["b"]["weight"].fill_(2.0)
    times = time_side_by_side(Recording(1, 1), states, torch.zeros(1, 1), seconds=0.01)
    assert calls[:4] == [1.0, 1.0, 2.0, 2.0]  # once to warm up, once on the clock
    assert calls.count(1.0) == calls.count(2.0)
    assert all(t > 0 for t in times.values())
