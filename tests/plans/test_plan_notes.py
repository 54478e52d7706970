"""What a plan says beside its table."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import deepsup as ds
from deepsup.errors import ConfigError
from tests.support.method_steps import Case
from tests.support.odd_nets import Branchy, Returning, telling
from tests.support.small_nets import Residual, images


def test_settings_that_make_another_method_of_it_are_refused_or_told() -> None:
    with pytest.raises(
        ConfigError, match=r"method 'dhm' says itself where its branches go .*; at='auto' would ask the probe"
    ):
        Case("dhm", "auto")
    with pytest.raises(
        ConfigError, match="method 'dml' trains whole networks on the model's input, not from layer 'layer1' on"
    ):
        Case("dml", ["layer1"])
    with pytest.raises(ConfigError, match="method 'equal-compute' is a length of training, not a plan"):
        Case("equal-compute")
    notes = Case("dhm", head="pool").plan.notes
    assert notes[0] == "branch 'early' has the head pool; method 'dhm' has continuation"
    assert Case("dhm").plan.notes == ()


def test_notes_tell_what_is_unusual() -> None:
    assert ds.plan(Branchy(), torch.randn(2, 3), "side").notes == (
        "'side' does not lead to the prediction: branch 'side' trains a side path",
    )
    assert ds.plan(telling(), images(), {"x": "block@1.deep"}).notes == (
        "'block' returns several tensors; branch 'x' reads '1.deep'",
    )
    assert ds.plan(Residual(), images(), "bn1").notes == (
        "'bn1' is overwritten in place by what follows, so its tap keeps a copy",
    )
    own = ds.plan(Returning(lambda y, h: {"out": y, "aux": y * 2, "hidden": h}), torch.randn(2, 3), "body")
    assert own.notes == ("the model returns further predictions of its own in training (aux); no loss is put on them",)


class Turned(nn.Module):
    """A convolution along a sequence, and tokens that nobody knows the layout of."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.turn, self.fc = nn.Conv1d(4, 24, 1), nn.Identity(), nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.turn(self.stem(x).transpose(1, 2)).mean(1))


def test_a_sequence_whose_channels_only_its_shape_tells_is_noted() -> None:
    (note,) = ds.plan(Turned(), torch.randn(2, 4, 50), at=["turn"]).notes
    assert note == (
        "nothing but its shape tells where 'turn' has its channels: branch 'turn' reads 50x24 as NCL; if that is wrong, "
        "layout={'turn': 'NLC'}"
    )
    assert ds.plan(Turned(), torch.randn(2, 4, 50), at=["turn"], layout={"turn": "NLC"}).notes == ()
    assert ds.plan(Turned(), torch.randn(2, 4, 50), at=["stem"]).notes == ()  # a convolution knows


class Stream(nn.Module):
    """Blocks as lists, without a module around them, as many vision transformers are written."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.blocks = nn.ModuleList(nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)]) for _ in range(3))
        self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for one, other in self.blocks:
            x = one(x) + x
            x = other(x) + x
        return self.fc(self.norm(x).mean(1))


def test_an_update_is_told_from_the_stream() -> None:
    (note,) = ds.plan(Stream(), torch.randn(2, 6, 8), at=["33%"]).notes
    assert "gives out what is added to the stream, and not the stream" in note
    assert note.endswith("the next layer that reads the stream is 'norm'")
    assert ds.plan(Residual(), images(4), at=["33%", "66%"]).notes == ()
