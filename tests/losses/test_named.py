"""Losses by name: what is found, what a text may give, and what a new one takes."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Annotated, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import losses
from deepsup.errors import ConfigError, HeadError
from deepsup.losses import named
from deepsup.settings.training import SuperviseConfig
from deepsup.specs import at_least
from tests.support.slow_losses import number
from tests.support.small_nets import Plain, images, labels


@pytest.fixture
def _focal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss as a new file of the room would have it, taken back afterwards."""
    monkeypatch.setattr(named.LOSSES, "_known", dict(named.LOSSES._known))
    monkeypatch.setattr(named, "_READ", dict(named._READ))

    @named.loss()
    def focal(prediction: Tensor, target: Tensor, *, gamma: Annotated[float, at_least(0)] = 2.0) -> Tensor:
        own = prediction.log_softmax(1).gather(1, target[:, None])
        return -((1 - own.exp()) ** gamma * own).mean()


@pytest.mark.usefixtures("_focal")
def test_a_new_loss_is_one_function() -> None:
    loss = losses.get("focal(gamma=2)")
    assert losses.show(loss) == "focal(gamma=2)"
    assert losses.describe("focal") == losses.Kind()
    with pytest.raises(ConfigError, match="loss 'focal' needs gamma to be a number of at least 0; found -1"):
        losses.get("focal(gamma=-1)")
    with pytest.raises(ConfigError, match=r"no loss is called 'focl'\. Closest: focal\."):
        losses.get("focl")
    assert SuperviseConfig(at=["conv2"], loss="focal(gamma=1)").loss == "focal(gamma=1)"


@pytest.mark.usefixtures("_focal")
def test_plans_and_objectives_take_a_new_loss() -> None:
    plan = ds.plan(Plain(), images(), at="conv1", branch_loss="focal(gamma=2)", loss="focal")
    assert "focal(gamma=2)" in str(plan)
    assert ds.Plan.from_dict(plan.to_dict()) == plan
    net = ds.attach(Plain(), plan)
    with ds.supervising(net):
        total = ds.Objective(plan)(net(images()), labels(), progress=0).total
    total.backward()
    assert 0 < total.item() < 100


def test_a_name_that_is_taken_is_refused() -> None:
    def kl(prediction: Tensor, target: Tensor) -> Tensor:
        return prediction.sum()

    with pytest.raises(ValueError, match="two are registered as loss 'kl'"):
        named.loss()(kl)
    assert losses.LOSSES["kl"] is losses.kl


def test_scores_of_several_channels_are_not_for_a_loss_of_one() -> None:
    losses.check_channels("balanced", 1)
    losses.check_channels("binary", 3)
    with pytest.raises(
        HeadError, match=r"loss 'balanced' tells two classes apart by one score a place.* has 3 channels"
    ):
        losses.check_channels("balanced(ignore_index=255)", 3)


def test_what_a_loss_reads_can_be_asked_in_a_compiled_graph() -> None:
    torch.compiler.reset()
    compiled = torch.compile(lambda s: losses.probabilities(s, "labels"), backend="eager", fullgraph=True)
    scores = torch.randn(2, 3)
    assert torch.equal(compiled(scores), scores.sigmoid())


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
    ("triplet", LABELS),
    ("triplet(margin='soft', normalise=True)", LABELS),
    ("none", LABELS),
    *(
        (text, "teacher")
        for text in ("mse", "l1", "huber(delta=0.5)", "smooth_l1(beta=0.5)", "cosine", "kl(eps=1e-08)")
    ),
]
HERE = pytest.mark.parametrize(("text", "against"), EVERY, ids=[text for text, _ in EVERY])


