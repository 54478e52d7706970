"""Attached: outputs by name in training, the plain model otherwise, and clear words when it cannot be."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import deepsup as ds
from deepsup.errors import AlreadyAttachedError, AttachError, CompiledModelError, DataParallelError, PlanError, TapError
from deepsup.layers.taps import taps_on
from deepsup.supervision.attaching import unwrap
from tests.support.odd_nets import Returning, telling
from tests.support.small_nets import CLASSES, Plain, Residual, images, labels
from tests.support.states import assert_untouched, snapshot, with_grads
from tests.support.supervised_nets import AT, supervised


class Mask(nn.Module):
    """A head that shows its dropout mask: 0 or 2 for each score."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.scale * torch.ones(len(x), CLASSES), 0.5, self.training)


def mask(feature: ds.Feature, classes: int) -> nn.Module:
    return Mask()


def test_training_returns_the_models_output_and_every_branch_by_name() -> None:
    model, x = Plain().train(), images(3)
    expected = model(x)
    outputs = supervised(model)(x)
    assert type(outputs) is ds.Outputs
    assert torch.equal(outputs.main, expected)
    assert {n: tuple(t.shape) for n, t in outputs.aux.items()} == {"conv1": (3, CLASSES), "relu2": (3, CLASSES)}


def test_a_branch_is_its_head_on_its_layers_output() -> None:
    net, x = supervised(at=["conv1"], head="linear").train(), images(3)
    expected = net.heads["conv1"](net.model.conv1(x))
    assert torch.equal(net(x).aux["conv1"], expected)


@pytest.mark.parametrize(
    ("model", "sample"),
    [
        (Plain(), images(3)),
        (Returning(lambda y, h: {"logits": y, "hidden": h}), torch.randn(3, 3)),
        (Returning(lambda y, h: (y, {"h": h})), torch.randn(3, 3)),
        (Returning(lambda y, h: ds.Outputs(y, {"a": h})), torch.randn(3, 3)),
    ],
    ids=["tensor", "dict", "tuple", "a model whose own output is an Outputs"],
)
def test_evaluation_returns_what_the_plain_model_returns(model: nn.Module, sample: Tensor) -> None:
    model.eval()
    expected = model(sample)
    layer = next(n for n, m in model.named_modules() if n)
    plan = ds.plan(model, sample, layer, main="main" if isinstance(expected, ds.Outputs) else None)
    net = ds.attach(model, plan)
    for head in net.heads.children():
        head.register_forward_hook(_must_not_run)
    assert_untouched(expected, net(sample))
    assert net.calls == 0


def _must_not_run(module: nn.Module, args: Any, output: Any) -> None:
    raise AssertionError("a head ran in evaluation")


def test_supervising_switches_both_ways_and_nests() -> None:
    net, x = supervised().eval(), images()

    def kind() -> str:
        return type(net(x)).__name__

    assert kind() == "Tensor"
    with ds.supervising(net):
        assert kind() == "Outputs"
        assert not any(m.training for m in net.modules())
        with ds.supervising(net, False):
            assert kind() == "Tensor"
        assert kind() == "Outputs"
    assert kind() == "Tensor"
    net.train()
    with ds.supervising(net, False):
        assert kind() == "Tensor"
    with pytest.raises(ZeroDivisionError), ds.supervising(net, False):
        raise ZeroDivisionError
    assert kind() == "Outputs"


def test_supervising_a_plain_model_is_an_error() -> None:
    with pytest.raises(AttachError, match="this Plain is not supervised"), ds.supervising(Plain()):
        pass


def test_arguments_go_through() -> None:
    class Scaled(Plain):
        def forward(self, x: Tensor, scale: float = 1.0, *, shift: float = 0.0) -> Tensor:
            return super().forward(x) * scale + shift

    model, x = Scaled().train(), images()
    expected = model(x, 3.0, shift=0.5)
    assert torch.equal(supervised(model)(x, 3.0, shift=0.5).main, expected)


