"""Weights of classes from their counts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deepsup import datasets
from deepsup.errors import ConfigError
from deepsup.settings import configs
from deepsup.supervision.objectives import Objective
from deepsup.training.class_weights import balanced, with_class_weight
from deepsup.training.journal import read
from deepsup.training.prepare import prepare
from deepsup.training.runs import train
from tests.support.tiny_runs import config
from tests.support.tiny_shapes import config as maps


def by_hand(labels: Tensor, classes: int) -> Tensor:
    """As scikit-learn counts: samples / (classes * count)."""
    return torch.tensor([len(labels) / (classes * int((labels == c).sum())) for c in range(classes)])


def test_rare_classes_count_for_more_and_all_together_as_before() -> None:
    shares = {"a": 0.5, "b": 0.3, "c": 0.2, "never": 0.0}
    found = balanced(shares)
    assert found == pytest.approx([1 / 1.5, 1 / 0.9, 1 / 0.6, 0], abs=1e-6)
    assert sum(w * s for w, s in zip(found, shares.values(), strict=True)) == pytest.approx(1, abs=1e-5)


def test_the_loss_of_main_and_branches_is_weighted_by_the_training_labels(tmp_path: Path) -> None:
    settings = config(tmp_path, class_weight="balanced")
    prepared = prepare(settings)
    labels = prepared.data.train.labels  # type: ignore[attr-defined]
    weight = by_hand(labels, 10)
    assert len(set(weight.tolist())) > 2
    x, y = torch.randn(30, 1, 16, 16), torch.arange(30) % 10
    outputs = prepared.net(x)
    terms = Objective(prepared.plan)(outputs, y, progress=0.0)
    for name, output in {"main": outputs.main, **outputs.aux}.items():
        assert terms.parts[name].item() == pytest.approx(F.cross_entropy(output, y, weight).item(), rel=1e-4)
    train(settings)
    assert read(tmp_path / "journal.jsonl", "start")[0]["config"]["class_weight"] == "balanced"


def test_of_label_maps_pixels_are_counted(shapes: Path, tmp_path: Path) -> None:
    settings = maps(shapes, tmp_path, class_weight="balanced", supervise=None)
    data = datasets.load("pairs", root=str(shapes))
    made = with_class_weight(settings, data)
    labels = torch.cat([y.flatten() for _, y in data.train.batches(1, seed=0, epoch=0, shuffle=False)])
    expected = by_hand(labels[labels >= 0], data.classes)
    assert made.loss is not None
    weights = [float(w) for w in made.loss.partition("[")[2].partition("]")[0].split(",")]
    assert weights == pytest.approx(expected.tolist(), rel=1e-3)


def test_what_cannot_be_weighted_is_refused(tmp_path: Path) -> None:
    data = datasets.load("digits", limit=50)
    with pytest.raises(ConfigError, match=r"class_weight is for one label an image or a pixel"):
        configs.parse({"class_weight": "balanced", "data": {"name": "drawn-figures"}})
    with pytest.raises(ConfigError, match="squared_hinge weighs no classes"):
        with_class_weight(config(tmp_path, class_weight="balanced", loss="squared_hinge"), data)
    own = "cross_entropy(class_weight=[1, 1, 1, 1, 1, 1, 1, 1, 1, 2])"
    with pytest.raises(ConfigError, match="which has its own"):
        with_class_weight(config(tmp_path, class_weight="balanced", loss=own), data)
    assert with_class_weight(config(tmp_path), data) == config(tmp_path)
