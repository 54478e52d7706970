"""Losses on maps, against PyTorch's own, slow loops, and the libraries that people know them from."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deepsup import losses
from deepsup.errors import ClassCountError, ConfigError, HeadError
from deepsup.losses import resizing

VOID = -100
EVERY = ["cross_entropy", "binary", "dice", "dice_cross_entropy"]


def case(classes: int = 3, size: tuple[int, ...] = (5, 4), full: tuple[int, ...] = (11, 9)) -> tuple[Tensor, Tensor]:
    stream = torch.Generator().manual_seed(len(full) + classes)
    scores = torch.randn(2, classes, *size, generator=stream, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, max(2, classes), (2, *full), generator=stream)
    return scores, torch.where(torch.rand(labels.shape, generator=stream) < 0.2, VOID, labels)


def value(text: str, scores: Tensor, labels: Tensor) -> Tensor:
    return losses.get(text)(scores, labels)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("resize", ["enlarge", "interpolate"])
def test_cross_entropy_enlarges_scores_as_interpolate_does(resize: str, corners: bool) -> None:
    scores, labels = case()
    full = F.interpolate(scores, labels.shape[1:], mode="bilinear", align_corners=corners)
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    options = f"resize='{resize}', align_corners={corners}"
    plain = value(f"cross_entropy({options})", scores, labels)
    assert torch.allclose(plain, F.cross_entropy(full, labels))
    weighed = value(f"cross_entropy({options}, class_weight=[1, 2, 0.5], smoothing=0.1)", scores, labels)
    assert torch.allclose(weighed, F.cross_entropy(full, labels, weight, label_smoothing=0.1))


def test_volumes_are_enlarged_in_three_directions() -> None:
    scores, labels = case(size=(2, 3, 2), full=(4, 6, 4))
    full = F.interpolate(scores, (4, 6, 4), mode="trilinear")
    assert torch.allclose(value("cross_entropy", scores, labels), F.cross_entropy(full, labels))


@pytest.mark.parametrize("how", ["nearest", "preserve"])
def test_cross_entropy_at_the_scores_own_size(how: str) -> None:
    scores, labels = case()
    small = resizing.shrink(labels, (5, 4), how=how, classes=3)
    assert torch.allclose(value(f"cross_entropy(resize='{how}')", scores, labels), F.cross_entropy(scores, small))


def test_area_holds_every_cell_against_all_places_in_it() -> None:
    scores, labels = case(size=(2, 3), full=(8, 9))
    repeated = scores.repeat_interleave(4, 2).repeat_interleave(3, 3)  # each place against its cell's scores
    weight = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    for text, w in (("", None), (", class_weight=[1, 2, 0.5]", weight)):
        found = value(f"cross_entropy(resize='area', smoothing=0.1{text})", scores, labels)
        assert torch.allclose(found, F.cross_entropy(repeated, labels, w, label_smoothing=0.1))
    one, two = case(1, (2, 3), (8, 9))
    spread = one.repeat_interleave(4, 2).repeat_interleave(3, 3)
    assert torch.allclose(value("binary(resize='area')", one, two), value("binary", spread, two))


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


def test_dice_leaves_out_classes_that_the_batch_does_not_have() -> None:
    scores, labels = case(3, (11, 9))
    two = torch.where(labels == 2, 0, labels)
    p, on = scores.softmax(1), two != VOID
    parts = []
    for c in (0, 1):
        y = (two == c)[on].double()
        parts.append(1 - (2 * (p[:, c][on] * y).sum() + 1e-5) / (p[:, c][on].sum() + y.sum() + 1e-5))
    assert torch.allclose(value("dice", scores, two), torch.stack(parts).mean())


def test_dice_and_cross_entropy_are_added() -> None:
    for classes, entropy in ((3, "cross_entropy"), (1, "binary")):
        scores, labels = case(classes)
        expected = value(entropy, scores, labels) + 0.5 * value("dice", scores, labels)
        assert torch.allclose(value("dice_cross_entropy(dice_weight=0.5)", scores, labels), expected)


@pytest.mark.parametrize("resize", ["enlarge", "interpolate", "nearest", "area", "preserve"])
@pytest.mark.parametrize("text", [*EVERY, "balanced"])
def test_gradients_are_exact_and_no_place_gives_zero(text: str, resize: str) -> None:
    scores, labels = case(1 if text == "balanced" else 2, (2, 3), (4, 6))
    loss = losses.get(f"{text}(resize='{resize}')")
    assert torch.autograd.gradcheck(lambda s: loss(s, labels), (scores,))
    nothing = loss(scores, torch.full_like(labels, VOID))
    (gradient,) = torch.autograd.grad(nothing, scores)
    assert nothing.item() == 0
    assert torch.equal(gradient, torch.zeros_like(scores))


@pytest.mark.parametrize("text", [*EVERY, "balanced"])
def test_any_label_can_be_void(text: str) -> None:
    scores, labels = case(1 if text == "balanced" else 2)
    other = torch.where(labels == VOID, 255, labels)
    assert torch.equal(value(f"{text}(ignore_index=255)", scores, other), value(text, scores, labels))


def test_half_precision_is_computed_in_single() -> None:
    scores, labels = case(3, (11, 9))
    half = scores.detach().to(torch.bfloat16)
    for text in EVERY:
        assert torch.equal(value(text, half, labels), value(text, half.float(), labels))


@pytest.mark.parametrize("resize", ["enlarge", "nearest", "area"])
@pytest.mark.parametrize("text", EVERY)
def test_a_label_without_a_class_is_said(text: str, resize: str) -> None:
    scores, labels = case(3)
    labels[0] = 7
    with pytest.raises(ClassCountError, match=r"3 classes \(labels 0..2\), but the target holds labels 0..7"):
        value(f"{text}(resize='{resize}')", scores, labels)


def test_255_as_void_is_guessed() -> None:
    with pytest.raises(
        ClassCountError, match=r"say so for all outputs: plan\(\.\.\., main_loss='cross_entropy\(ignore_index=255\)'\)"
    ):
        losses.check_target("cross_entropy", torch.zeros(1, 3, 2, 2), torch.full((1, 2, 2), 255))


@pytest.mark.parametrize("text", ["binary", "dice", "dice_cross_entropy", "balanced"])
def test_a_target_that_is_no_label_map_is_refused(text: str) -> None:
    scores, labels = case(1)
    for bad in (labels[:, None], labels.float(), labels[:1]):
        with pytest.raises(HeadError, match=f"loss '{text}' holds scores of shape"):
            value(text, scores, bad)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cross_entropy(resize='bilinear')", "needs resize to be 'enlarge' or 'interpolate' or 'nearest'"),
        ("dice(smooth=-1)", "needs smooth to be a number of at least 0"),
        ("cross_entropy(class_weight=[1, -2])", "needs class_weight to be a list of numbers"),
        ("binary(ignore_index=1.5)", "needs ignore_index to be a whole number"),
    ],
)
def test_options_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        losses.get(text)


def test_as_many_weights_as_classes() -> None:
    with pytest.raises(ClassCountError, match="class_weight has 2 numbers for 3 classes"):
        value("cross_entropy(class_weight=[1, 2])", *case(3))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
@pytest.mark.parametrize("resize", ["enlarge", "nearest", "area", "preserve"])
@pytest.mark.parametrize("text", EVERY)
def test_labels_may_be_any_integers(text: str, resize: str, dtype: torch.dtype) -> None:
    for size in ((5, 4), (11, 9)):
        scores, labels = case(3, size)
        labels = torch.where(labels == VOID, 250, labels)
        loss = losses.get(f"{text}(resize='{resize}', ignore_index=250)")
        assert torch.equal(loss(scores, labels.to(dtype)), loss(scores, labels))


def test_weights_count_place_by_place_in_mixed_cells() -> None:
    for classes in (1, 3):
        scores, labels = case(classes, (2, 3), (8, 9))
        spread = scores.repeat_interleave(4, 2).repeat_interleave(3, 3)
        weights = f"class_weight={[1, 50, 3][: max(2, classes)]}"
        found = value(f"binary(resize='area', {weights})", scores, labels)
        assert torch.allclose(found, value(f"binary({weights})", spread, labels))
    scores, labels = case(1, (2, 3), (8, 9))
    spread = scores.repeat_interleave(4, 2).repeat_interleave(3, 3)
    assert torch.allclose(value("balanced(resize='area')", scores, labels), value("balanced", spread, labels))
    assert torch.allclose(value("dice(resize='area')", scores, labels), value("dice", spread, labels))


@pytest.mark.parametrize("resize", ["enlarge", "interpolate", "nearest", "area"])
def test_classes_of_weight_zero_count_nothing(resize: str) -> None:
    scores, labels = case(3)
    text = f"cross_entropy(resize='{resize}', class_weight=[0, 1, 1], smoothing=0.1)"
    assert value(text, scores, torch.zeros_like(labels)).item() == 0


def test_an_empty_batch_gives_zero() -> None:
    for text in [*EVERY, "balanced"]:
        assert (
            value(text, torch.zeros(0, 1 if text == "balanced" else 2, 4, 4), torch.zeros(0, 8, 8).long()).item() == 0
        )
    assert losses.squared_hinge(torch.randn(2, 3, 4), torch.full((2, 4), VOID)).item() == 0


def test_vectors_of_scores_have_no_places() -> None:
    scores, labels = torch.randn(6, 1), torch.tensor([0, 1, 1, 0, VOID, 1])
    expected = F.binary_cross_entropy_with_logits(scores[labels >= 0, 0], labels[labels >= 0].float())
    assert torch.allclose(value("binary", scores, labels), expected)


def test_probabilities_are_what_the_loss_takes_scores_for() -> None:
    scores = torch.randn(2, 1, 3, 3)
    assert torch.equal(losses.probabilities(scores, "binary"), scores.sigmoid())
    assert torch.equal(losses.probabilities(scores, "dice_cross_entropy"), scores.sigmoid())
    wide = torch.randn(2, 4, 3, 3)
    assert torch.equal(losses.probabilities(wide, "dice"), wide.softmax(1))
    assert torch.equal(losses.probabilities(wide), wide.softmax(1))
    assert torch.equal(losses.probabilities(wide, "binary"), wide.sigmoid())