def inputs(against: Any, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Any]:
    draw = torch.Generator().manual_seed(0)
    prediction = torch.randn(8, 3, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    return prediction, torch.randn(8, 3, generator=draw).to(dtype) if isinstance(against, str) else against


OF_DETACHED_FACTORS = {"circle"}  # test_metric.py: its gradient is not that of its value
# test_pixelwise.py, test_sigmoid.py, test_overlap.py, test_import_paths.py
ON_MAPS = {"binary", "balanced", "dice", "dice_cross_entropy", "imported"}


def test_every_loss_is_in_the_list() -> None:
    assert {losses.read(text)[0] for text, _ in EVERY} | ON_MAPS | OF_DETACHED_FACTORS == set(losses.LOSSES)


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
        ("kl(temperature=0)", "loss 'kl' needs temperature to be a number above 0, at most 100; found 0."),
        ("kl(temperature=-1)", "loss 'kl' needs temperature to be a number above 0, at most 100; found -1."),
        ("supcon(temperature=1e999)", "loss 'supcon' needs temperature to be a finite number above 0; found inf."),
        ("simclr(temperature=True)", "loss 'simclr' needs temperature to be a finite number above 0; found True."),
        ("kl(temperature='3')", "loss 'kl' needs temperature to be a number above 0, at most 100; found '3'."),
        ("kl(squared=1)", "loss 'kl' needs squared to be True or False; found 1."),
        ("cross_entropy(smoothing=1)", "loss 'cross_entropy' needs smoothing to be a number in [0, 1); found 1."),
        ("cross_entropy(smoothing=-0.1)", "loss 'cross_entropy' needs smoothing to be a number in [0, 1); found -0.1."),
        (
            "squared_hinge(form='both')",
            "loss 'squared_hinge' needs form to be 'multiclass' or 'one-vs-rest'; found 'both'.",
        ),
        ("squared_hinge(form=['multiclass'])", "loss 'squared_hinge' needs form to be"),
        ("kl(temprature=3)", "loss 'kl' has no option 'temprature'. Options: temperature, squared, eps, ratio. Closest: tem"),
        ("hint(weight=3)", "loss 'hint' has no option 'weight'. Options: squared."),
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
    sigmoid, both = ("labels", "class"), ("class", "labels")
    maps, one = losses.Kind(resizes=True), losses.Kind(binary=True, one_channel=True, resizes=True, kinds=sigmoid)
    labels, teacher = losses.Kind(), losses.Kind(scores=False, teacher=True, kinds=both)
    crops = losses.Kind(scores=False, views=2, kinds=())
    values = losses.Kind(resizes=True, kinds=("values",))
    assert losses.describe("cross_entropy(smoothing=0.1)") == maps
    assert {losses.describe(name) for name in ("mse", "l1", "huber(delta=2)", "smooth_l1")} == {values}
    assert losses.describe("cosine") == values._replace(mean="vectors")
    assert losses.describe("binary(resize='area')") == one
    assert losses.describe("balanced") == one._replace(only_one_channel=True, mean="samples")
    overlap = maps._replace(one_channel=True, kinds=both)
    assert losses.describe("dice_cross_entropy") == overlap
    assert losses.describe("dice") == overlap._replace(mean="samples")
    assert losses.describe(losses.squared_hinge) == labels
    assert losses.describe("kl(temperature=3)") == losses.describe(losses.kl) == teacher
    assert losses.describe("hint") == teacher._replace(kinds=())
    assert losses.describe("supcon") == losses.describe(losses.get("simclr(temperature=0.5)")) == crops
    assert losses.describe("none") == losses.Kind(scores=False, kinds=())


def test_a_loss_of_the_users_own_reads_labels_unless_it_says_otherwise() -> None:
    def kl(prediction: Tensor, target: Tensor) -> Tensor:  # the name alone makes it no loss of ours
        return prediction.sum()

    class Pairs(nn.Module):
        scores, views = False, 2

    assert losses.describe(nn.CrossEntropyLoss()) == losses.Kind()
    assert losses.describe(kl) == losses.Kind(kinds=())
    assert losses.describe(Pairs()) == losses.Kind(scores=False, views=2, kinds=())
    kl.teacher = True  # type: ignore[attr-defined]
    assert losses.describe(kl) == losses.Kind(teacher=True, kinds=())


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (nn.functional.cross_entropy, "class"),
        (partial(nn.functional.cross_entropy, label_smoothing=0.1), "class"),
        (nn.NLLLoss(), "class"),
        (nn.BCEWithLogitsLoss(), "labels"),
        (partial(partial(nn.functional.binary_cross_entropy_with_logits), reduction="mean"), "labels"),
        (nn.functional.mse_loss, "values"),
        (nn.SmoothL1Loss(), "values"),
    ],
)
def test_what_pytorchs_losses_read_is_known(loss: Any, kind: str) -> None:
    assert losses.describe(loss).kinds == (kind,)
    assert losses.reads_first_axis(loss)


def test_probabilities_are_what_the_loss_takes_scores_for() -> None:
    scores = torch.randn(2, 1, 3, 3)
    assert torch.equal(losses.probabilities(scores, "labels"), scores.sigmoid())
    assert torch.equal(losses.probabilities(scores, "class"), scores.sigmoid())  # one score tells two classes apart
    wide = torch.randn(2, 4, 3, 3)
    assert torch.equal(losses.probabilities(wide, "class"), wide.softmax(1))
    assert torch.equal(losses.probabilities(wide), wide.softmax(1))
    assert torch.equal(losses.probabilities(wide, "labels"), wide.sigmoid())
