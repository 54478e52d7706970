"""The dry run: what it sees, and that nobody can tell afterwards that it happened."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import deepsup as ds
from deepsup.errors import AttachError, LayerError, OutputError
from deepsup.features import Feature
from deepsup.layers.dry_run import Layer, Trace, trace, trace_of_all
from tests.support.odd_nets import Branchy, Dropping, Queries, Returning, Scripted, TwoInputs, telling
from tests.support.small_nets import CLASSES, Plain, Residual, images, mlp
from tests.support.states import assert_untouched, snapshot, with_grads


class Restless(nn.Module):
    """Changes everything about itself that a forward can change."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(3, CLASSES)
        self.register_buffer("seen", torch.zeros(3))
        self.register_buffer("swapped", torch.ones(2), persistent=False)
        self.register_buffer("nothing", None)
        self.calls = 0
        self.fails = fails

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.cached = x
        self.seen += 1
        self.swapped = torch.zeros(7)
        self.nothing = torch.zeros(1)
        self.register_buffer("added", torch.zeros(1))
        self.extra = nn.Linear(1, 1)
        self.bn.momentum = 0.9
        self.drop.eval()
        self.fc.bias.requires_grad_(False)
        y = self.fc(F.dropout(self.bn(x), 0.5).mean((2, 3)))
        if self.fails:
            raise ValueError("a bad day")
        return y


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_no_trace_is_left_on_the_most_restless_model(training: bool, fails: bool) -> None:
    model = with_grads(Restless(fails=fails)).train(training)
    model.bn.eval()
    hook = model.fc.register_forward_hook(lambda *_: None)
    sample = images()
    before = snapshot(model)
    if fails:
        with pytest.raises(LayerError, match="a bad day"):
            trace(model, sample)
    else:
        trace(model, sample)
    assert_untouched(before, snapshot(model))
    assert model.fc._forward_hooks[hook.id] is not None


