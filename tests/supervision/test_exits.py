"""Branches after training: the same scores as before, less arithmetic, and no trace on the model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import deepsup as ds
from deepsup.errors import AttachError, BranchNameError, HeadError, TapError
from deepsup.supervision.exits import average
from tests.support.small_nets import CLASSES, Plain, Residual, images


def supervised(model: nn.Module | None = None, **options: Any) -> ds.Supervised:
    torch.manual_seed(0)
    model = model or Residual()
    return ds.attach(model, ds.plan(model, images(), at=["layer1", "layer2.0"], **options)).eval()


def whole(net: ds.Supervised, x: Tensor) -> ds.Outputs:
    with ds.supervising(net):
        found: ds.Outputs = net(x)
    return found


def flops(run: Any, x: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        run(x)
    return int(counter.get_total_flops())


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("head", ["pool", "cnds(width=2, hidden=4)"])
def test_an_exit_gives_exactly_the_scores_of_its_branch(head: str, gradients: bool) -> None:
    net, x = supervised(head=head), images(3)
    expected = whole(net, x)
    for name in net.plan.names:
        with torch.set_grad_enabled(gradients):
            found = ds.early_exit(net, name)(x)
        assert torch.equal(found, expected.aux[name])
        assert found.shape == (3, CLASSES)
        assert found.requires_grad is gradients


def test_an_exit_runs_the_trunk_up_to_its_layer_and_no_further() -> None:
    net, x = supervised(head="pool"), images(1)
    ran: list[str] = []
    for name, module in net.model.named_modules():
        module.register_forward_hook(lambda m, a, out, name=name: ran.append(name))
    ds.early_exit(net, "layer1")(x)
    assert ran[-1] == "layer1.1"  # the last block of layer1, whose own later hooks are not for a forward that ends here
    assert not [name for name in ran if name.startswith(("layer2", "fc"))]
    upto = ds.plan(Residual(), images(), at=["layer1"], head="pool").branches[0]
    costs = {name: flops(ds.early_exit(net, name), x) for name in net.plan.names}
    plain = flops(net.model, x)
    assert costs["layer1"] < costs["layer2.0"] < plain
    stem_and_layer1 = 2 * 64 * 4 * 3 * 9 + 4 * 2 * 64 * 4 * 4 * 9  # 8x8 outputs, 3x3 kernels
    assert costs["layer1"] == stem_and_layer1 + upto.flops


def test_an_exit_works_on_a_stripped_net_and_leaves_no_trace() -> None:
    net, x = supervised(), images()
    expected = whole(net, x).aux["layer1"]
    state, draws = {k: v.clone() for k, v in net.state_dict().items()}, torch.get_rng_state()
    fast = ds.early_exit(net, "layer1")
    before = [(dict(m._forward_hooks), m.training) for m in net.modules()]
    assert torch.equal(fast(x), expected)
    assert [(dict(m._forward_hooks), m.training) for m in net.modules()] == before
    assert torch.equal(torch.get_rng_state(), draws)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    model = ds.strip(net)
    assert torch.equal(fast(x), expected)
    assert not any(m._forward_hooks for m in model.modules())
    assert torch.equal(model(x), net(x))


def test_an_exit_leaves_no_hook_behind_when_the_forward_fails() -> None:
    net = supervised()
    fast = ds.early_exit(net, "layer2.0")
    before = {name: list(m._forward_hooks) for name, m in net.named_modules()}
    with pytest.raises(RuntimeError):
        fast(torch.randn(2, 7, 16, 16))
    assert {name: list(m._forward_hooks) for name, m in net.named_modules()} == before


class Forgiving(Plain):
    """Catches whatever goes wrong in its forward, or goes round a layer."""

    def forward(self, x: Tensor, skip: bool = False) -> Tensor:
        try:
            if not skip:
                x = self.relu1(self.conv1(x))
            else:
                x = torch.zeros(len(x), 8, 16, 16)
        except Exception:
            return torch.zeros(len(x), CLASSES)
        return self.fc(self.pool(self.relu2(self.conv2(x))).flatten(1))


def test_a_model_that_catches_exceptions_does_not_catch_ours_and_one_that_skips_the_layer_is_told() -> None:
    model = Forgiving()
    net = ds.attach(model, ds.plan(model, images(), at=["relu1"])).eval()
    fast, x = ds.early_exit(net, "relu1"), images()
    assert torch.equal(fast(x), whole(net, x).aux["relu1"])
    with pytest.raises(TapError, match="did not come by layer 'relu1'"):
        fast(x, skip=True)


def test_hooks_of_the_users_own_count_as_they_do_for_the_tap() -> None:
    model = Plain()
    model.relu1.register_forward_hook(lambda m, a, out: out + 1)  # in front of the tap
    net = ds.attach(model, ds.plan(model, images(), at=["relu1"])).eval()
    for i in (2.0, 3.0):
        model.relu1.register_forward_hook(lambda m, a, out, i=i: out * i)  # behind it
    x, order = images(), list(model.relu1._forward_hooks)
    expected = whole(net, x)
    assert torch.equal(ds.early_exit(net, "relu1")(x), expected.aux["relu1"])
    assert list(model.relu1._forward_hooks) == order
    assert torch.equal(whole(net, x).main, expected.main)


def test_an_ensemble_is_the_mean_of_the_probabilities() -> None:
    net, x = supervised(), images(4)
    outputs = whole(net, x)
    by_hand = torch.zeros(4, CLASSES)
    for scores in (outputs.main, *outputs.aux.values()):
        for i in range(4):
            exp = [torch.exp(scores[i, k]) for k in range(CLASSES)]
            for k in range(CLASSES):
                by_hand[i, k] += exp[k] / sum(exp) / 3
    found = ds.ensemble(net)(x)
    assert torch.allclose(found, by_hand, atol=1e-6)
    assert torch.allclose(found.sum(1), torch.ones(4))
    assert torch.equal(average([outputs.main]), outputs.main.softmax(1))
    assert net.recorder.supervise is None
    assert isinstance(net(x), Tensor)


def test_both_are_for_scoring_alone() -> None:
    net, x = supervised(), images()
    modules = [ds.early_exit(net, "layer1"), ds.ensemble(net)]
    assert not any(m.training for m in modules)
    net.train()
    for module in modules:
        with pytest.raises(AttachError, match=r"in training mode. Call .eval\(\) first"):
            module(x)
    modules[0].eval()
    assert not net.training
    assert modules[0](x).shape == (2, CLASSES)


def test_what_cannot_predict_is_refused_by_name() -> None:
    net = supervised()
    with pytest.raises(BranchNameError, match=r"no branch is called 'layer3'.*layer1, layer2\.0"):
        ds.early_exit(net, "layer3")
    with pytest.raises(AttachError, match="not supervised"):
        ds.early_exit(Plain(), "relu1")
    plain = Plain()
    none = ds.attach(plain, ds.plan(plain, images(), method="none"))
    with pytest.raises(HeadError, match="no branch of this Plain predicts classes"):
        ds.ensemble(none)


def test_a_branch_without_class_scores_is_no_exit_and_no_member() -> None:
    model = Plain()
    plan = ds.plan(
        model, images(), at={"seen": "relu1", "known": "relu2"}, head={"known": "mean"}, branch_loss={"known": "none"}
    )
    net = ds.attach(model, plan).eval()
    x = images()
    outputs = whole(net, x)
    with pytest.raises(HeadError, match=r"'known' gives no class scores.*predict: seen"):
        ds.early_exit(net, "known")
    assert torch.allclose(ds.ensemble(net)(x), average([outputs.main, outputs.aux["seen"]]))


def test_heads_that_read_the_input_and_wrappers_are_seen_through() -> None:
    model, peer = Plain(), Plain()
    plan = ds.plan(model, images(), at={"peer": "input"}, head={"peer": peer})
    net = ds.attach(model, plan).eval()
    x = images()
    assert torch.equal(ds.early_exit(net, "peer")(x), peer.eval()(x))
    wrapped = torch.compile(net, backend="eager")
    assert ds.early_exit(wrapped, "peer").net is net


@pytest.mark.parametrize("stripped", [False, True])
def test_threads_get_their_own_answers_and_leave_nothing_behind(stripped: bool) -> None:
    model = Residual().eval()
    net = ds.attach(model, ds.plan(model, images(), ["layer1", "layer2"], head="pool")).eval()
    batches = [images(4) for _ in range(8)]
    exits = {name: ds.early_exit(net, name) for name in net.plan.names}
    with torch.no_grad(), ds.supervising(net):
        expected = [net(x) for x in batches]
    jobs: dict[str, Any] = {name: (exits[name], lambda o, name=name: o.aux[name]) for name in exits}
    jobs["main"] = (model, lambda o: o.main)
    if stripped:
        ds.strip(net)
    else:
        jobs["ensemble"] = (ds.ensemble(net), lambda o: ds_average(o))
        jobs["net"] = (net, lambda o: o.main)
    state = torch.get_rng_state()

    def run(job: tuple[str, int]) -> bool:
        name, i = job
        module, wanted = jobs[name]
        with torch.no_grad():
            return torch.equal(module(batches[i]), wanted(expected[i]))

    with ThreadPoolExecutor(8) as pool:
        right = list(pool.map(run, [(name, i % 8) for i in range(120) for name in jobs]))
    assert all(right)
    assert net.recorder.supervise is None
    assert torch.equal(state, torch.get_rng_state())
    assert len(model.layer1._forward_hooks) == (0 if stripped else 1)


def ds_average(outputs: ds.Outputs) -> Tensor:
    return torch.stack([t.softmax(1) for t in (outputs.main, *outputs.aux.values())]).mean(0)


def test_an_exception_behind_or_before_the_layer_leaves_the_exit_as_it_was() -> None:
    model = Residual().eval()
    net = ds.attach(model, ds.plan(model, images(), ["layer1"])).eval()
    fast = ds.early_exit(net, "layer1")
    expected = fast(images(2).zero_())
    with pytest.raises(RuntimeError):
        fast(torch.zeros(2, 7, 16, 16))
    assert net.recorder.stop is None
    assert model(images()).shape == (2, CLASSES)
    assert torch.equal(fast(torch.zeros(2, 3, 16, 16)), expected)


def test_an_exit_has_its_classes_where_the_model_has_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5))
    x = torch.randn(2, 5, 4)  # as many tokens as classes
    net = ds.attach(model, ds.plan(model, x, at=["1"], task="tokens")).eval()
    branch = whole(net, x).aux["1"]
    assert net.plan.branches[0].prediction.axis == 1  # type: ignore[union-attr]
    assert torch.equal(ds.early_exit(net, "1")(x), branch.transpose(1, 2))


def test_values_and_classes_have_no_mean() -> None:
    with pytest.raises(HeadError, match="some of these outputs give values and some classes or labels"):
        average([torch.zeros(2, 3), torch.zeros(2, 3)], ["class", "values"])