def test_the_state_has_the_models_keys_under_model_and_the_heads_by_name() -> None:
    model = Residual()
    net = supervised(model, ["layer1.0", "layer2"])
    keys = list(net.state_dict())
    assert [k.removeprefix("model.") for k in keys if k.startswith("model.")] == list(model.state_dict())
    heads = [k for k in keys if k.startswith("heads.")]
    assert heads == [f"heads.{n}.1.{p}" for n in ("layer1/0", "layer2") for p in ("weight", "bias")]
    assert set(keys) - set(heads) - {f"model.{k}" for k in model.state_dict()} == {"_extra_state"}
    assert net.heads["layer1.0"] is net.get_submodule("heads.layer1/0")


def test_a_state_loads_strictly_into_another_supervised_model() -> None:
    one, other = supervised(), supervised()
    one.train()(images())
    other.load_state_dict(one.state_dict(), strict=True)
    assert_untouched(dict(one.state_dict()), dict(other.state_dict()))
    assert other.calls == one.calls == 1


def test_attach_takes_over_the_train_flag_and_changes_none() -> None:
    model = Residual().train()
    model.bn1.eval()
    net = supervised(model, ["layer1"])
    assert (net.training, net.heads.training, net.heads["layer1"].training, model.bn1.training) == (
        True,
        True,
        True,
        False,
    )
    net = supervised(Residual().eval(), ["layer1"])
    assert not any(m.training for m in net.modules())


def test_attach_changes_nothing_but_its_hooks() -> None:
    model = with_grads(Residual())
    plan = ds.plan(model, images(), ["layer1", "bn1"], method="cnds", head={"bn1": "linear"})
    hooks = [h for n in ("layer1", "bn1") if (h := model.get_submodule(n)._forward_hooks) is not None]
    before = snapshot(model)
    ds.attach(model, plan)
    assert [len(h) for h in hooks] == [1, 1]
    for h in hooks:
        h.clear()
    assert_untouched(before, snapshot(model))


def test_the_heads_do_not_move_the_users_random_numbers() -> None:
    torch.manual_seed(7)
    plain, x = Plain().train(), images()
    net = supervised(copy.deepcopy(plain), head=mask).train()
    seed, start = torch.initial_seed(), torch.get_rng_state()
    plain(x)
    after = torch.get_rng_state()
    torch.set_rng_state(start)
    net(x)
    assert torch.equal(torch.get_rng_state(), after)
    assert torch.initial_seed() == seed


