"""Dice against the libraries that people know it from."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from tests.support.score_maps import VOID, case, value


def test_dice_is_that_of_segmentation_models_and_of_monai() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        smp = pytest.importorskip("segmentation_models_pytorch.losses")
        monai = pytest.importorskip("monai.losses")
    scores, labels = case(3, (11, 9))
    theirs = smp.DiceLoss("multiclass", ignore_index=VOID, smooth=1e-5)(scores, labels)
    assert torch.allclose(value("dice", scores, labels), theirs, atol=1e-5)
    counted = labels.clamp(min=0)
    theirs = monai.DiceLoss(softmax=True, to_onehot_y=True, batch=True)(scores, counted[:, None])
    assert torch.allclose(value("dice", scores, counted), theirs, atol=1e-5)
    one, two = case(1, (11, 9))
    theirs = monai.DiceLoss(sigmoid=True, batch=True)(one, two.clamp(min=0)[:, None])
    assert torch.allclose(value("dice", one, two.clamp(min=0)), theirs, atol=1e-5)


def some_absent(places: tuple[int, ...], classes: int) -> tuple[Tensor, Tensor]:
    """Scores (3, C, *places) and labels without one class, of which the first sample has the first class alone."""
    scores = 2 * torch.randn(3, classes, *places, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, max(2, classes - 1), (3, *places))
    labels[0] = 0
    return scores, labels


def same(ours: Tensor, theirs: Tensor, scores: Tensor) -> None:
    """In value and gradient."""
    assert torch.allclose(ours, theirs, rtol=1e-12)
    (a,), (b,) = (torch.autograd.grad(value, scores, retain_graph=True) for value in (ours, theirs))
    assert torch.allclose(a, b, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("places", [(6, 5), (4, 3, 5)], ids=str)
@pytest.mark.parametrize("classes", [1, 2, 4])
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("smooth", [1e-5, 1.0])
def test_dice_with_absent_classes_is_that_of_monai(
    places: tuple[int, ...], classes: int, background: bool, batch: bool, smooth: float
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monai = pytest.importorskip("monai.losses")
    for seed in range(3):
        torch.manual_seed(seed)
        scores, labels = some_absent(places, classes)
        form = {"sigmoid": True} if classes == 1 else {"softmax": True, "to_onehot_y": True}
        numbers = {"smooth_nr": smooth, "smooth_dr": smooth, "batch": batch}
        ours = f"smooth={smooth}, batch={batch}, background={background}, absent=True"
        for name, theirs in (("dice", monai.DiceLoss), ("dice_cross_entropy", monai.DiceCELoss)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                loss = theirs(**form, **numbers, include_background=background)(scores, labels[:, None].double())
            same(value(f"{name}({ours})", scores, labels), loss, scores)


@pytest.mark.parametrize("places", [(6, 5), (4, 3, 5)], ids=str)
@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize("ignored", [False, True])
def test_dice_without_background_is_that_of_nnunet(places: tuple[int, ...], batch: bool, ignored: bool) -> None:
    """nnunetv2/training/loss/dice.py, SoftDiceLoss(batch_dice, do_bg=False, smooth=1e-5), from tp, fp and fn."""
    for seed in range(3):
        torch.manual_seed(seed)
        scores, labels = some_absent(places, 4)
        mask = torch.rand(labels.shape) < 0.8 if ignored else torch.ones_like(labels, dtype=torch.bool)
        p, each = scores.softmax(1), []
        for c in (1, 2, 3):
            q, y = p[:, c], (labels == c).double()
            tp, fp, fn = ((part * mask).flatten(1).sum(1) for part in (q * y, q * (1 - y), (1 - q) * y))
            if batch:
                tp, fp, fn = tp.sum(), fp.sum(), fn.sum()
            each.append((2 * tp + 1e-5) / (2 * tp + fp + fn + 1e-5))
        ours = value(f"dice(batch={batch}, background=False, absent=True)", scores, torch.where(mask, labels, VOID))
        same(ours, 1 - torch.stack(each).mean(), scores)


def test_dice_leaves_out_classes_that_the_batch_does_not_have() -> None:
    scores, labels = case(3, (11, 9))
    two = torch.where(labels == 2, 0, labels)
    p, on = scores.softmax(1), two != VOID
    parts = []
    for c in (0, 1):
        y = (two == c)[on].double()
        parts.append(1 - (2 * (p[:, c][on] * y).sum() + 1e-5) / (p[:, c][on].sum() + y.sum() + 1e-5))
    assert torch.allclose(value("dice", scores, two), torch.stack(parts).mean())


@pytest.mark.parametrize("smooth", [0, 1])
@pytest.mark.parametrize("batch", [True, False])
def test_smoothing_decides_what_an_empty_mask_costs(smooth: float, batch: bool) -> None:
    scores = torch.randn(3, 1, 4, 5, dtype=torch.float64, requires_grad=True)
    empty, some = torch.zeros(3, 4, 5, dtype=torch.long), (torch.rand(3, 4, 5) < 0.4).long()
    some[0] = 0
    for labels in (empty, some):
        sums = [(p, y) for p, y in zip(scores[:, 0].sigmoid(), labels, strict=True)]
        if batch:
            sums = [(scores[:, 0].sigmoid(), labels)]
        each = [1 - (2 * (p * y).sum() + smooth) / (p.sum() + y.sum() + smooth) for p, y in sums]
        expected = torch.stack(each).mean()
        found = value(f"dice(smooth={smooth}, batch={batch}, absent=True)", scores, labels)
        assert torch.allclose(found, expected, rtol=1e-12)
        (ours,), (theirs,) = (torch.autograd.grad(v, scores, retain_graph=True) for v in (found, expected))
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-15)
    nowhere = torch.full_like(scores, -float("inf"))
    assert float(value(f"dice(smooth={smooth}, batch={batch}, absent=True)", nowhere, empty)) == 0


def test_dice_and_cross_entropy_are_added() -> None:
    for classes, entropy in ((3, "cross_entropy"), (1, "binary")):
        scores, labels = case(classes)
        expected = value(entropy, scores, labels) + 0.5 * value("dice", scores, labels)
        assert torch.allclose(value("dice_cross_entropy(dice_weight=0.5)", scores, labels), expected)
        expected = 0.5 * value(entropy, scores, labels) + value("dice(smooth=1)", scores, labels)
        assert torch.allclose(value("dice_cross_entropy(entropy_weight=0.5, smooth=1)", scores, labels), expected)