def test_what_a_forward_appends_to_a_list_or_writes_into_a_dict_is_taken_back() -> None:
    class Remembering(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.history: list[Tensor] = []
            self.table = {"kept": 1}

        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            self.history.append(y)  # a graph kept alive, and a second backward through it later
            self.table["new"] = len(self.history)
            return y

    model = Remembering()
    history, table = model.history, model.table
    trace(model, images())
    assert model.history is history
    assert model.table is table
    assert history == []
    assert table == {"kept": 1}


def test_the_random_numbers_of_python_are_not_moved_either() -> None:
    class Shaken(Plain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x * random.random())

    before = random.getstate()
    trace(Shaken(), images())
    assert random.getstate() == before


def test_a_frozen_submodule_stays_in_eval_during_the_dry_run() -> None:
    flags: list[tuple[bool, bool]] = []
    model = Residual().train()
    model.bn1.eval()
    model.bn1.register_forward_hook(lambda m, a, o: flags.append((m.training, model.training)))
    trace(model, images())
    assert flags == [(False, True)]


def test_an_interrupt_leaves_no_trace_either() -> None:
    model = Residual().eval()
    model.avgpool.register_forward_pre_hook(_interrupt)
    sample = images()
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        trace(model, sample)
    assert_untouched(before, snapshot(model))


def _interrupt(module: nn.Module, args: Any) -> None:
    raise KeyboardInterrupt


def test_a_buffer_that_shares_its_memory_is_no_obstacle() -> None:
    class Expanded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, CLASSES)
            self.register_buffer("ones", torch.ones(1).expand(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x * self.ones)

    assert trace(Expanded(), torch.randn(2, 3)).classes == CLASSES


def test_what_the_dry_run_sees_of_a_plain_net() -> None:
    seen = trace(Plain(), images(4))
    assert (seen.model, seen.input_shape, seen.main, seen.classes, seen.params) == (
        "Plain",
        (2, 3, 16, 16),
        (),
        5,
        1477,
    )
    assert list(seen.layers) == ["conv1", "relu1", "conv2", "relu2", "pool", "fc"]
    assert seen.trunk == ("conv1", "relu1", "conv2", "relu2", "pool", "fc")
    assert seen.layers["conv2"] == Layer(
        name="conv2",
        type="Conv2d",
        calls=1,
        order=2,
        depth=2 / 3,
        params=8 * 16 * 9 + 16,
        feature=Feature((16, 8, 8), "NCHW"),
        stride=2,
        dtype=torch.float32,
    )
    assert [round(layer.depth, 2) for layer in seen.layers.values()] == [0.33, 0.33, 0.67, 0.67, 0.67, 1.0]
    assert [layer.stride for layer in seen.layers.values()] == [1, 1, 2, 2, 16, None]


def test_flops_are_those_computed_by_hand() -> None:
    # Multiplications and additions counted separately; biases and activations are not counted.
    conv1 = 2 * (3 * 3 * 3) * 8 * 16 * 16
    conv2 = 2 * (8 * 3 * 3) * 16 * 8 * 8
    fc = 2 * 16 * 5
    assert trace(Plain(), images(1)).flops == trace(Plain(), images(8)).flops == conv1 + conv2 + fc
    assert trace(mlp(7, 11, 5), torch.randn(3, 7)).flops == 2 * 7 * 11 + 2 * 11 * 5
    batch_of_three = trace(mlp(7, 11, 5), (torch.randn(3, 7),))  # a tuple is taken as it is
    assert (batch_of_three.flops, batch_of_three.input_shape) == (2 * 7 * 11 + 2 * 11 * 5, (3, 7))


@pytest.mark.parametrize("model", [Plain(), Residual(), mlp(3, 4, 4, 4, 5)], ids=lambda m: type(m).__name__)
def test_depth_never_falls_along_the_run_and_ends_at_one(model: nn.Module) -> None:
    seen = trace(model, torch.randn(2, 3) if isinstance(model, nn.Sequential) else images())
    depths = [layer.depth for layer in sorted(seen.layers.values(), key=lambda x: x.order)]
    assert depths == sorted(depths)
    assert depths[-1] == 1
    assert all(0 <= d <= 1 for d in depths)


def test_the_trunk_of_a_residual_net_has_blocks_and_stages_but_not_the_inside_of_a_block() -> None:
    seen = trace(Residual(), images())
    blocks = ("layer1.0", "layer1.1", "layer1", "layer2.0", "layer2.1", "layer2")
    assert seen.trunk == ("conv1", "bn1", "relu", *blocks, "avgpool", "fc")
    assert seen.layers["relu"].calls == 1
    assert seen.layers["layer1.0.relu"].calls == 2


def test_calls_side_paths_and_cut_off_layers_show() -> None:
    seen = trace(Branchy(), torch.randn(2, 3))
    assert {n: layer.calls for n, layer in seen.layers.items()} == {
        "stem": 1,
        "side": 1,
        "never": 0,
        "twice": 2,
        "cut": 1,
        "fc": 1,
    }
    assert seen.layers["never"].feature is None
    assert seen.layers["never"].order == -1
    assert [n for n, layer in seen.layers.items() if not layer.leads_to_output] == ["side", "never"]
    assert [n for n, layer in seen.layers.items() if not layer.trains] == ["cut"]
    assert seen.trunk == ("stem", "fc")


def test_a_layer_without_weights_behind_a_cut_does_not_train_either() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flatten = nn.Flatten()  # nothing before it could be trained: no gradient is missing
            self.stem, self.relu, self.fc = nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = self.relu(self.stem(self.flatten(x)))
            return self.fc(x)

    layers = trace(Cut(), torch.randn(2, 3)).layers
    assert {n: layer.trains for n, layer in layers.items()} == {
        "flatten": True,
        "stem": False,
        "relu": False,
        "fc": True,
    }


def test_reentrant_checkpointing_shows_as_a_layer_that_does_not_train() -> None:
    class Checkpointed(nn.Module):
        def __init__(self, reentrant: bool) -> None:
            super().__init__()
            self.stem, self.body, self.fc = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)
            self.reentrant = reentrant

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(checkpoint(self.body, self.stem(x), use_reentrant=self.reentrant))

    for reentrant in (True, False):
        layer = trace(Checkpointed(reentrant), torch.randn(2, 3)).layers["body"]
        assert layer.trains is not reentrant
        assert layer.calls == 1


