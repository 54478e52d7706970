"""Taps record while they are armed, once each, and can be taken off any copy of the model."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from deepsup.errors import TapError
from deepsup.layers.taps import Recorder, Tap, put_back, remove_taps, taps_on
from tests.support.small_nets import mlp


def tapped(**options: object) -> tuple[nn.Sequential, Recorder]:
    model, recorder = mlp(3, 4, 5), Recorder()
    model[0].register_forward_hook(Tap("first", recorder, **options))  # type: ignore[arg-type]
    return model, recorder


def test_an_idle_tap_records_nothing_and_an_armed_one_the_output_itself() -> None:
    model, recorder = tapped()
    seen: list[Tensor] = []
    model[0].register_forward_hook(lambda m, a, out: seen.append(out))
    model(torch.randn(2, 3))
    assert recorder.seen == {}
    recorder.armed = True
    model(torch.randn(2, 3))
    assert list(recorder.seen) == ["first"]
    assert torch.equal(recorder.seen["first"], seen[1])
    assert recorder.seen["first"].data_ptr() == seen[1].data_ptr()  # no copy
    assert recorder.seen["first"].requires_grad


def test_taps_are_put_back_where_they_were() -> None:
    model, recorder = tapped()
    before = taps_on(model)
    remove_taps(model)
    put_back(before)
    assert taps_on(model) == before
    recorder.armed = True
    model(torch.randn(2, 3))
    assert list(recorder.seen) == ["first"]


def test_a_second_recording_in_one_forward_is_an_error() -> None:
    model, recorder = tapped()
    recorder.armed = True
    model(torch.randn(2, 3))
    with pytest.raises(TapError, match="the layer of branch 'first' ran twice in one forward"):
        model(torch.randn(2, 3))


def test_a_cloning_tap_keeps_what_a_later_operation_overwrites() -> None:
    for clone in (True, False):
        model, recorder = tapped(clone=clone)
        model[1] = nn.ReLU(inplace=True)
        recorder.armed = True
        x = torch.randn(8, 3)
        expected = model[0](x)
        recorder.seen.clear()
        model(x)
        assert torch.equal(recorder.seen["first"], expected) is clone


def test_the_gradient_flows_through_a_clone() -> None:
    model, recorder = tapped(clone=True)
    recorder.armed = True
    model(torch.randn(2, 3))
    recorder.seen["first"].sum().backward()
    assert model[0].weight.grad is not None


def test_a_tap_reads_one_of_several_tensors() -> None:
    recorder = Recorder()
    tap = Tap("b", recorder, pick=("states", 1))
    recorder.armed = True
    x = torch.randn(2, 3)
    tap(nn.Identity(), (), {"states": [torch.zeros(1), x]})
    assert list(recorder.seen) == ["b"]
    assert torch.equal(recorder.seen["b"], x)


def test_copies_have_taps_and_recorders_of_their_own() -> None:
    model, recorder = tapped()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        ((module, _, tap),) = taps_on(twin)
        assert module is twin[0]
        assert tap.recorder is not recorder
        remove_taps(twin)
        assert taps_on(twin) == []
    assert len(taps_on(model)) == 1


def test_removing_taps_leaves_the_users_hooks() -> None:
    model, _ = tapped()
    theirs = [model[0].register_forward_hook(lambda *_: None), model[1].register_forward_hook(lambda *_: None)]
    remove_taps(model)
    assert [list(m._forward_hooks) for m in (model[0], model[1])] == [[theirs[0].id], [theirs[1].id]]
    remove_taps(model)  # nothing left to remove


def test_a_branchs_gradient_comes_down_in_the_memory_layout_of_the_activation() -> None:
    """Where a layer reads its own output again, the branch's comes first, and the sum would keep a foreign layout."""

    class Turned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (2 * x).permute(0, 2, 1)

    recorder, layer = Recorder(), Turned()
    layer.register_forward_hook(Tap("first", recorder))
    recorder.armed = True
    strides: list[tuple[int, ...]] = []
    out = layer(torch.randn(2, 3, 4, requires_grad=True))
    out.register_hook(lambda g: strides.append(g.stride()))
    (recorder.seen["first"] * torch.randn(2, 4, 3)).sum().backward()
    assert out.stride() == (12, 1, 4)
    assert strides == [out.stride()]
