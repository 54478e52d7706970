"""Triplet and circle loss against slow loops over anchors, and where there is nothing to compare."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from deepsup import losses
from deepsup.errors import ConfigError, HeadError
from tests.support.slow_losses import number

IDENTITIES = [
    [0, 0, 1, 1, 2, 2],
    [5, 5, 5, 9, 9, 1],  # any number of images an identity; the last has no other
    [3, -100, 3, 4, -100, 4],
]


def others(labels: list[int], a: int) -> tuple[list[int], list[int]]:
    known = [i for i in range(len(labels)) if i != a and labels[i] != -100 and labels[a] != -100]
    return [i for i in known if labels[i] == labels[a]], [i for i in known if labels[i] != labels[a]]


def slow_triplet(z: Tensor, labels: list[int], margin: float | str) -> float:
    terms = []
    for a in range(len(labels)):
        same, other = others(labels, a)
        if same and other:
            apart = max(math.dist(z[a], z[p]) for p in same) - min(math.dist(z[a], z[n]) for n in other)
            terms.append(math.log1p(math.exp(apart)) if isinstance(margin, str) else max(0.0, margin + apart))
    return math.fsum(terms) / max(1, len(terms))


def slow_circle(z: Tensor, labels: list[int], margin: float, gamma: float) -> float:
    terms = []
    for a in range(len(labels)):
        same, other = others(labels, a)
        if same and other:
            s = torch.nn.functional.cosine_similarity(z[a][None], z).tolist()
            near = sum(math.exp(-gamma * max(0.0, 1 + margin - s[p]) * (s[p] - 1 + margin)) for p in same)
            far = sum(math.exp(gamma * max(0.0, s[n] + margin) * (s[n] - margin)) for n in other)
            terms.append(math.log1p(near * far))
    return math.fsum(terms) / max(1, len(terms))


@pytest.mark.parametrize("labels", IDENTITIES, ids=str)
@pytest.mark.parametrize("margin", [0.0, 0.3, 5.0, "soft"])
@pytest.mark.parametrize("normalise", [False, True])
def test_triplet_is_a_loop_over_anchors(labels: list[int], margin: float | str, normalise: bool) -> None:
    z = torch.randn(6, 7, generator=torch.manual_seed(1), dtype=torch.float64)
    value = losses.triplet(z, torch.tensor(labels), margin=margin, normalise=normalise)
    assert value.shape == ()
    scaled = torch.nn.functional.normalize(z) if normalise else z
    assert number(value) == pytest.approx(slow_triplet(scaled, labels, margin), rel=1e-12)


@pytest.mark.parametrize("labels", IDENTITIES, ids=str)
@pytest.mark.parametrize(("margin", "gamma"), [(0.25, 64.0), (0.0, 1.0), (0.4, 16.0)])
def test_circle_is_a_loop_over_anchors(labels: list[int], margin: float, gamma: float) -> None:
    z = torch.randn(6, 7, generator=torch.manual_seed(2), dtype=torch.float64)
    value = losses.circle(z, torch.tensor(labels), margin=margin, gamma=gamma)
    assert number(value) == pytest.approx(slow_circle(z, labels, margin, gamma), rel=1e-10)


def drawn(seed: int, ids: int = 4, each: int = 4) -> tuple[Tensor, Tensor]:
    """Features of so many identities with so many images each, as a draw of P identities with K images has them."""
    z = torch.randn(ids * each, 16, generator=torch.manual_seed(seed), dtype=torch.float64)
    return z, torch.arange(ids).repeat_interleave(each)[torch.randperm(ids * each, generator=torch.manual_seed(seed))]


def rule_of_torchreid(z: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Of each row of a table of distances the farthest of its identity, itself included, and the nearest of another; a ranking
    loss over all rows: what torchreid's and fast-reid's hard triplet losses say.
    """
    far = torch.cdist(z, z)
    same = labels[:, None] == labels
    positive = torch.stack([far[i][same[i]].max() for i in range(len(z))])
    negative = torch.stack([far[i][~same[i]].min() for i in range(len(z))])
    return torch.nn.functional.margin_ranking_loss(negative, positive, torch.ones_like(positive), margin=margin)


def rule_of_the_strong_baseline(z: Tensor, labels: Tensor, margin: float | None) -> Tensor:
    """K images of each identity in one order; without a margin the soft one."""
    far = (z.square().sum(1)[:, None] + z.square().sum(1) - 2 * z @ z.T).clamp(min=1e-12).sqrt()
    n = len(z)
    same = labels.expand(n, n).eq(labels.expand(n, n).t())
    positive, negative = far[same].view(n, -1).amax(1), far[~same].view(n, -1).amin(1)
    one = torch.ones_like(positive)
    if margin is None:
        return torch.nn.functional.soft_margin_loss(negative - positive, one)
    return torch.nn.functional.margin_ranking_loss(negative, positive, one, margin=margin)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("margin", [0.0, 0.3, 2.0])
def test_the_triplet_is_that_of_other_libraries_where_each_identity_has_several_images(
    seed: int, margin: float
) -> None:
    z, labels = drawn(seed)
    ours = losses.triplet(z, labels, margin=margin)
    torch.testing.assert_close(ours, rule_of_torchreid(z, labels, margin))
    torch.testing.assert_close(ours, rule_of_the_strong_baseline(z, labels, margin))
    soft = losses.triplet(z, labels, margin="soft")
    torch.testing.assert_close(soft, rule_of_the_strong_baseline(z, labels, None))