def test_a_frozen_trunk_is_not_mistaken_for_a_cut_off_one() -> None:
    model = Plain().requires_grad_(False)
    seen = trace(model, images())
    assert all(layer.trains and layer.leads_to_output for layer in seen.layers.values())
    assert seen.trunk == trace(Plain(), images()).trunk


def _in_place_relu(net: Overwriting, x: Tensor) -> Tensor:
    return net.relu(x)


def _functional(net: Overwriting, x: Tensor) -> Tensor:
    return F.relu_(x)


def _of_a_view(net: Overwriting, x: Tensor) -> Tensor:
    F.relu_(x.flatten(1))
    return x


def _sum(net: Overwriting, x: Tensor) -> Tensor:
    x += 1
    return x


def _copying(net: Overwriting, x: Tensor) -> Tensor:
    return F.relu(x)


class Overwriting(nn.Module):
    def __init__(self, then: Callable[[Overwriting, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, CLASSES)
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.then(self, self.conv(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("then", "overwritten"),
    [(_in_place_relu, True), (_functional, True), (_of_a_view, True), (_sum, True), (_copying, False)],
)
def test_a_successor_that_works_in_place_is_found(then: Any, overwritten: bool) -> None:
    layers = trace(Overwriting(then), images()).layers
    assert layers["conv"].overwritten is overwritten
    assert layers["conv"].leads_to_output
    assert not layers["relu"].overwritten
    assert not layers["fc"].overwritten


def test_in_place_successors_of_a_residual_net() -> None:
    layers = trace(Residual(), images()).layers
    # The second batch norm is overwritten by `y += x`, the first by the ReLU, whose own output nobody overwrites.
    assert [n for n, layer in layers.items() if layer.overwritten] == [
        "bn1",
        *(f"layer{s}.{b}.bn{i}" for s in (1, 2) for b in (0, 1) for i in (1, 2)),
    ]


@pytest.mark.parametrize(
    "sample",
    [
        (torch.randn(2, 3), torch.randn(2, 4)),
        [torch.randn(2, 3), torch.randn(2, 4)],
        {"right": torch.randn(2, 4), "left": torch.randn(2, 3), "scale": 0.5},
    ],
    ids=["tuple", "list", "dict"],
)
def test_samples_may_be_arguments(sample: Any) -> None:
    seen = trace(TwoInputs(), sample)
    assert seen.layers["b"].feature == Feature((CLASSES,), "NC")
    assert seen.layers["a"].calls == 1


def test_one_sample_is_enough_for_batch_normalisation() -> None:
    class Tail(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mean((2, 3)))

    model = Tail(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, CLASSES))
    assert trace(model, images(1)).input_shape == (2, 3, 16, 16)


def test_a_lazy_model_is_asked_to_run_first() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(CLASSES))
    with pytest.raises(LayerError, match=r"Sequential has 4 lazy parameters .*\(0.weight, ...\).*Run the model once"):
        trace(model, torch.randn(2, 3))
    model(torch.randn(2, 3))
    assert trace(model, torch.randn(2, 3)).classes == CLASSES


def test_a_failing_forward_says_what_was_run_and_what_went_wrong() -> None:
    with pytest.raises(LayerError) as caught:
        trace(Plain(), torch.randn(2, 4, 16, 16))
    message = str(caught.value)
    assert message.startswith(
        "the dry run of Plain on a sample of shape (2, 4, 16, 16) failed: RuntimeError: Given groups=1"
    )
    assert message.endswith(
        "The sample must be what the model takes in training, batch axis first, on the model's device."
    )
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_the_main_prediction_is_found_or_named() -> None:
    x = torch.randn(2, 3)
    seen = trace(Returning(lambda y, h: {"logits": y, "hidden": h}), x)
    assert (seen.main, seen.classes) == (("logits",), CLASSES)
    assert seen.output == {("logits",): (2, CLASSES), ("hidden",): (2, 8)}
    named = trace(Returning(lambda y, h: {"a": h, "b": y}), x, main=("b",))
    assert (named.main, named.classes) == (("b",), CLASSES)
    with pytest.raises(OutputError, match=r"model \(Returning\) returned dict with 2 tensors: a \(2, 8\), b"):
        trace(Returning(lambda y, h: {"a": h, "b": y}), x)
    with pytest.raises(OutputError, match="Returning has no output 'c' for main=; found: a, b"):
        trace(Returning(lambda y, h: {"a": h, "b": y}), x, main=("c",))
    with pytest.raises(OutputError, match="Returning has no output 'c' for main=; found: the output itself"):
        trace(Returning(lambda y, h: y), x, main=("c",))


@pytest.mark.parametrize("wrap", [lambda y, h: y[:, 0], lambda y, h: y.sum()], ids=["(N,)", "()"])
def test_a_prediction_without_a_class_axis_is_an_output_error(wrap: Any) -> None:
    with pytest.raises(OutputError):
        _ = trace(Returning(wrap), torch.randn(2, 3)).classes


def test_picks_and_layouts_can_be_said() -> None:
    assert trace(telling(), images()).layers["block"].feature == Feature((4, 14, 14), "NCHW")
    picked = trace(telling(), images(), picks={"block": (1, "deep")}).layers["block"]
    assert (picked.feature, picked.pick, picked.problem) == (Feature((4,), "NC"), (1, "deep"), "")
    assert trace(telling(), images(), layouts={"conv": "NHWC"}).layers["conv"].feature == Feature((4, 14, 14), "NHWC")


@pytest.mark.parametrize("pick", [(2,), ("hidden",), (1, "other"), (1, "note"), (1, "states"), (1,)], ids=str)
def test_a_pick_that_reaches_no_tensor_becomes_the_layers_problem(pick: Any) -> None:
    layer = trace(telling(), images(), picks={"block": pick}).layers["block"]
    assert layer.feature is None
    assert layer.problem.startswith(
        f"layer 'block' has no output '{'.'.join(map(str, pick))}'; it returned tuple with 0, 1."
    )


@pytest.mark.parametrize("pick", [(0,), ("T",)], ids=str)
def test_a_pick_into_a_bare_tensor_is_a_problem_not_a_slice(pick: Any) -> None:
    layer = trace(telling(), images(), picks={"conv": pick}).layers["conv"]
    assert layer.feature is None
    assert layer.problem.startswith(f"layer 'conv' has no output '{pick[0]}'; it returned Tensor")


def test_layers_without_a_readable_output_carry_the_reason() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return {"a": x, "b": x}

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.odd, self.six, self.fc = Odd(), nn.Unflatten(1, (1, 1, 1, 1, 3)), nn.Linear(3, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.six(self.odd(x)["a"]).flatten(1))

    layers = trace(Net(), torch.randn(2, 3)).layers
    assert "layer 'odd' returned dict with 2 tensors: a (2, 3), b (2, 3)" in layers["odd"].problem
    assert layers["six"].feature is None
    assert isinstance(trace(Net(), torch.randn(2, 3)), Trace)


def test_a_buffer_that_forward_replaces_and_private_state_come_back() -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, CLASSES)
            self.register_buffer("running", torch.zeros(3))
            self._cache: dict[str, Tensor] = {}

        def forward(self, x: Tensor) -> Tensor:
            self.running = self.running + x.mean(0)
            self._cache["x"] = x
            return self.fc(x)

    model = Keeping()
    running = model.running
    trace(model, torch.randn(2, 3))
    assert model.running is running
    assert not running.any()
    assert model._cache == {}


