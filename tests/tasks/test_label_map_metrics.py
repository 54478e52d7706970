"""Metrics of label maps against published numbers, slow loops and scikit-learn."""

from __future__ import annotations

import doctest
import warnings

import pytest
import torch
from sklearn import metrics

from deepsup.errors import ClassCountError, ConfigError
from deepsup.tasks import TASKS, label_map_metrics
from deepsup.tasks.label_map_metrics import Confusion
from deepsup.tasks.task import metrics_of


def test_the_example_at_the_top_is_right():
    assert doctest.testmod(label_map_metrics).failed == 0


def test_the_published_vessel_matrix_gives_the_published_numbers_and_the_true_jaccard():
    blog = [[3882130, 78364], [122855, 454794]]
    found = label_map_metrics.summary(blog)
    expected = {"F1": 0.818853, "Jaccard": 0.693270, "pixel accuracy": 0.955660, "sensitivity": 0.787319}
    expected |= {"specificity": 0.980214, "precision": 0.853019, "Dice": 0.818853}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=5e-7)
    assert label_map_metrics.jaccard([[3895256, 65238], [134513, 443136]]) == pytest.approx(0.689291, abs=5e-7)
    background, vessel = label_map_metrics.iou(blog)
    assert vessel == found["Jaccard"]
    assert background == pytest.approx(3882130 / (3882130 + 78364 + 122855))
    assert found["mean IoU"] == pytest.approx((background + vessel) / 2)
    assert "ROC-AUC" not in found


