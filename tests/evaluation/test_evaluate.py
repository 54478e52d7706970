"""Tests of evaluate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import deepsup as ds
from deepsup.evaluation import evaluate as evaluations
from deepsup.evaluation.evaluate import evaluate
from deepsup.supervision.objectives import Objective
from deepsup.training.journal import read
from tests.support.segmentation_runs import matrices
from tests.support.tiny_shapes import SIDE, MapNet, batches


def test_the_mean_loss_is_over_labelled_places_and_scores_add_up_over_processes():
    torch.manual_seed(0)
    net = MapNet(3)
    data = batches(3)
    for (_, y), rows in zip(data, (3, 20, 32), strict=True):
        y[:, :rows] = -100  # the last batch is void
    found = evaluate(net, data)
    net.eval()
    scores = [F.interpolate(net(x), (SIDE, SIDE), mode="bilinear", align_corners=False) for x, _ in data]
    every, labels = torch.cat(scores), torch.cat([y for _, y in data])
    assert found.loss["main"] == pytest.approx(F.cross_entropy(every, labels).item(), rel=1e-5)
    shares = []
    for (_, y), raw in zip(data, scores, strict=True):
        sums = evaluations.Sums(Objective(), None)
        sums.add(raw.detach(), y, progress=1.0)
        shares.append(sums.share())
    together = evaluations.together(shares, None)
    assert matrices(together) == matrices(found)
    assert together.score == found.score
    assert together.loss == pytest.approx(found.loss, rel=1e-5)


def test_a_validation_set_without_a_label_has_no_score_and_no_nan(tmp_path: Path):
    data = batches(1)
    void = [(data[0][0], torch.full_like(data[0][1], -100))]
    found = evaluate(MapNet(3), void)
    assert (found.score, found.loss, found.metrics, found.counts) == ({}, {}, {}, {})
    result = ds.fit(MapNet(3), data, validation=void, epochs=1, folder=tmp_path)
    assert result.score is None
    assert (read(tmp_path / "journal.jsonl", "end")[0]["score"], "NaN" in (tmp_path / "journal.jsonl").read_text()) == (
        None, False,
    )  # fmt: skip
