"""Losses through a sigmoid, against PyTorch and the formula of HED."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from deepsup import losses
from deepsup.errors import HeadError
from tests.support.score_maps import VOID, case, value


@pytest.mark.parametrize("resize", ["enlarge", "interpolate"])
def test_binary_is_sigmoid_cross_entropy_of_the_places_that_count(resize: str) -> None:
    scores, labels = case(1)
    full = F.interpolate(scores, (11, 9), mode="bilinear")[:, 0]
    on = labels != VOID
    expected = F.binary_cross_entropy_with_logits(full[on], labels[on].double())
    assert torch.allclose(value(f"binary(resize='{resize}')", scores, labels), expected)
    weight = torch.where(labels[on] == 1, 3.0, 0.5).double()
    weighed = F.binary_cross_entropy_with_logits(full[on], labels[on].double(), weight, reduction="sum") / weight.sum()
    found = value(f"binary(resize='{resize}', class_weight=[0.5, 3])", scores, labels)
    assert torch.allclose(found, weighed)


def test_binary_of_several_channels_holds_each_class_against_the_rest() -> None:
    scores, labels = case(3, (11, 9))
    on = labels != VOID
    each = [F.binary_cross_entropy_with_logits(scores[:, c][on], (labels[on] == c).double()) for c in range(3)]
    assert torch.allclose(value("binary", scores, labels), torch.stack(each).mean())
    small, labels = case(3)
    assert torch.allclose(value("binary", small, labels), value("binary(resize='interpolate')", small, labels))


def test_balanced_is_heds_loss_image_by_image() -> None:
    scores, labels = case(1, (11, 9))
    expected = torch.zeros((), dtype=torch.float64)
    for score, label in zip(scores[:, 0], labels, strict=True):
        on = label != VOID
        p, y = score[on].sigmoid(), label[on]
        beta = (y == 0).sum() / y.numel()
        each = torch.where(y == 1, -beta * p.log(), -(1 - beta) * (1 - p).log())
        expected = expected + each.mean() / 2
    assert torch.allclose(value("balanced", scores, labels), expected)
    with pytest.raises(HeadError, match="'balanced' tells two classes apart by one score a place"):
        value("balanced", *case(2))


def test_balanced_total_is_the_released_layer() -> None:
    """sigmoid_cross_entropy_loss_layer.cpp of s9xie/hed: sums over places, over the number of images."""
    scores, labels = case(1, (11, 9))
    total = torch.zeros((), dtype=torch.float64)
    for score, label in zip(scores[:, 0], labels, strict=True):
        positive, negative = int((label == 1).sum()), int((label == 0).sum())
        for s, y in zip(score.flatten(), label.flatten(), strict=True):
            if y in (0, 1):
                stable = s * (float(y) - float(s >= 0)) - torch.log(1 + torch.exp(s - 2 * s * float(s >= 0)))
                total = total - stable * (negative if y == 1 else positive) / (positive + negative)
    assert torch.allclose(value("balanced(total=True)", scores, labels), total / len(labels))
    (flat,) = torch.autograd.grad(losses.balanced(scores.requires_grad_(), labels, total=True), scores)
    assert not flat[:, 0][labels == VOID].any()


def test_one_logit_has_two_class_weights_whatever_its_labels_look_like() -> None:
    scores, labels = torch.randn(6, 1), torch.tensor([0, 1, 1, 0, 1, 0])
    weight = torch.where(labels > 0, 5.0, 2.0)
    each = F.binary_cross_entropy_with_logits(scores[:, 0], labels.float(), reduction="none")
    expected = (weight * each).sum() / weight.sum()
    for form in (labels, labels[:, None], labels.bool(), labels.float(), labels[:, None].float()):
        assert torch.allclose(losses.binary(scores, form, class_weight=[2, 5]), expected)
    soft = torch.rand(6, 1)
    parts = 5 * soft * F.softplus(-scores) + 2 * (1 - soft) * F.softplus(scores)
    found = losses.binary(scores, soft, class_weight=[2, 5])
    assert torch.allclose(found, parts.sum() / (5 * soft + 2 * (1 - soft)).sum())
