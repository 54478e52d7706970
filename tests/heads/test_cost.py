"""What a head costs, against counts by hand, and counts as they are printed."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, nn

from deepsup import heads
from deepsup.errors import HeadError
from deepsup.features import Feature
from deepsup.heads.cost import Price, millions, price
from tests.support.registering import registered

MAP = Feature((16, 8, 8), "NCHW")


def test_a_linear_layer_costs_what_the_hand_counts() -> None:
    # 16 means, then 10 x 16 weights and 10 biases; a multiplication and an addition for each weight
    assert price("early", "pool", MAP, 10) == Price((2, 10), 170, 2 * 160, 4 * (16 + 10))


def test_a_convolutional_head_costs_what_the_hand_counts() -> None:
    def head(feature: Feature, classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(feature.channels, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, classes))

    found = price("early", head, MAP, 5)
    assert found.shape == (2, 5)
    assert found.params == (16 * 4 * 9 + 4) + (256 * 5 + 5)
    assert found.flops == 2 * (64 * 16 * 4 * 9 + 256 * 5)
    assert found.activation_bytes == 4 * (256 + 256 + 5)


def test_a_head_as_large_as_a_house_is_priced_at_once() -> None:
    found = price("early", "linear", Feature((4096, 512, 512), "NCHW"), 100_000)
    assert found.params == 4096 * 512 * 512 * 100_000 + 100_000  # 400 TB, were it built


def test_pricing_moves_no_random_number_and_no_module() -> None:
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(1024), nn.Linear(1024, 5))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    states = torch.get_rng_state(), random.getstate()
    price("early", module, MAP, 5)
    price("early", "cnds", MAP, 5)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert not any(m._forward_hooks for m in module.modules())


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Named(nn.Module):
    """Gives out what `names` say: the mean of each channel, or nothing, under each."""

    def __init__(self, *names: str, value: object = None) -> None:
        super().__init__()
        self.names, self.value = names, value

    def forward(self, x: Tensor) -> dict[str, object]:
        return {name: x.mean((2, 3)) if self.value is None else self.value for name in self.names}


def test_a_head_with_more_than_scores_is_priced_as_a_whole() -> None:
    found = price("early", "bottleneck(channels=32, steps=1)", MAP, 10)
    middle = 32 // 4
    convolutions = (16 * middle + middle) + (middle * middle * 4 + middle) + (middle * 32 + 32)
    assert found.shape == (2, 10)
    assert found.extras == {"feature": (2, 32)}
    assert found.params == convolutions + 2 * (2 * middle + 32) + 32 * 10 + 10
    macs = 64 * 16 * middle + 16 * middle * middle * 4 + 16 * middle * 32 + 32 * 10
    assert found.flops == 2 * macs
    # of each layer: three convolutions with their normalisation and ReLU, the mean, the scores
    assert found.activation_bytes == 4 * (3 * (64 * middle + 16 * middle + 16 * 32) + 32 + 10)


def test_scores_are_found_wherever_they_stand_in_the_dict() -> None:
    found = price("early", Named("feature", "scores", "more"), MAP, 16)
    assert (found.shape, found.extras) == ((2, 16), {"feature": (2, 16), "more": (2, 16)})
    assert price("early", nn.Flatten(), MAP, 1024).extras == {}


def test_what_a_leaf_gives_out_in_a_dict_is_kept_too() -> None:
    assert price("early", Named("scores", "feature"), MAP, 16).activation_bytes == 4 * 2 * 16


@pytest.mark.parametrize("text", ["mean", "gate(outputs=2)", "embed(dim=8)", "mixed", "googlenet", "sepconv"])
def test_every_kind_of_head_is_priced_without_being_built(text: str) -> None:
    found = price("early", text, Feature((4096, 64, 64), "NCHW"), 10)  # sepconv would hold 20 GB
    assert found.shape == (2, {"mean": 4096, "gate(outputs=2)": 2, "embed(dim=8)": 8}.get(text, 10))
    assert (found.params == 0) == (text == "mean")


def test_a_whole_network_is_priced_as_what_it_is() -> None:
    name = "network(name='deepsup:plain-3')"
    network = heads.build(name, Feature((3, 32, 32), "NCHW"), 10)
    found = price("peer", name, Feature((3, 32, 32), "NCHW"), 10, layer="input")
    assert found.params == sum(p.numel() for p in network.parameters())
    assert found == price("peer", network, Feature((3, 32, 32), "NCHW"), 10)


def reads_back(feature: Feature, classes: int) -> nn.Module:
    """As some networks do with their drop rates: no number can be read from the meta device."""
    rates = [float(rate) for rate in torch.linspace(0, 0.1, 3)]
    return nn.Sequential(nn.Dropout(rates[1]), nn.Flatten(), nn.Linear(1024, classes))


def test_a_head_that_cannot_be_built_empty_is_built_on_the_cpu() -> None:
    with registered(heads.HEADS, reads_back):
        state = torch.get_rng_state()
        assert price("early", "reads_back", MAP, 5).params == 1024 * 5 + 5
        assert torch.equal(torch.get_rng_state(), state)
        with torch.device("meta"), pytest.raises(HeadError, match="'reads_back' cannot be built"):
            heads.build("reads_back", MAP, 5)


def made(feature: Feature, classes: int, *, model: nn.Module, layer: str) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, len(model) + len(layer)))  # type: ignore[arg-type]


def test_heads_made_from_the_model_are_given_it() -> None:
    trunk = nn.Sequential(nn.ReLU(), nn.ReLU())
    with registered(heads.HEADS, made):
        for head in ("made", made):
            assert price("early", head, MAP, 5, model=trunk, layer="four").shape == (2, 6)
            with pytest.raises(HeadError, match="no model and no layer was given"):
                price("early", head, MAP, 5)


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (nn.Linear(3, 5), r"the head of branch 'early' \(custom:Linear\) cannot read an activation of 16x8x8 a sample"),
        (nn.LazyLinear(5), "the head of branch 'early' has lazy parameters without a shape"),
        (Pair(), "the head of branch 'early' returned tuple; it must return one tensor"),
        (
            Named("feature"),
            "the head of branch 'early' returned a dict of 'feature': Tensor; it must hold tensors, the scores under 'scores'",
        ),
        (Named("scores", value=[1]), "returned a dict of 'scores': list; it must hold tensors"),
        (Named(), "returned a dict of nothing; it must hold tensors"),
        ("poool", "no head is called 'poool'"),
        ("bottleneck(channels=0)", "head 'bottleneck' needs channels to be a whole number"),
    ],
)  # fmt: skip
def test_a_head_that_cannot_be_priced_is_a_head_error(head: nn.Module | str, says: str) -> None:
    with pytest.raises(HeadError, match=says):
        price("early", head, MAP, 5)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (650, "650"),
        (1000, "1k"),
        (1290, "1.29k"),
        (999_999, "1M"),
        (11_200_000, "11.2M"),
        (2_961_234_567, "2.96G"),
    ],
)
def test_counts_are_printed_to_three_digits(count: int, text: str) -> None:
    assert millions(count) == text
