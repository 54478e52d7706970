"""One call of a layer that runs several times: planned, trained, left early and taken off like a layer that runs once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import deepsup as ds
from deepsup.errors import ContinuationError, LayerError, LayerNotCalledError, TapError, UnknownLayerError
from deepsup.layers.dry_run import trace
from deepsup.layers.taps import taps_on
from tests.support.states import assert_untouched, snapshot

CLASSES = 4
RAFT = {"cell#1": 0.8**3, "cell#2": 0.8**2, "cell#3": 0.8}


class Iterating(nn.Module):
    """A cell that runs `times` times, the first `blind` of them without a graph, and one classifier behind it."""

    def __init__(self, times: int = 4, *, blind: int = 0, inplace: int = 0, checkpointed: bool = False) -> None:
        super().__init__()
        self.cell, self.fc = nn.GRUCell(3, 8), nn.Linear(8, CLASSES)
        self.times, self.blind, self.inplace, self.checkpointed = times, blind, inplace, checkpointed

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 8)
        for k in range(1, self.times + 1):
            with torch.set_grad_enabled(torch.is_grad_enabled() and k > self.blind):
                h = checkpoint(self.cell, x, h, use_reentrant=False) if self.checkpointed else self.cell(x, h)
            if k == self.inplace:
                h.mul_(0.5)
        return self.fc(h)  # type: ignore[no-any-return]


def batch(n: int = 5) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(n, 3), torch.randint(0, CLASSES, (n,))


def states_of(model: Iterating, x: Tensor) -> list[Tensor]:
    found = [x.new_zeros(len(x), 8)]
    for _ in range(model.times):
        found.append(model.cell(x, found[-1]))
    return found[1:]


def grads(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def raft(model: Iterating, x: Tensor, y: Tensor) -> Tensor:
    """The sequence loss of RAFT (Teed and Deng 2020, equation 7): sum of 0.8^(N - k) times the loss of iteration k."""
    terms = [0.8 ** (model.times - k) * F.cross_entropy(model.fc(h), y) for k, h in enumerate(states_of(model, x), 1)]
    return torch.stack(terms).sum()


@pytest.mark.parametrize(("checkpointed", "compiled"), [(False, False), (True, False), (False, True)])
def test_every_call_with_the_models_own_head_is_rafts_sequence_loss(checkpointed: bool, compiled: bool) -> None:
    model, (x, y) = Iterating(checkpointed=checkpointed).train(), batch()
    expected = raft(model, x, y)
    expected.backward()
    wanted = grads(model)
    model.zero_grad()
    head = "main" if not checkpointed else lambda feature, classes, *, model: model.fc
    net: Any = ds.attach(model, ds.plan(model, x, list(RAFT), head=head, weight=RAFT))
    run = torch.compile(net, backend="eager", fullgraph=True) if compiled else net
    total = ds.Objective(net.plan)(run(x), y).total
    total.backward()
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(grads(model), wanted)


def test_each_call_is_seen_for_itself() -> None:
    model, (x, _) = Iterating(blind=2, inplace=3), batch()
    calls = ["cell#1", "cell#2", "cell#3", "cell#4", "cell#-1"]
    seen = trace(model, x, calls=calls).layers
    assert [seen[c].trains for c in calls] == [False, False, True, True, True]
    assert [seen[c].overwritten for c in calls] == [False, False, True, False, False]
    assert [round(seen[c].depth, 4) for c in calls] == [0.2, 0.4, 0.6, 0.8, 0.8]
    assert seen["cell#1"].order < seen["cell#2"].order < seen["cell#4"].order == seen["cell#-1"].order
    assert not [name for name in trace(model, x).layers if "#" in name]
    with pytest.raises(LayerError, match="no gradient can flow into the output of layer 'cell#2'"):
        ds.plan(model, x, "cell#2")
    assert [b.clone for b in ds.plan(model, x, ["cell#3", "cell#4"]).branches] == [True, False]


def test_a_copy_is_kept_of_the_call_that_is_overwritten() -> None:
    model, (x, _) = Iterating(inplace=2).train(), batch()
    net = ds.attach(model, ds.plan(model, x, ["cell#2"], head="linear"))
    expected = net.heads["cell#2"](states_of(model, x)[1])
    assert torch.equal(net(x).aux["cell#2"], expected)


def test_the_last_call_is_the_last_of_each_forward() -> None:
    model, (x, _) = Iterating().train(), batch()
    net = ds.attach(model, ds.plan(model, x, ["cell#-1"], head="main"))
    for times in (4, 2, 7):
        model.times = times
        found = net(x)
        assert torch.equal(found.aux["cell#-1"], found.main)


def test_a_call_that_a_forward_does_not_come_to() -> None:
    model, (x, y) = Iterating().train(), batch()
    plain, optional = (ds.plan(model, x, ["cell#3"], optional=said) for said in (False, True))
    net = ds.attach(model, plain)
    model.times = 2
    with pytest.raises(
        TapError, match="on layer 'cell#3' did not fire: the forward skipped the layer or ran it less often"
    ):
        net(x)
    ds.strip(net)
    model.times = 4
    net = ds.attach(model, optional)
    model.times = 2
    terms = ds.Objective(optional)(net(x), y)
    terms.total.backward()
    torch.testing.assert_close(terms.total, F.cross_entropy(model.eval()(x), y))
    assert all(p.grad is not None and not p.grad.any() for p in net.heads.parameters())


def test_weights_of_zero_train_the_plain_model_bit_for_bit_and_strip_gives_it_back() -> None:
    torch.manual_seed(0)
    model, (x, y) = Iterating().train(), batch()
    F.cross_entropy(model(x), y).backward()
    wanted = grads(model)
    model.zero_grad(set_to_none=True)
    before = snapshot(model)
    net = ds.attach(model, ds.plan(model, x, ["cell#1", "cell#-1"], weight=0.0))
    ds.Objective(net.plan)(net(x), y).total.backward()
    assert all(torch.equal(a, b) for a, b in zip(grads(model), wanted, strict=True))
    assert all(p.grad is not None and not p.grad.any() for p in net.heads.parameters())
    model.zero_grad(set_to_none=True)
    net.eval()
    assert torch.equal(net(x), model(x))
    net.train()
    assert ds.strip(net) is model
    assert not taps_on(model)
    assert_untouched(before, snapshot(model))


@pytest.mark.parametrize("call", ["cell#2", "cell#4", "cell#-1"])
def test_an_early_exit_stops_behind_its_call(call: str) -> None:
    model, (x, _) = Iterating(), batch()
    net = ds.attach(model, ds.plan(model, x, [call], head="linear")).eval()
    with ds.supervising(net):
        expected = net(x).aux[call]
    runs: list[int] = []
    handle = model.cell.register_forward_pre_hook(lambda *_: runs.append(1))
    assert all(torch.equal(ds.early_exit(net, call)(x), expected) for _ in range(2))
    assert len(runs) == 2 * (2 if call == "cell#2" else 4)
    handle.remove()
    torch.testing.assert_close(ds.early_exit(net, call, cut=True)(x), expected)
    exit = ds.early_exit(net, call)
    ds.strip(net)
    assert torch.equal(exit(x), expected)
    model.times = 1
    if call != "cell#-1":
        with pytest.raises(TapError, match="did not come by layer 'cell#"):
            exit(x)


def test_a_plan_of_calls_is_json(tmp_path: Path) -> None:
    model, (x, _) = Iterating(), batch()
    plan = ds.plan(model, x, {"early": "cell#2", "late": "cell#-1"}, weight=0.5)
    plan.save(tmp_path / "plan.json")
    assert ds.Plan.load(tmp_path / "plan.json") == plan
    assert [b.layer for b in plan.branches] == ["cell#2", "cell#-1"]


def test_a_gradient_rule_acts_on_its_call_alone() -> None:
    model, (x, y) = Iterating().train(), batch()
    net = ds.attach(model, ds.plan(model, x, ["cell#2"], gradient="detach"))
    terms = ds.Objective(net.plan)(net(x), y)
    terms.total.backward()
    found = grads(model)
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    torch.testing.assert_close(found, grads(model))


def test_what_is_refused_says_why() -> None:
    model, (x, _) = Iterating(), batch()
    with pytest.raises(
        LayerNotCalledError, match=r"ran 4 times in the dry run, so there is no call 'cell#9'. The last is"
    ):
        ds.plan(model, x, "cell#9")
    with pytest.raises(UnknownLayerError, match=r"'cell#\*' is every call of a layer.*Name each: 'cell#1', 'cell#2'"):
        ds.plan(model, x, "cell#*")
    with pytest.raises(UnknownLayerError, match=r"no layer matches 'sell#2'.*Closest: cell"):
        ds.plan(model, x, "sell#2")
    with pytest.raises(LayerError, match=r"reads the last call, 'cell#-1'.*gradient rule project"):
        ds.plan(model, x, "cell#-1", gradient="project")
    net = ds.attach(model, ds.plan(model, x, "cell#-1")).train()
    with ds.ConflictMeter(net), pytest.raises(TapError, match="its gradients cannot be measured apart"):
        net(x)
    ds.strip(net)
    with pytest.raises(ContinuationError, match="runs again after this call"):
        ds.plan(model, x, "cell#2", head="continuation")


def test_torchvisions_raft_by_the_name_of_its_layer() -> None:
    optical_flow = pytest.importorskip("torchvision.models.optical_flow")
    torch.manual_seed(0)
    model = optical_flow.raft_small(weights=None, progress=False).train()
    image = torch.randn(1, 3, 128, 128)
    at = {"first": "update_block#1@1", "last": "update_block#-1@1"}
    sample = {"image1": image, "image2": image, "num_flow_updates": 3}
    plan = ds.plan(model, sample, at, main="2", head="identity", loss="none", task="values")
    net = ds.attach(model, plan)
    seen: list[Tensor] = []
    handle = model.update_block.register_forward_hook(lambda module, args, output: seen.append(output[1].detach()))
    found = net(**sample)
    handle.remove()
    assert torch.equal(found.aux["first"], seen[0])
    assert torch.equal(found.aux["last"], seen[2])
    assert len(seen) == 3