def test_dropout_of_a_head_differs_between_steps_branches_and_seeds() -> None:
    x = images(16)

    def masks(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        net = supervised(head=mask).train()
        return [t.detach() for _ in range(4) for t in net(x).aux.values()]

    one, again, other = masks(1), masks(1), masks(2)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    every = [*one, *other]
    assert {float(v) for m in every for v in m.unique()} == {0.0, 2.0}
    for i, a in enumerate(every):
        assert not any(torch.equal(a, b) for b in every[i + 1 :])


def test_a_resumed_run_draws_what_the_undisturbed_one_draws() -> None:
    x = images(16)
    torch.manual_seed(3)
    net = supervised(head=mask).train()
    for _ in range(3):
        net(x)
    state = copy.deepcopy(net.state_dict())
    expected = net(x).aux
    torch.manual_seed(3)
    resumed = supervised(head=mask).train()
    torch.randn(5)  # whatever else happened meanwhile
    resumed.load_state_dict(state)
    assert resumed.calls == 3
    assert_untouched(expected, resumed(x).aux)


def test_scoring_the_heads_in_evaluation_does_not_change_what_training_draws() -> None:
    x = images(16)

    def second_step(*, evaluated: bool) -> dict[str, Tensor]:
        torch.manual_seed(3)
        net = supervised(head=mask).train()
        net(x)
        if evaluated:
            net.eval()
            with ds.supervising(net), torch.no_grad():
                net(x)
        return {n: t.detach() for n, t in net.train()(x).aux.items()}

    assert_untouched(second_step(evaluated=False), second_step(evaluated=True))


def test_a_head_that_fails_gives_the_random_state_back() -> None:
    class Failing(Mask):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            if len(x) == 3:
                raise ZeroDivisionError
            return y

    net = supervised(head=lambda feature, classes: Failing()).train()
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        net(torch.zeros(3, 3, 16, 16))
    assert torch.equal(torch.get_rng_state(), before)
    assert list(net(images()).aux) == AT


def test_the_heads_are_initialised_without_moving_the_users_random_numbers() -> None:
    model = Plain()
    plan = ds.plan(model, images(), AT, head="linear")
    before = torch.get_rng_state()
    net = ds.attach(model, plan)
    assert torch.equal(torch.get_rng_state(), before)
    weights = [net.heads[n][1].weight.flatten()[:9] for n in AT]
    assert not torch.equal(*weights)


def test_an_exception_in_the_model_leaves_nothing_recorded() -> None:
    net = supervised().train()
    with pytest.raises(RuntimeError):
        net(torch.randn(2, 3, 16, 16)[:, :2])
    handle = net.model.pool.register_forward_pre_hook(_interrupt)
    with pytest.raises(KeyboardInterrupt):
        net(images())
    handle.remove()
    assert (net.recorder.armed, net.recorder.seen) == (False, {})
    assert list(net(images()).aux) == AT


def _interrupt(module: nn.Module, args: Any) -> None:
    raise KeyboardInterrupt


class Moody(nn.Module):
    """Runs its layer once, twice, never, or without a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.fc = nn.Linear(3, 3), nn.Linear(3, CLASSES)
        self.mood = "once"

    def forward(self, x: Tensor) -> Tensor:
        if self.mood in ("once", "twice"):
            x = self.layer(x)
        if self.mood == "twice":
            x = self.layer(x)
        if self.mood == "cut":
            with torch.no_grad():
                x = self.layer(x)
        return self.fc(x)


@pytest.mark.parametrize(
    ("mood", "message"),
    [
        ("twice", "the layer of branch 'b' ran twice in one forward"),
        ("never", "the tap of branch 'b' on layer 'layer' did not fire: the forward skipped the layer"),
        ("cut", "no gradient can flow from branch 'b' into its layer: the output is computed without a graph"),
    ],
)
def test_a_forward_that_runs_otherwise_than_the_dry_run_is_a_tap_error(mood: str, message: str) -> None:
    model, x = Moody(), torch.randn(2, 3)
    net = ds.attach(model, ds.plan(model, x, {"b": "layer"})).train()
    assert list(net(x).aux) == ["b"]
    model.mood = mood
    with pytest.raises(TapError) as caught:
        net(x)
    assert str(caught.value).startswith(message)
    model.mood = "once"
    assert list(net(x).aux) == ["b"]


def test_frozen_layers_and_no_grad_are_not_cut_off() -> None:
    model, x = Moody(), torch.randn(2, 3)
    net = ds.attach(model, ds.plan(model, x, {"b": "layer"})).train()
    model.layer.requires_grad_(False)
    assert net(x).aux["b"].requires_grad  # the head trains
    model.layer.requires_grad_(True)
    with torch.no_grad():
        assert list(net(x).aux) == ["b"]


def test_the_model_inside_runs_on_its_own_with_idle_taps() -> None:
    net, x = supervised().train(), images()
    assert isinstance(net.model(x), Tensor)
    assert net.recorder.seen == {}


def test_a_tap_before_an_in_place_operation_reads_what_the_layer_gave() -> None:
    model, x = Residual().train(), images(4)
    net = supervised(model, ["bn1"], head="linear")
    outputs = net(x)
    expected = net.heads["bn1"](model.bn1(model.conv1(x)))
    assert torch.allclose(outputs.aux["bn1"], expected, atol=1e-6)
    assert float(outputs.aux["bn1"].detach().abs().sum()) > 0
    sum(t.sum() for t in (outputs.main, outputs.aux["bn1"])).backward()


def test_one_of_several_tensors_feeds_its_branch() -> None:
    model, x = telling().train(), images(3)
    net = ds.attach(model, ds.plan(model, x, {"vector": "block@1.deep"}))
    assert torch.equal(net(x).aux["vector"], net.heads["vector"](model.conv(x).mean((2, 3))))


def test_a_half_precision_model_gets_half_precision_heads() -> None:
    model, x = Plain().bfloat16().train(), images().bfloat16()
    net = ds.attach(model, ds.plan(model, x, AT, method="cnds", head={"conv1": "linear"}))
    assert {p.dtype for p in net.parameters()} == {torch.bfloat16}
    outputs = net(x)
    assert {t.dtype for t in outputs.aux.values()} == {torch.bfloat16}
    sum(t.float().sum() for t in outputs.aux.values()).backward()


def test_a_method_without_branches_attaches_nothing() -> None:
    model = Plain().train()
    net = ds.attach(model, ds.plan(model, images(), method="none"))
    outputs = net(images())
    assert (outputs.aux, taps_on(model)) == ({}, [])
    assert not ds.is_supervised(net)


class Wrapper(nn.Module):
    """What DistributedDataParallel and Fabric look like from outside."""

    def __init__(self, inner: nn.Module, attribute: str = "module") -> None:
        super().__init__()
        setattr(self, attribute, inner)
        self.attribute = attribute

    def forward(self, *args: Any) -> Any:
        return getattr(self, self.attribute)(*args)


WRAPPERS: list[Callable[[nn.Module], nn.Module]] = [
    Wrapper,
    lambda net: Wrapper(net, "_forward_module"),
    lambda net: Wrapper(net, "_original_module"),
    torch.compile,
    lambda net: Wrapper(torch.compile(Wrapper(net))),
]


@pytest.mark.parametrize("wrap", WRAPPERS, ids=["module", "forward module", "original module", "compile", "three deep"])
def test_wrappers_are_seen_through(wrap: Callable[[nn.Module], nn.Module]) -> None:
    net = supervised()
    wrapped = wrap(net)
    assert unwrap(wrapped) is net
    assert ds.is_supervised(wrapped)
    with ds.supervising(wrapped, False):
        assert net.recorder.supervise is False
    assert [g["name"] for g in ds.parameter_groups(wrapped, lr=0.1)] == ["model", "heads"]
    assert ds.strip(wrapped) is net.model
    assert not ds.is_supervised(wrapped)


def test_what_is_not_supervised_says_so() -> None:
    net = supervised()
    model = ds.strip(net)
    assert not any(ds.is_supervised(m) for m in (model, net, Wrapper(model), nn.Linear(1, 1)))
    with pytest.raises(
        AttachError, match="this Wrapper is not supervised: it was never attached or is stripped already"
    ):
        unwrap(Wrapper(model))


def test_a_stripped_net_answers_in_evaluation_and_says_why_not_in_training() -> None:
    net, x = supervised(), images()
    model = ds.strip(net)
    assert torch.equal(net.eval()(x), model(x))
    with pytest.raises(TapError, match=r"did not fire: .* the model was stripped"):
        net.train()(x)


def refused(model: nn.Module, plan: ds.Plan, error: type[AttachError | PlanError], message: str) -> None:
    before = snapshot(model)
    with pytest.raises(error) as caught:
        ds.attach(model, plan)
    assert message in str(caught.value)
    assert_untouched(before, snapshot(model))


def plain_plan(at: Any = AT) -> ds.Plan:
    return ds.plan(Plain(), images(), at)


def test_a_supervised_model_is_not_supervised_again() -> None:
    net = supervised()
    for twice in (net, net.model, copy.deepcopy(net.model), Wrapper(net)):
        refused(
            twice, net.plan, AlreadyAttachedError, "is supervised already. Strip it first: model = deepsup.strip(net)"
        )
    assert isinstance(ds.attach(ds.strip(net), net.plan), ds.Supervised)


def test_a_compiled_model_is_refused() -> None:
    refused(torch.compile(Plain()), plain_plan(), CompiledModelError, "this model was compiled before attach")
    in_place = Plain()
    in_place.compile()
    refused(in_place, plain_plan(), CompiledModelError, "torch.compile(deepsup.attach(model, plan))")
    stage = Residual()
    stage.layer1.compile()
    for at in ("layer1", "layer1.0", "layer1.0.conv1"):
        plan = ds.plan(Residual(), images(), at)
        refused(stage, plan, CompiledModelError, "layer 'layer1' was compiled before attach")
    assert ds.attach(stage, ds.plan(Residual(), images(), "layer2"))


def test_data_parallel_is_refused_at_attach_and_at_replication() -> None:
    refused(nn.DataParallel(Plain()), plain_plan(), DataParallelError, "nn.DataParallel cannot be supervised")
    with pytest.raises(DataParallelError, match=r"Use torch\.nn\.parallel\.DistributedDataParallel"):
        supervised()._replicate_for_data_parallel()  # what nn.DataParallel calls before every forward on two GPUs


def test_models_that_are_wrapped_for_several_processes_are_refused() -> None:
    class DistributedDataParallel(nn.parallel.DistributedDataParallel):
        def __init__(self, module: nn.Module) -> None:  # without a process group
            nn.Module.__init__(self)
            self.module = module

    class FSDPPlain(Plain):
        """The class that `fully_shard` makes of `Plain`."""

    for wrapped in (DistributedDataParallel(Plain()), FSDPPlain()):
        refused(wrapped, plain_plan(), AttachError, "Attach first, then wrap")


def test_a_plan_of_another_model_is_refused() -> None:
    refused(Plain(CLASSES + 1), plain_plan(), PlanError, "this plan was made for another model: Plain with fingerprint")
    refused(Residual(), plain_plan(), PlanError, "this is Residual with fingerprint")


def test_a_failed_attach_changes_nothing() -> None:
    model, own = with_grads(Plain().bfloat16()), nn.Sequential(nn.Flatten(), nn.Linear(8 * 16 * 16, CLASSES)).bfloat16()
    calls: list[str] = []

    def once(feature: ds.Feature, classes: int) -> nn.Module:
        calls.append("built")
        if len(calls) > 1:
            torch.randn(9)
            raise ZeroDivisionError("no second head")
        return nn.Sequential(nn.Flatten(), nn.Linear(16 * 8 * 8, classes))

    plan = ds.plan(model, images().bfloat16(), {"a": "conv1", "b": "relu2"}, head={"a": own, "b": once})
    own.float()
    before = snapshot(model), snapshot(own)
    with pytest.raises(ZeroDivisionError, match="no second head"):
        ds.attach(model, plan)
    assert_untouched(before, (snapshot(model), snapshot(own)))
    assert {p.dtype for p in own.parameters()} == {torch.float32}
    assert taps_on(model) == []


def test_training_a_few_steps_moves_the_model_and_the_heads() -> None:
    torch.manual_seed(1)
    net = supervised(weight=0.5).train()
    optimizer, objective = torch.optim.SGD(ds.parameter_groups(net, lr=0.2)), ds.Objective(net.plan)
    x, y = images(8), labels(8)
    before = [p.clone() for p in net.parameters()]
    first = last = float(objective(net(x), y).total.detach())
    for _ in range(20):
        optimizer.zero_grad()
        terms = objective(net(x), y)
        terms.total.backward()
        optimizer.step()
        last = float(terms.total.detach())
    assert last < first
    assert not any(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_the_model_inside_is_known_as_supervised_and_can_be_stripped_by_itself() -> None:
    model = Plain()
    ds.attach(model, ds.plan(model, images(), "conv1"))  # the result is lost, as in a notebook
    assert ds.is_supervised(model)
    assert ds.strip(model) is model
    assert not ds.is_supervised(model)


def test_stripping_twice_is_refused() -> None:
    net = supervised()
    ds.strip(net)
    with pytest.raises(AttachError, match="is stripped already"):
        ds.strip(net)


def test_heads_are_a_mapping_by_branch_name() -> None:
    net = supervised(Plain(), ["conv1", "relu2"])
    assert list(net.heads) == ["conv1", "relu2"]
    assert len(net.heads) == 2
    assert dict(net.heads.items()) == {name: net.heads[name] for name in net.heads}


def test_an_activation_that_is_overwritten_since_planning_is_a_tap_error() -> None:
    class Switch(Plain):
        careless = False

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv1(x)
            x = x.relu_() if self.careless else x.relu()
            return self.fc(self.relu2(self.conv2(x)).mean((2, 3)))

    model = Switch().train()
    net = ds.attach(model, ds.plan(model, images(), "conv1"))
    net(images())
    model.careless = True
    with pytest.raises(TapError, match="overwritten in place by a later operation, which it was not"):
        net(images())
