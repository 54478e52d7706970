"""The weights of heads: a last layer at zero, and their norm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deepsup import heads
from deepsup.errors import HeadError
from tests.support.activations import FEATURES, activation
from tests.support.small_nets import CLASSES


@pytest.mark.parametrize("text", ["pool", "cnds(hidden=8)", "googlenet(hidden=8)", "mixed", "bottleneck", "sepconv"])
def test_a_zero_head_scores_all_alike_and_sends_no_gradient(text: str) -> None:
    head = heads.build(text, FEATURES["NCHW"], CLASSES).eval()
    assert heads.zero(head, FEATURES["NCHW"]) is head
    x = activation(FEATURES["NCHW"]).requires_grad_()
    out = head(x)
    scores = out["scores"] if isinstance(out, dict) else out
    assert not scores.any()
    torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1, 2])).backward()
    assert not x.grad.any()
    last = [m for m in head.modules() if isinstance(m, nn.Linear)][-1]
    assert last.weight.grad.any()
    assert last.bias.grad.any()
    assert all(p.requires_grad for p in head.parameters())


def test_zero_leaves_all_other_layers_as_they_are() -> None:
    head = nn.Sequential(nn.Conv1d(6, 6, 1), nn.ReLU(), nn.Conv1d(6, CLASSES, 1, bias=False), nn.BatchNorm1d(CLASSES))
    first = head[0].weight.clone()
    heads.zero(head, FEATURES["NCL"])
    assert torch.equal(head[0].weight, first)
    assert not head[2].weight.any()
    assert head[3].weight.all()


class Backwards(nn.Module):
    """Registers the layer that scores first, has one that never runs, and normalises between the two."""

    def __init__(self) -> None:
        super().__init__()
        self.score, self.norm, self.hidden = nn.Linear(6, CLASSES), nn.BatchNorm1d(6), nn.Linear(6, 6)
        self.unused = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(self.norm(self.hidden(x)))


@pytest.mark.parametrize("training", [True, False])
def test_zero_finds_the_layer_that_runs_last_and_leaves_nothing_else_behind(training: bool) -> None:
    head = Backwards().double().train(training)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    state = torch.get_rng_state()
    heads.zero(head, FEATURES["NC"])
    after = head.state_dict()
    assert {n for n in before if not torch.equal(before[n], after[n])} == {"score.weight", "score.bias"}
    assert not any(after[n].any() for n in ("score.weight", "score.bias"))
    assert all(m.training == training and not m._forward_hooks for m in head.modules())
    assert torch.equal(state, torch.get_rng_state())


def test_a_head_without_a_layer_to_zero_is_a_head_error() -> None:
    with pytest.raises(HeadError, match=r"the head custom:Pooling has no linear or convolutional layer"):
        heads.zero(heads.build("mean", FEATURES["NCHW"], CLASSES), FEATURES["NCHW"])


def test_squared_norm_sums_the_squares_of_weights_but_not_of_biases() -> None:
    head = heads.build("bottleneck", FEATURES["NCHW"], CLASSES)
    weights = [m.weight for m in head.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    expected = sum(float(v) ** 2 for w in weights for v in w.detach().flatten())
    found = heads.squared_norm(head)
    assert (found.shape, float(found.detach())) == ((), pytest.approx(expected, rel=1e-5))
    found.backward()
    assert all(torch.allclose(w.grad, 2 * w) for w in weights)
    assert all(p.grad is None for p in head.parameters() if p.ndim == 1)


def test_squared_norm_in_other_precisions_and_of_nothing() -> None:
    wide, narrow = nn.Linear(50, 50).double(), nn.Linear(50, 50).half()
    narrow.weight.data.fill_(100)
    assert heads.squared_norm(wide).dtype == torch.float64
    assert float(heads.squared_norm(narrow).detach()) == 2500 * 1e4  # far above what half precision holds
    assert float(heads.squared_norm(nn.Flatten())) == 0