class SequenceFirst(nn.Module):
    """Turns (N, L, C) into (L, N, C) for its transformer, as PyTorch's default has it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.mix = nn.Linear(8, 8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(self.embed(x).transpose(0, 1))
        return self.fc(y.mean(0))


def test_a_layer_whose_first_axis_is_not_the_batch_is_no_place_for_a_branch() -> None:
    seen = trace(SequenceFirst(), torch.randn(4, 7, 4))
    assert "embed" in seen.trunk
    assert "mix" not in seen.trunk
    assert "gives out (7, 2, 8), whose first axis is not the batch (2 samples)" in seen.layers["mix"].problem
    with pytest.raises(LayerError, match="sequence-first or windowed layer"):
        ds.plan(SequenceFirst(), torch.randn(4, 7, 4), at="mix")


def test_what_does_not_depend_on_the_input_is_no_part_of_the_trunk() -> None:
    seen = trace(Queries(), images())
    apart = {name for name, layer in seen.layers.items() if not layer.reads_input}
    assert apart == {"positions", "queries"}
    assert all(seen.layers[n].leads_to_output for n in apart)
    assert seen.trunk == ("stem", "mix", "fc")  # nor is the mask, which no gradient leaves


def test_a_model_whose_input_is_lost_on_the_way_keeps_its_trunk() -> None:
    class Detour(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.fc = nn.Linear(3, 3), nn.Linear(3, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.first(torch.tensor(x.tolist())))

    assert trace(Detour(), torch.randn(2, 3)).trunk == ("first", "fc")


def test_what_is_compiled_to_torchscript_is_left_alone_and_cannot_be_tapped() -> None:
    model, x = Scripted().train(), torch.randn(2, 3, 8, 8)
    model.inner.bn.eval()
    values = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [m.training for m in model.modules()]
    plan = ds.plan(model, x, ["conv", "last"])
    for layer in ("inner", "inner.conv"):
        with pytest.raises(LayerError, match=rf"layer '{layer}' is compiled to TorchScript"):
            ds.plan(model, x, [layer])
    assert [m.training for m in model.modules()] == flags
    assert all(torch.equal(v, values[k]) for k, v in model.state_dict().items())
    net = ds.attach(model, plan)
    ds.Objective(plan)(net(x), torch.tensor([0, 1])).total.backward()
    assert model.conv.weight.grad is not None
    assert not any(p.requires_grad and p.grad is None for p in net.parameters())
    assert ds.strip(net, certificate=None) is model


def test_a_model_that_is_torchscript_itself_is_refused_by_name() -> None:
    with pytest.raises(AttachError, match="is compiled to TorchScript"):
        ds.plan(Scripted().inner, torch.randn(2, 4, 8, 8), ["conv"])


@pytest.mark.parametrize("share", [0.5, 0.999])
def test_layers_that_are_dropped_by_chance_are_seen_whatever_the_chance(share: float) -> None:
    for seed in range(6):
        random.seed(seed)
        model, x, state = Dropping(share).train(), torch.randn(2, 3), random.getstate()
        before = snapshot(model)
        seen = trace_of_all(model, x)
        assert random.getstate() == state
        assert_untouched(before, snapshot(model))
        assert [seen.layers[f"blocks.{i}"].calls for i in range(4)] == [1] * 4
        plan = ds.plan(model, torch.randn(2, 3), ["blocks.1", "75%"], optional=True)
        assert len(plan.branches) == 2


def test_a_layer_that_never_runs_stays_one() -> None:
    with pytest.raises(LayerError, match="never called"):
        ds.plan(Branchy(), torch.randn(2, 3), ["never"])
