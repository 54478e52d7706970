"""Losses on maps, against PyTorch's own and slow loops."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from deepsup import losses
from deepsup.errors import ClassCountError, ConfigError, HeadError
from deepsup.losses import resizing
from tests.support.score_maps import EVERY, VOID, case, value


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


@pytest.mark.parametrize("text", ["binary", "dice", "dice_cross_entropy", "balanced"])
def test_a_target_that_is_no_label_map_is_refused(text: str) -> None:
    scores, labels = case(1)
    for bad in (labels.repeat(1, 2, 1)[..., None], labels[:1], *([labels.float()] if text == "balanced" else [])):
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
