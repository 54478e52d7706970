"""Which axis is what, where more than a shape is needed to tell."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepsup.features import Feature
from deepsup.layers.channel_axis import Layouts
from deepsup.layers.dry_run import trace
from tests.support.small_nets import CLASSES, images


def test_sequences_of_a_model_without_convolutions_have_channels_last() -> None:
    model = nn.Sequential(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Flatten(), nn.Linear(160, CLASSES)
    )
    assert trace(model, torch.randn(2, 10, 16)).layers["0"].feature == Feature((10, 16), "NLC")
    model = nn.Sequential(nn.Conv1d(4, 8, 3, padding=1), nn.Flatten(), nn.Linear(80, CLASSES))
    assert trace(model, torch.randn(2, 4, 10)).layers["0"].feature == Feature((8, 10), "NCL")


class Blocks(nn.Module):
    """Tokens in blocks (N, 1, 16, 12): no axis looks like a map's, only the layers know."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 8, stride=8)
        self.block = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))
        self.fc = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)[:, None]
        return self.fc((tokens + self.block(tokens)).mean((1, 2)))


def test_the_channels_of_tokens_in_blocks_are_where_the_layers_have_them() -> None:
    seen = trace(Blocks(), images(size=32))
    assert seen.layers["stem"].feature == Feature((12, 4, 4), "NCHW")
    assert seen.layers["block"].feature == Feature((1, 16, 12), "NHWC")


def test_what_was_said_wins_and_what_a_layer_knows_holds_for_those_after_it() -> None:
    layouts = Layouts.of(nn.Conv2d(3, 8, 1), (2, 3, 16, 16), {"said": "NCHW"})
    shape = (2, 8, 8, 8)  # both readings fit
    layouts.see("first", nn.ReLU(), shape)
    layouts.see("norm", nn.LayerNorm(8), (2, 8, 9, 8))
    layouts.see("linear", nn.Linear(8, 8), shape)
    layouts.see("after", nn.ReLU(), shape)
    layouts.see("said", nn.ReLU(), shape)
    found = [layouts.feature(name, shape) for name in ("first", "linear", "after", "said")]
    assert [f.layout for f in found if f] == ["NCHW", "NHWC", "NHWC", "NCHW"]
    assert layouts.feature("first", (2,)) is None
    assert layouts.feature("first", (2, 1, 1, 1, 1, 3)) is None


class Recurrent(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.fc = layer, nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:  # (N, L, 8)
        first = getattr(getattr(self.layer, "self_attn", self.layer), "batch_first", True)
        found = self.layer(x if first else x.transpose(0, 1))
        found = found[0] if isinstance(found, tuple) else found
        return self.fc(found if first else found.transpose(0, 1)).mean(1)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        lambda first: nn.LSTM(8, 8, batch_first=first),
        lambda first: nn.GRU(8, 8, batch_first=first),
        lambda first: nn.TransformerEncoderLayer(8, 2, 16, batch_first=first),
    ],
)
def test_a_batch_that_stands_second_is_seen_also_where_it_is_as_long_as_the_sequence(make: Any, first: bool) -> None:
    seen = trace(Recurrent(make(first)), torch.randn(2, 2, 8))  # L = N = 2
    assert ("whose first axis is not the batch" in seen.layers["layer"].problem) == (not first)