def maps(classes: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(-1, classes, (3, 9, 7), generator=generator)
    target[target < 0] = -100
    return torch.randint(0, classes, (3, 9, 7), generator=generator), target


@pytest.mark.parametrize("classes", [2, 5])
def test_counts_and_scores_are_those_of_a_loop_and_of_scikit_learn(classes: int):
    prediction, target = maps(classes)
    counts = Confusion(classes)
    counts.add(prediction[:1], target[:1])
    counts.add(prediction[1:], target[1:])
    expected = torch.zeros(classes, classes, dtype=torch.int64)
    for p, t in zip(prediction.flatten().tolist(), target.flatten().tolist(), strict=True):
        if t >= 0:
            expected[t, p] += 1
    assert torch.equal(counts.matrix, expected)
    p, t = prediction[target >= 0], target[target >= 0]
    found = counts.metrics()
    assert found["pixel accuracy"] == pytest.approx(metrics.accuracy_score(t, p))
    assert found["mean IoU"] == pytest.approx(metrics.jaccard_score(t, p, average="macro"))
    assert found["mean Dice"] == pytest.approx(metrics.f1_score(t, p, average="macro"))
    assert label_map_metrics.iou(counts.matrix) == pytest.approx(metrics.jaccard_score(t, p, average=None))
    if classes == 2:
        told = {"sensitivity": metrics.recall_score(t, p), "precision": metrics.precision_score(t, p)}
        told |= {"specificity": metrics.recall_score(1 - t, 1 - p), "F1": metrics.f1_score(t, p)}
        assert {name: found[name] for name in told} == pytest.approx(told)
    else:
        assert tuple(found) == metrics_of("segmentation", classes) == ("mean IoU", "pixel accuracy", "mean Dice")


def test_a_class_in_neither_truth_nor_prediction_does_not_count_in_the_mean_and_one_in_either_does():
    found = label_map_metrics.iou([[3, 1, 0, 0], [0, 0, 0, 0], [0, 0, 4, 0], [0, 0, 0, 0]])
    assert found == [0.75, 0.0, 1.0, None]  # class 1 was predicted where it is not
    assert label_map_metrics.mean_iou([[3, 1, 0, 0], [0, 0, 0, 0], [0, 0, 4, 0], [0, 0, 0, 0]]) == pytest.approx(
        1.75 / 3
    )
    assert label_map_metrics.dice([[3, 1, 0], [0, 0, 0], [0, 0, 0]]) == [pytest.approx(6 / 7), 0.0, None]


def areas(logit: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    counts = Confusion(2)
    counts.add((logit >= 0).long(), truth, logit=logit)
    found = counts.metrics()
    assert found["ROC-AUC"] is not None
    assert found["PR-AUC"] is not None
    return found["ROC-AUC"], found["PR-AUC"]


@pytest.mark.parametrize("scale", [0.01, 1.0, 4.0, 300.0])
def test_areas_under_the_curves_agree_with_exact_ones_whatever_the_scale_of_logits(scale: float):
    generator = torch.Generator().manual_seed(1)
    truth = (torch.rand(120_000, generator=generator) < 0.12).long()
    logit = scale * (torch.randn(120_000, generator=generator) + 2 * truth - 1.5)
    roc, pr = areas(logit, truth)
    assert roc == pytest.approx(metrics.roc_auc_score(truth, logit), abs=1e-5)
    assert pr == pytest.approx(metrics.average_precision_score(truth, logit), abs=1e-4)
    ties = [logit.to(torch.bfloat16).float(), (logit > 0).float(), *([logit.relu()] if scale >= 1 else [])]
    for tied in ties:  # a bin is one threshold; near 0 it is 0.000004 wide
        roc, pr = areas(tied, truth)
        assert roc == pytest.approx(metrics.roc_auc_score(truth, tied), abs=1e-5)
        assert pr == pytest.approx(metrics.average_precision_score(truth, tied), abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_type_are_counted(dtype: torch.dtype) -> None:
    y = torch.randint(0, 150, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    counts = Confusion(200)
    counts.add(y, y.to(dtype))
    assert int(counts.matrix.diagonal().sum()) == y.numel()
    two = Confusion(2)
    two.add(y % 2, (y % 2).to(dtype), logit=y.float() - 75)
    assert int(two.curve.sum()) == y.numel()


def test_equal_logits_are_ties_and_not_an_order():
    truth = torch.tensor([0, 1, 1, 0, 1, 0])
    logit = torch.tensor([0.0, 0.0, 2.0, -3.0, -3.0, 2.0])
    assert areas(logit, truth)[0] == pytest.approx(metrics.roc_auc_score(truth, logit))
    many = (torch.arange(10_000) % 4 == 0).long()  # an output that says the same everywhere
    assert areas(torch.ones(10_000), many) == pytest.approx((0.5, 0.25), abs=1e-4)


def test_average_precision_is_below_the_area_by_trapezoids():
    generator = torch.Generator().manual_seed(2)
    truth = (torch.rand(60, generator=generator) < 0.4).long()
    logit = torch.randn(60, generator=generator)
    precision, recall, _ = metrics.precision_recall_curve(truth, logit)
    assert areas(logit, truth)[1] != pytest.approx(metrics.auc(recall, precision), abs=1e-3)


def test_logits_that_are_not_finite_or_huge_are_counted_and_void_places_are_not():
    logit = torch.tensor([float("inf"), float("-inf"), float("nan"), 1e30, -1e30, 5.0])
    truth = torch.tensor([1, 0, -100, 1, 0, -100])
    assert areas(logit, truth) == (1.0, 1.0)


def test_counts_of_processes_add_up():
    prediction, target = maps(2)
    logit = torch.randn(prediction.shape, generator=torch.Generator().manual_seed(3))
    whole, parts = Confusion(2), [Confusion(2), Confusion(2)]
    whole.add(prediction, target, logit=logit)
    for part, rows in zip(parts, (slice(0, 1), slice(1, 3)), strict=True):
        part.add(prediction[rows], target[rows], logit=logit[rows])
    together = parts[0].cpu() + parts[1].cpu()
    assert torch.equal(together.matrix, whole.matrix)
    assert together.metrics() == whole.metrics()


def test_nothing_labelled_is_no_score_and_a_one_sided_truth_has_none_where_it_cannot():
    void = Confusion(2)
    void.add(torch.zeros(2, 4, 4).long(), torch.full((2, 4, 4), -100), logit=torch.zeros(2, 4, 4))
    assert void.metrics() == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        only = label_map_metrics.summary([[5, 0], [0, 0]], torch.stack([torch.ones(8), torch.zeros(8)]))
    assert only["specificity"] == only["pixel accuracy"] == only["mean IoU"] == 1.0
    assert [only[name] for name in ("sensitivity", "precision", "F1", "Jaccard", "ROC-AUC", "PR-AUC")] == [None] * 6


def test_a_void_label_of_another_number_does_not_count_and_an_unknown_class_is_an_error():
    target = torch.tensor([[0, 1, 255]])
    counts = Confusion(2)
    counts.add(torch.tensor([[0, 1, 1]]), target, ignore=255)
    assert counts.matrix.tolist() == [[1, 0], [0, 1]]
    counts.add(torch.tensor([[0, 1, 1]]), target)
    with pytest.raises(ClassCountError, match=r"1 labelled places have a class of 2 or more.*label what is void -100"):
        counts.metrics()


def test_what_is_not_offered_is_an_error_that_lists_what_is():
    TASKS["segmentation"].check_metric("ROC-AUC", 2)
    with pytest.raises(
        ConfigError, match=r"11 classes have no metric 'ROC-AUC'.*mean IoU, .*With two classes also: F1"
    ):
        TASKS["segmentation"].check_metric("ROC-AUC", 11)
    with pytest.raises(ConfigError, match=r"no metric 'miou'. Closest: mean IoU. They have: mean IoU"):
        TASKS["segmentation"].check_metric("miou", 2)
    with pytest.raises(ConfigError, match=r"no metric 'accuracy'.*They have: mean IoU, pixel accuracy"):
        TASKS["segmentation"].check_metric("accuracy", 2)
    with pytest.raises(ConfigError, match=r"two classes.*found 3 classes"):
        label_map_metrics.f1([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    with pytest.raises(ConfigError, match="square"):
        label_map_metrics.iou([[1, 0]])