def test_an_image_alone_of_its_identity_is_no_anchor_here_and_pulls_at_itself_there() -> None:
    z, labels = drawn(0)
    labels[labels == 0] = torch.tensor([0, 10, 11, 12])  # four identities of one image each
    alone = ~torch.isin(labels, torch.tensor([1, 2, 3]))
    assert number(losses.triplet(z, labels, margin=9)) == pytest.approx(slow_triplet(z, labels.tolist(), 9))
    theirs = rule_of_torchreid(z, labels, 9)
    far = torch.cdist(z, z) + torch.eye(len(z)) * 1e9
    extra = (9 - far[alone].amin(1)).clamp(min=0).sum()
    counted = losses.triplet(z, labels, margin=9) * (~alone).sum()
    torch.testing.assert_close(theirs, (counted + extra) / len(z))


@pytest.mark.parametrize("margin", [0.3, 2.0])
@pytest.mark.parametrize("normalise", [False, True])
def test_the_triplet_is_that_of_pytorch_metric_learning_with_its_own_ways_switched_off(
    margin: float, normalise: bool
) -> None:
    from pytorch_metric_learning import distances, miners
    from pytorch_metric_learning import losses as theirs
    from pytorch_metric_learning.reducers import MeanReducer

    distance = distances.LpDistance(normalize_embeddings=normalise)
    mine = miners.BatchHardMiner(distance=distance)
    loss = theirs.TripletMarginLoss(margin=margin, distance=distance, reducer=MeanReducer())
    for seed in range(3):
        z, labels = drawn(seed, ids=5, each=3)
        expected = loss(z, labels, mine(z, labels))
        torch.testing.assert_close(losses.triplet(z, labels, margin=margin, normalise=normalise), expected)


@pytest.mark.parametrize(("margin", "gamma"), [(0.25, 64), (0.4, 80)])
def test_circle_is_that_of_pytorch_metric_learning(margin: float, gamma: float) -> None:
    from pytorch_metric_learning.losses import CircleLoss
    from pytorch_metric_learning.reducers import MeanReducer

    z, labels = drawn(1)
    expected = CircleLoss(m=margin, gamma=gamma, reducer=MeanReducer())(z, labels)
    torch.testing.assert_close(losses.circle(z, labels, margin=margin, gamma=gamma), expected)


def test_gradients_of_the_triplet_are_those_of_its_value() -> None:
    z = torch.randn(8, 3, generator=torch.manual_seed(3), dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3])
    for text in ("triplet", "triplet(margin='soft')", "triplet(margin=2, normalise=True)"):
        assert torch.autograd.gradcheck(lambda p, text=text: losses.get(text)(p, target), z)


def test_gradients_of_circle_do_not_pass_its_factors() -> None:
    z = torch.randn(8, 3, generator=torch.manual_seed(4), dtype=torch.float64, requires_grad=True)
    target, gamma, margin = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2]), 4.0, 0.25
    losses.circle(z, target, gamma=gamma).backward()
    unit = torch.nn.functional.normalize(z.detach())
    fixed = unit @ unit.T
    alone = z.detach().clone().requires_grad_()

    def with_factors_held(p: Tensor) -> Tensor:
        unit = torch.nn.functional.normalize(p)
        s, total = unit @ unit.T, torch.zeros((), dtype=torch.float64)
        for a in range(8):
            same, other = others(target.tolist(), a)
            near = torch.stack([-gamma * (1 + margin - fixed[a, i]).relu() * (s[a, i] - 1 + margin) for i in same])
            far = torch.stack([gamma * (fixed[a, i] + margin).relu() * (s[a, i] - margin) for i in other])
            total = total + torch.log1p((near.logsumexp(0) + far.logsumexp(0)).exp()) / 8
        return total

    with_factors_held(alone).backward()
    torch.testing.assert_close(z.grad, alone.grad)


@pytest.mark.parametrize("text", ["triplet", "triplet(margin='soft')", "circle"])
@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [7, 7, 7, 7], [-100, -100, 0, 0], [4]], ids=str)
def test_without_an_anchor_that_counts_value_and_gradient_are_0(text: str, labels: list[int]) -> None:
    z = torch.randn(len(labels), 3, requires_grad=True)
    value = losses.get(text)(z, torch.tensor(labels))
    value.backward()
    assert number(value) == 0
    assert torch.equal(z.grad, torch.zeros_like(z))


@pytest.mark.parametrize("text", ["triplet", "triplet(margin='soft')", "circle"])
def test_equal_images_have_a_finite_gradient(text: str) -> None:
    z = torch.ones(4, 3, requires_grad=True)
    losses.get(text)(z, torch.tensor([0, 0, 1, 1])).backward()
    assert z.grad.isfinite().all()


def test_features_far_from_the_origin_keep_their_distances() -> None:
    z = torch.randn(6, 7, generator=torch.manual_seed(5)) + 4096.0
    value = losses.triplet(z, torch.tensor(IDENTITIES[0]), margin="soft")
    assert number(value) == pytest.approx(slow_triplet(z.double(), IDENTITIES[0], "soft"), rel=1e-5)


@pytest.mark.parametrize("text", ["triplet", "circle"])
@pytest.mark.parametrize(
    ("shape", "target"), [((4, 3, 2), torch.zeros(4).long()), ((4, 3), torch.zeros(3).long()), ((4, 3), torch.zeros(4))]
)
def test_other_shapes_are_refused(text: str, shape: tuple[int, ...], target: Tensor) -> None:
    with pytest.raises(HeadError, match=rf"{text} needs features \(N, D\) and identities"):
        losses.get(text)(torch.randn(shape), target)


@pytest.mark.parametrize(
    "text",
    ["triplet(margin=-1)", "triplet(margin='hard')", "triplet(normalise=1)", "circle(gamma=0)", "circle(margin=-0.1)"],
)
def test_options_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"needs (margin|gamma|normalise) to be"):
        losses.check(text)
