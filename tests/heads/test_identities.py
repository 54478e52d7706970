"""Heads for identities: by their formulas, to the parameter, in what they begin with and what they never learn."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup import heads
from deepsup.errors import HeadError
from deepsup.features import Feature
from deepsup.heads.identities import GeM, Neck, Scoring, Stripe
from deepsup.heads.modules import Pooling
from deepsup.layers.last_linear import LastLinear, last_linear
from tests.support.activations import FEATURES, activation, parameters
from tests.support.small_nets import CLASSES, Residual, images

MAP = Feature((6, 7, 9), "NCHW")


@pytest.mark.parametrize("layout", FEATURES)
@pytest.mark.parametrize("pool", ["avg", "gem"])
def test_neck_pools_normalises_without_shift_and_scores_without_bias(layout: str, pool: str) -> None:
    feature = FEATURES[layout]
    head = heads.build(f"neck(pool={pool!r})", feature, CLASSES)
    head[-2].weight.data.uniform_(0.5, 2)
    x = activation(feature, 4)
    pooled = x
    if feature.size:
        pooled = x.mean(feature.places) if pool == "avg" else x.clamp(min=1e-6).pow(3).mean(feature.places) ** (1 / 3)
    spread = (pooled - pooled.mean(0)) / (pooled.var(0, correction=0) + 1e-5).sqrt()
    assert torch.allclose(head(x), (spread * head[-2].weight) @ head[-1].weight.T, atol=1e-6)
    learned = 1 if pool == "gem" and feature.size else 0
    assert parameters(head) == 6 + 6 * CLASSES + learned
    expected = LastLinear(str(len(head) - 1), str(len(head) - 2))
    assert last_linear(head, lambda: head(x)) == expected


def test_neck_begins_as_published_and_of_dim_is_as_wide() -> None:
    torch.manual_seed(0)
    head = heads.build("neck(dim=64)", Feature((512, 4, 2), "NCHW"), 751)
    assert float(head[-1].weight.detach().std()) == pytest.approx(0.001, rel=0.02)
    assert parameters(head) == 512 * 64 + 64 + 64 * 751
    assert not [name for name, _ in head.named_parameters() if "bias" in name]


def test_the_generalised_mean_lies_between_mean_and_maximum_and_is_learned() -> None:
    x = torch.rand(2, 3, 5, 4).requires_grad_(True)
    pool = GeM(2, 3)
    found = pool(x)
    slow = [[sum(float(v) ** 3 for v in m.flatten()) / 20 for m in sample] for sample in x.detach()]
    assert torch.allclose(found, torch.tensor(slow) ** (1 / 3), atol=1e-6)
    assert (found > x.mean((2, 3))).all()
    assert (found < x.amax((2, 3))).all()
    found.sum().backward()
    assert pool.p.grad.abs() > 0
    pool.p.data.fill_(1)
    assert torch.allclose(pool(x), x.mean((2, 3)), atol=1e-6)
    assert pool(torch.full((1, 2, 3, 3), -1.0)).isfinite().all()
    pool.reset_parameters()
    assert pool.p.item() == 3


def test_the_generalised_mean_leaves_out_what_a_mask_says_is_not_there() -> None:
    head = heads.build("neck(pool='gem')", FEATURES["NLC"], CLASSES).eval()
    assert isinstance(head, Pooling)
    x, mask = activation(FEATURES["NLC"]).abs(), torch.arange(10).expand(3, 10) < 4
    assert torch.allclose(head(x, mask), head(x[:, :4]), atol=1e-6)


def test_a_lone_sample_is_normalised_as_in_evaluation() -> None:
    neck = Neck(4)
    x = torch.randn(1, 4)
    assert torch.equal(neck(x), copy.deepcopy(neck).eval()(x))
    neck.running_mean += 1
    neck.reset_parameters()
    assert not neck.running_mean.any()


@pytest.mark.parametrize(("rows", "of"), [(24, 6), (7, 3), (6, 6)])
def test_stripes_are_cut_as_adaptive_pooling_cuts(rows: int, of: int) -> None:
    x = torch.randn(2, 6, rows, 5)
    expected = F.adaptive_avg_pool2d(x, (of, 1))[..., 0]
    found = torch.stack([Stripe(i, of)(x) for i in range(of)], 2)
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_stripe_reduces_normalises_and_scores() -> None:
    torch.manual_seed(0)
    head = heads.build("stripe(index=5)", Feature((2048, 24, 8), "NCHW"), 751)
    assert parameters(head) == 2048 * 256 + 2 * 256 + 256 * 751
    assert float(head[-1].weight.detach().std()) == pytest.approx(0.001, rel=0.02)
    assert float(head[1].weight.detach().std()) == pytest.approx((2 / 256) ** 0.5, rel=0.02)
    x = torch.randn(3, 2048, 24, 8)
    z = x[:, :, 20:].mean((2, 3)) @ head[1].weight.T
    z = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()).relu()
    assert torch.allclose(head(x), z @ head[-1].weight.T, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stripe", "missing 1 required keyword-only argument: 'index'"),
        ("stripe(index=6)", "one of 6 stripes, 0 to 5.*index=6 of a map of 7x9"),
        ("stripe(index=0, of=8)", "at least as many rows; .*7x9"),
        ("stripe(index=-1)", "index"),
        ("stripe(index=0, dim=0)", "dim"),
        ("neck(pool='max')", "'avg' or 'gem'"),
        ("neck(dim=0)", "dim.*None or a whole number"),
    ],
)
def test_what_cannot_be_is_refused(text: str, says: str) -> None:
    with pytest.raises(HeadError, match=says):
        heads.build(text, MAP, CLASSES)


class Necked(Residual):
    """Ends in pooling, a neck and its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.neck, self.fc = GeM(2, 3), Neck(8), Scoring(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x)))))
        return self.fc(self.neck(self.pool(x)))


@pytest.mark.parametrize("head", ["continuation", "continuation(width=0.5)", "continuation(width=2)"])
def test_a_branch_that_repeats_the_trunk_has_its_neck_begun_as_published(head: str) -> None:
    torch.manual_seed(0)
    model = Necked()
    model.pool.p.data.fill_(5)
    plan = ds.plan(model, images(), at=["layer1"], head=head, embedding_loss="triplet")
    net = ds.attach(model, plan)
    branch = net.heads["layer1"]
    assert float(branch.fc.weight.detach().abs().max()) < 0.006
    assert branch.neck.bias is None
    assert branch.pool.p.item() == 3
    assert [(e.layer, e.neck) for e in plan.embeddings] == [("fc", "neck")] * 2
    y = torch.tensor([0, 0, 1, 1])
    ds.Objective(plan)(net(images(4)), y).total.backward()
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net.model)).neck, nn.SyncBatchNorm)
