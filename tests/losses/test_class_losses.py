"""Losses against slow loops, and what they say when prediction and target do not meet."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepsup import losses
from deepsup.errors import ClassCountError, ConfigError, HeadError


def number(value: Tensor) -> float:
    return float(value.detach())


def scores_at(prediction: Tensor) -> dict[tuple[int, ...], list[float]]:
    """The scores of every sample and place, in Python floats."""
    places = itertools.product(range(prediction.shape[0]), *map(range, prediction.shape[2:]))
    return {(n, *at): [float(prediction[(n, c, *at)]) for c in range(prediction.shape[1])] for n, *at in places}


def log_softmax(scores: list[float]) -> list[float]:
    norm = math.log(math.fsum(math.exp(s) for s in scores))
    return [s - norm for s in scores]


def slow_cross_entropy(prediction: Tensor, target: Tensor, *, smoothing: float = 0.0, ignore: int = -100) -> float:
    """One sample and one place at a time, in Python floats."""
    terms: list[float] = []
    for at, scores in scores_at(prediction).items():
        if target.is_floating_point():
            truth = [float(target[(at[0], c, *at[1:])]) for c in range(len(scores))]
        elif int(target[at]) != ignore:
            truth = [float(c == int(target[at])) for c in range(len(scores))]
        else:
            continue
        truth = [(1 - smoothing) * t + smoothing / len(scores) for t in truth]
        terms.append(-sum(t * s for t, s in zip(truth, log_softmax(scores), strict=True)))
    return math.fsum(terms) / len(terms)


def slow_squared_hinge(prediction: Tensor, target: Tensor, *, form: str) -> float:
    terms: list[float] = []
    for at, scores in scores_at(prediction).items():
        y = int(target[at])
        if y == -100:
            continue
        if form == "multiclass":
            terms.append(sum(max(0.0, 1 - (scores[y] - s)) ** 2 for k, s in enumerate(scores) if k != y))
        else:
            terms.append(sum(max(0.0, 1 - (1 if k == y else -1) * s) ** 2 for k, s in enumerate(scores)))
    return math.fsum(terms) / len(terms)


def slow_kl(prediction: Tensor, teacher: Tensor, *, temperature: float, squared: bool) -> float:
    terms: list[float] = []
    for student, truth in zip(scores_at(prediction).values(), scores_at(teacher).values(), strict=True):
        log_q = log_softmax([s / temperature for s in student])
        log_p = log_softmax([s / temperature for s in truth])
        terms.append(sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True)))
    return math.fsum(terms) / len(terms) * (temperature**2 if squared else 1)


def slow_contrast(embedding: Tensor, positives: Callable[[int], list[int]], temperature: float) -> float:
    """Khosla et al. 2020, eq. 2, with given positives of each anchor; the mean over anchors."""
    z = [[float(v) / math.sqrt(sum(float(w) ** 2 for w in row)) for v in row] for row in embedding]
    total = 0.0
    for i, anchor in enumerate(z):
        others = {
            a: sum(v * w for v, w in zip(anchor, z[a], strict=True)) / temperature for a in range(len(z)) if a != i
        }
        norm = math.log(math.fsum(math.exp(s) for s in others.values()))
        found = positives(i)
        total += sum(norm - others[p] for p in found) / max(1, len(found))
    return total / len(z)


@pytest.mark.parametrize("shape", [(4, 5), (1, 2), (3, 5, 6), (2, 3, 4, 5), (2, 3, 2, 2, 2)], ids=str)
def test_cross_entropy_equals_a_slow_loop(shape: tuple[int, ...]) -> None:
    prediction = 3 * torch.randn(shape, dtype=torch.float64)
    indices = torch.randint(0, shape[1], (shape[0], *shape[2:]))
    soft = torch.rand(shape, dtype=torch.float64).softmax(1)
    for target in (indices, soft):
        value = losses.cross_entropy(prediction, target)
        assert value.shape == ()
        assert number(value) == pytest.approx(slow_cross_entropy(prediction, target), rel=1e-12)


def test_ignored_places_do_not_count() -> None:
    prediction = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    target = torch.randint(0, 3, (2, 4, 4))
    target[0, :2] = -100
    assert float(losses.cross_entropy(prediction, target)) == pytest.approx(slow_cross_entropy(prediction, target))
    losses.check_labels(3, target)


def test_its_gradient_is_softmax_minus_target() -> None:
    prediction = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 4, 2, 2])
    losses.cross_entropy(prediction, target).backward()
    expected = (prediction.detach().softmax(1) - F.one_hot(target, 5)) / 4
    assert torch.allclose(prediction.grad, expected)


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        (
            torch.zeros(4, 5),
            torch.zeros(4, 8, 8, dtype=torch.long),
            "a prediction of shape (4, 5) needs class indices of shape (4,); found a target of shape (4, 8, 8). "
            "Give this branch a head (or main=) whose output fits the target.",
        ),
        (
            torch.zeros(4, 5),
            torch.zeros(4, 6),
            "a prediction of shape (4, 5) needs probabilities of shape (4, 5); found a target of shape (4, 6). ",
        ),
        (torch.zeros(4, 5, 8, 8), torch.zeros(4, 9, dtype=torch.long), "a prediction of shape (4, 5, 8, 8) needs class"),
        (torch.zeros(4, 5), torch.zeros(3, dtype=torch.long), "a prediction of shape (4, 5) needs class indices of shape (4,)"),
        (torch.zeros(4, 5), torch.zeros(4), "the target has class indices of dtype torch.float32; convert them: target.long()."),
        (torch.zeros(4), torch.zeros(4, dtype=torch.long), "a prediction of shape (4,) needs"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_meet_are_a_head_error(prediction: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(HeadError) as caught:
        losses.cross_entropy(prediction, target)
    assert str(caught.value).startswith(message)


def test_a_label_without_a_class_is_a_class_count_error() -> None:
    with pytest.raises(ClassCountError) as caught:
        losses.cross_entropy(torch.zeros(3, 5), torch.tensor([0, 5, 2]))
    assert str(caught.value) == (
        "the outputs have 5 classes (labels 0..4), but the target holds labels 0..5. "
        "Build the model with as many classes as the data, or fix the labels."
    )


@pytest.mark.parametrize("labels", [[0, 5], [-1, 2], [-100, 7], [255, 0]], ids=str)
def test_labels_out_of_range_are_found(labels: list[int]) -> None:
    with pytest.raises(ClassCountError, match=r"labels 0\.\.4"):
        losses.check_labels(5, torch.tensor(labels))


@pytest.mark.parametrize(
    "target",
    [torch.tensor([0, 4]), torch.tensor([-100, 4]), torch.rand(2, 5), torch.zeros(0, dtype=torch.long)],
    ids=["in range", "ignored", "soft", "empty"],
)
def test_labels_in_range_pass(target: Tensor) -> None:
    losses.check_labels(5, target)


SHAPES = [(4, 5), (1, 2), (3, 4, 3), (2, 3, 4, 5), (2, 3, 2, 1, 2)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("smoothing", [0, 0.1, 0.9])
def test_smoothing_spreads_a_share_of_the_target_over_all_classes(shape: tuple[int, ...], smoothing: float) -> None:
    prediction = 3 * torch.randn(shape, dtype=torch.float64)
    indices = torch.randint(0, shape[1], (shape[0], *shape[2:]))
    for target in (indices, torch.rand(shape, dtype=torch.float64).softmax(1)):
        value = losses.cross_entropy(prediction, target, smoothing=smoothing)
        assert number(value) == pytest.approx(slow_cross_entropy(prediction, target, smoothing=smoothing), rel=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", losses.FORMS)
def test_squared_hinge_equals_a_slow_loop(shape: tuple[int, ...], form: str) -> None:
    prediction = 2 * torch.randn(shape, dtype=torch.float64)
    target = torch.randint(0, shape[1], (shape[0], *shape[2:]))
    value = losses.squared_hinge(prediction, target, form=form)
    assert value.shape == ()
    assert number(value) == pytest.approx(slow_squared_hinge(prediction, target, form=form), rel=1e-12)


@pytest.mark.parametrize("form", losses.FORMS)
def test_squared_hinge_does_not_count_ignored_places(form: str) -> None:
    prediction = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[0, -100, 2, 1], [-100, -100, 1, 0]])
    value = losses.squared_hinge(prediction, target, form=form)
    assert number(value) == pytest.approx(slow_squared_hinge(prediction.detach(), target, form=form), rel=1e-12)
    (gradient,) = torch.autograd.grad(value, prediction)
    assert not gradient.transpose(1, 2)[target == -100].any()


def test_one_vs_rest_has_the_gradient_of_the_released_layer() -> None:
    # squared_hinge_loss_layer of the released DSN: 2 * C_ / num times max(0, 1 - d s) times -d, with C_ = 1
    prediction = torch.tensor([[0.5, -2.0, 0.1], [1.5, -0.3, -1.0]], dtype=torch.float64, requires_grad=True)
    losses.squared_hinge(prediction, torch.tensor([0, 2]), form="one-vs-rest").backward()
    expected = [[-2 / 2 * 0.5, 0, 2 / 2 * 1.1], [2 / 2 * 2.5, 2 / 2 * 0.7, -2 / 2 * 2.0]]
    assert torch.allclose(prediction.grad, torch.tensor(expected, dtype=torch.float64))


def test_a_margin_of_one_has_no_squared_hinge() -> None:
    target = torch.tensor([0, 1])
    assert losses.squared_hinge(torch.tensor([[2.0, 1.0, 0.5], [0.0, 3.0, 2.0]]), target) == 0
    apart = torch.tensor([[1.0, -1.0, -2.0], [-1.0, 1.5, -1.0]])
    assert losses.squared_hinge(apart, target, form="one-vs-rest") == 0
    assert losses.squared_hinge(torch.tensor([[1.5, 1.0, 0.0], [0.0, 3.0, 2.0]]), target) == pytest.approx(0.5**2 / 2)


@pytest.mark.parametrize("form", losses.FORMS)
def test_squared_hinge_says_what_it_needs(form: str) -> None:
    loss = partial(losses.squared_hinge, form=form)
    for target in (torch.rand(4, 5), torch.zeros(4), torch.zeros(3, dtype=torch.long)):
        with pytest.raises(HeadError, match=r"squared_hinge of a prediction of shape \(4, 5\) needs class indices"):
            loss(torch.zeros(4, 5), target)
    with pytest.raises(HeadError, match="squared_hinge"):
        loss(torch.zeros(4), torch.zeros(4, dtype=torch.long))
    with pytest.raises(ClassCountError, match=r"labels 0\.\.4.*labels 0\.\.5"):
        loss(torch.zeros(2, 5), torch.tensor([0, 5]))
    with pytest.raises(ClassCountError, match=r"labels 0\.\.4.*labels -1\.\.2"):
        loss(torch.zeros(2, 5), torch.tensor([-1, 2]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("temperature", [1, 3.0, 0.5])
@pytest.mark.parametrize("squared", [True, False])
def test_kl_equals_a_slow_loop(shape: tuple[int, ...], temperature: float, squared: bool) -> None:
    prediction, teacher = 3 * torch.randn(2, *shape, dtype=torch.float64)
    options: dict[str, Any] = {"temperature": temperature, "squared": squared}
    value = losses.kl(prediction, teacher, **options)
    assert value.shape == ()
    assert number(value) == pytest.approx(slow_kl(prediction, teacher, **options), rel=1e-10)
    assert float(losses.kl(prediction, prediction, **options)) == pytest.approx(0, abs=1e-12)


def test_kl_is_that_of_torch_and_its_gradient_is_the_difference_of_probabilities() -> None:
    prediction, teacher = 3 * torch.randn(2, 4, 5, dtype=torch.float64)
    prediction.requires_grad_()
    value = losses.kl(prediction, teacher, temperature=3)
    shares = (prediction / 3).log_softmax(1), (teacher / 3).softmax(1)
    assert torch.allclose(value, 9 * F.kl_div(*shares, reduction="batchmean"))
    (gradient,) = torch.autograd.grad(value, prediction)
    assert torch.allclose(gradient, 3 * (shares[0].exp() - shares[1]) / 4)


def test_kl_needs_no_smoothing_where_scores_lie_far_apart() -> None:
    prediction = torch.tensor([[0.0, 2e4]], requires_grad=True)
    value = losses.kl(prediction, torch.tensor([[2e4, 0.0]]))
    assert number(value) == 2e4
    value.backward()
    assert prediction.grad.tolist() == [[-1, 1]]


@pytest.mark.parametrize("shape", [(3,), (4, 6), (2, 3, 4, 5)], ids=str)
def test_hint_is_the_squared_distance_of_each_sample_averaged(shape: tuple[int, ...]) -> None:
    feature, teacher = torch.randn(2, *shape, dtype=torch.float64)
    pairs = zip(feature.reshape(shape[0], -1).tolist(), teacher.reshape(shape[0], -1).tolist(), strict=True)
    expected = sum(sum((a - b) ** 2 for a, b in zip(f, t, strict=True)) for f, t in pairs) / shape[0]
    assert float(losses.hint(feature, teacher)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "prediction", "teacher"),
    [
        (losses.kl, torch.zeros(4, 5), torch.zeros(4, 6)),
        (losses.kl, torch.zeros(4, 5), torch.zeros(4, dtype=torch.long)),
        (losses.kl, torch.zeros(4), torch.zeros(4)),
        (losses.hint, torch.zeros(4, 64), torch.zeros(4, 128)),
        (losses.hint, torch.zeros(4, 64), torch.zeros(1, 64)),
        (losses.hint, torch.zeros(()), torch.zeros(())),
    ],
)
def test_outputs_of_two_shapes_are_a_head_error(loss: losses.Loss, prediction: Tensor, teacher: Tensor) -> None:
    with pytest.raises(HeadError) as caught:
        loss(prediction, teacher)
    found = f"found {tuple(prediction.shape)} and {tuple(teacher.shape)}. Give the branch a head"
    assert f"{loss.__name__} compares two outputs of one shape; {found}" in str(caught.value)


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 0], [1, 0, 1, 2, 0], [3]], ids=str)
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_supcon_equals_a_slow_loop_of_equation_2(labels: list[int], temperature: float) -> None:
    embedding, twice = torch.randn(2 * len(labels), 7, dtype=torch.float64), labels + labels
    value = losses.supcon(embedding, torch.tensor(twice), temperature=temperature)
    expected = slow_contrast(
        embedding, lambda i: [p for p in range(len(twice)) if p != i and twice[p] == twice[i]], temperature
    )
    assert value.shape == ()
    assert number(value) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("samples", [1, 2, 5])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_simclr_equals_a_slow_loop_of_equation_1(samples: int, temperature: float) -> None:
    embedding = torch.randn(2 * samples, 7, dtype=torch.float64)
    value = losses.simclr(embedding, None, temperature=temperature)
    expected = slow_contrast(embedding, lambda i: [(i + samples) % (2 * samples)], temperature)
    assert value.shape == ()
    assert number(value) == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_supcon_is_simclr_where_no_two_images_share_a_class() -> None:
    embedding, labels = torch.randn(12, 7, dtype=torch.float64), torch.randperm(6)
    assert torch.allclose(losses.supcon(embedding, labels.repeat(2)), losses.simclr(embedding, labels))


def test_an_anchor_without_a_positive_adds_nothing() -> None:
    embedding, labels = torch.randn(4, 7, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 0, 2])
    value = losses.supcon(embedding, labels)
    expected = slow_contrast(embedding.detach(), lambda i: {0: [2], 2: [0]}.get(i, []), 0.07)
    assert number(value) == pytest.approx(expected, rel=1e-10)
    value.backward()
    assert embedding.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8])
def test_images_without_a_label_have_their_own_other_crop_alone(dtype: torch.dtype) -> None:
    labels = [1, -100, 1, -100, 0, -100]
    target = torch.tensor(labels, dtype=dtype).repeat(2)
    embedding = torch.randn(12, 7, dtype=torch.float64)
    own = {i: [(i + 6) % 12] for i in range(12) if labels[i % 6] == -100}
    alike = {i: [p for p in range(12) if p != i and labels[p % 6] == labels[i % 6]] for i in range(12)}
    expected = slow_contrast(embedding, lambda i: own.get(i, alike[i]), 0.07)
    assert number(losses.supcon(embedding, target)) == pytest.approx(expected, rel=1e-10)
    assert number(losses.supcon(embedding, target)) != pytest.approx(slow_contrast(embedding, alike.__getitem__, 0.07))
    unlabelled = torch.full((12,), -100, dtype=dtype)
    assert torch.allclose(losses.supcon(embedding, unlabelled), losses.simclr(embedding, unlabelled))


def test_contrast_does_not_see_how_long_an_embedding_is() -> None:
    embedding, labels = torch.randn(8, 5, dtype=torch.float64), torch.tensor([0, 1, 1, 0]).repeat(2)
    lengths = torch.rand(8, 1, dtype=torch.float64) + 0.1
    for loss in (losses.supcon, losses.simclr):
        assert torch.allclose(loss(lengths * embedding, labels), loss(embedding, labels))
    zero = torch.zeros(8, 5, requires_grad=True)
    losses.supcon(zero, labels).backward()
    assert zero.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(5, 8), (4, 8, 2, 2), (4,), (0, 8)], ids=str)
def test_contrast_needs_two_crops_of_each_image_as_vectors(shape: tuple[int, ...]) -> None:
    labels = torch.zeros(shape[0], dtype=torch.long)
    for loss in (losses.supcon, losses.simclr):
        with pytest.raises(HeadError, match=rf"{loss.__name__} needs embeddings \(2N, D\) of two crops"):
            loss(torch.zeros(shape), labels)


@pytest.mark.parametrize("target", [torch.zeros(3, dtype=torch.long), torch.rand(6, 10), torch.zeros(6)])
def test_supcon_needs_a_label_for_each_crop(target: Tensor) -> None:
    with pytest.raises(HeadError, match=r"needs class indices \(integers\) of shape \(6,\).*torch\.cat\(\[y, y\]\)"):
        losses.supcon(torch.zeros(6, 8), target)


def test_none_is_zero_whatever_the_prediction_is() -> None:
    prediction = torch.tensor([[float("inf"), float("nan")]], requires_grad=True)
    value = losses.none(prediction, None)
    assert (value.shape, number(value), value.requires_grad) == ((), 0.0, False)


def test_a_gate_lets_nothing_through_below_gamma() -> None:
    for start, norm, gamma in ((0.5, 0.3, 0.9), (0.5, 0.3, 0.8), (0.5, 0.4, 0.8), (2.0, 0.0, 0.0)):
        value, weight = torch.tensor(start, requires_grad=True), torch.tensor(norm, requires_grad=True)
        out = losses.gated(value, weight, gamma)
        assert number(out) == pytest.approx(max(0.0, norm + start - gamma), abs=1e-7)
        out.backward()
        expected = 1.0 if number(out) > 0 else 0.0
        assert (float(value.grad), float(weight.grad)) == (expected, expected)
    assert float(losses.gated(torch.tensor(0.5), 0.25, 0.5)) == 0.25


# Every loss, with a prediction (N, C) or embedding (2N, D), and what it is held against.
LABELS = torch.tensor([0, 2, 1, 2, 0, 2, 1, 2])
EVERY: list[tuple[str, Any]] = [
    ("cross_entropy", LABELS),
    ("cross_entropy(smoothing=0.1)", LABELS),
    ("squared_hinge", LABELS),
    ("squared_hinge(form='one-vs-rest')", LABELS),
    ("kl", "teacher"),
    ("kl(temperature=3, squared=False)", "teacher"),
    ("hint", "teacher"),
    ("supcon", LABELS),
    ("supcon(temperature=0.5)", LABELS),
    ("simclr", LABELS),
    ("none", LABELS),
]
HERE = pytest.mark.parametrize(("text", "against"), EVERY, ids=[text for text, _ in EVERY])


def inputs(against: Any, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Any]:
    draw = torch.Generator().manual_seed(0)
    prediction = torch.randn(8, 3, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    return prediction, torch.randn(8, 3, generator=draw).to(dtype) if isinstance(against, str) else against


ON_MAPS = {"binary", "balanced", "dice", "dice_cross_entropy"}  # test_pixels.py


def test_every_loss_is_in_the_list() -> None:
    assert {losses.read(text)[0] for text, _ in EVERY} | ON_MAPS == set(losses.LOSSES)


@HERE
def test_gradients_are_those_of_the_value(text: str, against: Any) -> None:
    prediction, target = inputs(against)
    if text != "none":  # which has none
        assert torch.autograd.gradcheck(lambda p: losses.get(text)(p, target), prediction)


@HERE
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_read_and_not_computed_in(text: str, against: Any, dtype: torch.dtype) -> None:
    prediction, target = inputs(against, dtype)
    value = losses.get(text)(prediction, target)
    wide = target.double() if isinstance(against, str) else target
    exact = losses.get(text)(prediction.double(), wide)
    if text.startswith(("cross_entropy", "none")):  # torch's own
        assert number(value) == pytest.approx(number(exact), rel=1e-2)
        return
    assert value.dtype == torch.float32
    assert number(value) == pytest.approx(number(exact), rel=1e-5)
    value.backward()
    assert prediction.grad.dtype == dtype
    assert prediction.grad.isfinite().all()


@HERE
def test_autocast_does_not_touch_the_value(text: str, against: Any) -> None:
    prediction, target = inputs(against, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = losses.get(text)(prediction, target)
    assert torch.equal(inside, losses.get(text)(prediction, target))


def test_large_features_do_not_leave_half_precision() -> None:
    feature = torch.full((2, 1000), 30.0, dtype=torch.float16)
    assert float(losses.hint(feature, -feature)) == 3600 * 1000
    assert float(losses.squared_hinge(300 * torch.ones(1, 10, dtype=torch.float16), torch.tensor([0]))) == 9


@HERE
def test_every_loss_compiles_as_one_graph(text: str, against: Any) -> None:
    """What reads a value back from the device, or has a shape that depends on values, would break the graph."""
    prediction, target = inputs(against, torch.float32)
    torch.compiler.reset()
    loss = losses.get(text)
    compiled = torch.compile(lambda p, t: losses.get(text)(p, t), backend="eager", fullgraph=True)
    assert torch.equal(compiled(prediction, target), loss(prediction, target))


def test_one_compiled_function_takes_one_loss_after_another() -> None:
    """The second value of an option is a symbol to the compiler, not a number."""
    torch.compiler.reset()
    compiled = torch.compile(lambda loss, p, t: loss(p, t), backend="eager", fullgraph=True)
    scores, teacher = torch.randn(2, 8, 3)
    for text in ("kl", "kl(temperature=3)", "kl(temperature=2.5)", "kl(temperature=4.5)", "hint"):
        loss = losses.get(text)
        assert torch.allclose(compiled(loss, scores, teacher), loss(scores, teacher))
    for text in ("cross_entropy(smoothing=0.1)", "cross_entropy(smoothing=0.2)"):
        loss = losses.get(text)
        assert torch.allclose(compiled(loss, scores, LABELS), loss(scores, LABELS))


def test_losses_are_got_by_name_or_brought() -> None:
    assert losses.get("cross_entropy") is losses.cross_entropy
    assert losses.get(F.mse_loss) is F.mse_loss
    assert losses.show("cross_entropy") == "cross_entropy"
    assert losses.show(F.mse_loss) == "custom:mse_loss"
    assert losses.show(torch.nn.MSELoss()) == "custom:MSELoss"
    with pytest.raises(ConfigError) as caught:
        losses.get("crossentropy")
    assert str(caught.value).startswith(
        "no loss is called 'crossentropy'. Closest: cross_entropy. Losses: cross_entropy"
    )
    with pytest.raises(ConfigError, match="no loss is called"):
        losses.get(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no loss is called"):
        losses.get(["kl"])  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [text for text, _ in EVERY if "(" in text])
def test_a_loss_with_options_prints_pickles_and_compares_as_its_text(text: str) -> None:
    torch.compiler.reset()
    loss = losses.get(text)
    assert repr(loss) == losses.show(loss) == losses.show(text) == text
    copy = pickle.loads(pickle.dumps(loss))
    assert copy == loss == losses.get(losses.show(copy))
    assert hash(copy) == hash(loss)
    assert loss != losses.get(losses.read(text)[0])


def test_a_bound_option_is_used() -> None:
    prediction, teacher = torch.randn(2, 4, 5)
    assert torch.equal(
        losses.get("kl(temperature=3)")(prediction, teacher), losses.kl(prediction, teacher, temperature=3)
    )
    assert not torch.equal(losses.get("kl(temperature=3)")(prediction, teacher), losses.kl(prediction, teacher))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kl(temperature=0)", "loss 'kl' needs temperature to be a finite number above 0; found 0."),
        ("kl(temperature=-1)", "loss 'kl' needs temperature to be a finite number above 0; found -1."),
        ("supcon(temperature=1e999)", "loss 'supcon' needs temperature to be a finite number above 0; found inf."),
        ("simclr(temperature=True)", "loss 'simclr' needs temperature to be a finite number above 0; found True."),
        ("kl(temperature='3')", "loss 'kl' needs temperature to be a finite number above 0; found '3'."),
        ("kl(squared=1)", "loss 'kl' needs squared to be True or False; found 1."),
        ("cross_entropy(smoothing=1)", "loss 'cross_entropy' needs smoothing to be a number in [0, 1); found 1."),
        ("cross_entropy(smoothing=-0.1)", "loss 'cross_entropy' needs smoothing to be a number in [0, 1); found -0.1."),
        (
            "squared_hinge(form='both')",
            "loss 'squared_hinge' needs form to be 'multiclass' or 'one-vs-rest'; found 'both'.",
        ),
        ("squared_hinge(form=['multiclass'])", "loss 'squared_hinge' needs form to be"),
        ("kl(temprature=3)", "loss 'kl' has no option 'temprature'. Options: temperature, squared. Closest: temperature."),
        ("hint(weight=3)", "loss 'hint' has no option 'weight'. Options: none."),
        ("kl(3)", "no loss is called 'kl(3)'. Closest: kl. Options are written by name"),
    ],
)  # fmt: skip
def test_an_option_that_cannot_be_is_refused_when_it_is_read(text: str, message: str) -> None:
    for look in (losses.get, losses.read, losses.check, losses.describe):
        with pytest.raises(ConfigError) as caught:
            look(text)
        assert str(caught.value).startswith(message)


def test_functions_check_their_options_too() -> None:
    scores, labels = torch.zeros(4, 5), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ConfigError, match="loss 'kl' needs temperature"):
        losses.kl(scores, scores, temperature=0)
    with pytest.raises(ConfigError, match="loss 'squared_hinge' needs form"):
        losses.squared_hinge(scores, labels, form="both")
    with pytest.raises(ConfigError, match="loss 'supcon' needs temperature"):
        losses.supcon(scores, labels, temperature=-1)
    with pytest.raises(ConfigError, match="loss 'cross_entropy' needs smoothing"):
        losses.cross_entropy(scores, labels, smoothing=2)


def test_what_a_loss_reads() -> None:
    maps, one = losses.Kind(resizes=True), losses.Kind(binary=True, one_channel=True, resizes=True)
    labels, teacher, crops = losses.Kind(), losses.Kind(scores=False, teacher=True), losses.Kind(scores=False, views=2)
    assert losses.describe("cross_entropy(smoothing=0.1)") == maps == (True, False, 1, False, False, True, False)
    assert losses.describe("binary(resize='area')") == one
    assert losses.describe("balanced") == one._replace(only_one_channel=True)
    assert losses.describe("dice") == losses.describe("dice_cross_entropy") == maps._replace(one_channel=True)
    assert losses.describe(losses.squared_hinge) == labels
    assert losses.describe("kl(temperature=3)") == losses.describe(losses.kl) == losses.describe("hint") == teacher
    assert losses.describe("supcon") == losses.describe(losses.get("simclr(temperature=0.5)")) == crops
    assert losses.describe("none") == losses.Kind(scores=False)


def test_a_loss_of_the_users_own_reads_labels_unless_it_says_otherwise() -> None:
    def kl(prediction: Tensor, target: Tensor) -> Tensor:  # the name alone makes it no loss of ours
        return prediction.sum()

    class Pairs(nn.Module):
        scores, views = False, 2

    assert losses.describe(kl) == losses.describe(nn.CrossEntropyLoss()) == losses.Kind()
    assert losses.describe(Pairs()) == losses.Kind(scores=False, views=2)
    kl.teacher = True  # type: ignore[attr-defined]
    assert losses.describe(kl) == losses.Kind(teacher=True)
