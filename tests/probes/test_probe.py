"""The probe: it sees what a hand-written loop sees, and leaves a model that is as it was."""

from __future__ import annotations

import copy
import random
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

import deepsup as ds
from deepsup.errors import CompiledModelError, ConfigError, DatasetError, LayerError, NonFiniteError
from deepsup.probes import probe
from deepsup.probes.magnitudes import EXACT, Magnitudes
from tests.support.odd_nets import Branchy
from tests.support.probing import batches
from tests.support.small_nets import CLASSES, Plain, Residual, images, labels, mlp
from tests.support.states import assert_untouched, snapshot, with_grads


def by_hand(model: nn.Module, data: list[tuple[Tensor, Tensor]], iterations: int, lr: float) -> dict[str, list[float]]:
    """Plain SGD on a copy; mean |gradient| of every weight."""
    model = copy.deepcopy(model).train()
    found: dict[str, list[float]] = {n.removesuffix(".weight"): [] for n, p in model.named_parameters() if p.ndim > 1}
    for i in range(iterations):
        x, y = data[i % len(data)]
        grads = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
        with torch.no_grad():
            for (name, p), g in zip(list(model.named_parameters()), grads, strict=True):
                if p.ndim > 1:
                    found[name.removesuffix(".weight")].append(float(g.abs().mean()))
                p -= lr * g
    return found


@pytest.mark.parametrize("lr", [0.0, 0.3])
@pytest.mark.parametrize("kind", [Plain, Residual])
def test_it_measures_what_a_hand_written_loop_measures(kind: type[nn.Module], lr: float) -> None:
    model, data = kind(), batches()
    seen = probe(model, data, iterations=5, lr=lr)
    expected = by_hand(model, data, 5, lr)
    assert seen.iterations == 5
    assert {r.layer for r in seen.rows} == set(expected)
    for row in seen.rows:
        assert row.gradients == pytest.approx(expected[row.layer], rel=1e-5)
        assert row.mean == pytest.approx(sum(row.gradients) / 5)
        assert len(row.activation) == 5
    assert (seen.rows[0].gradients[0] == seen.rows[0].gradients[3]) is (lr == 0)


def test_rows_come_in_running_order_with_the_tap_that_follows() -> None:
    rows = probe(Residual(), batches(1), iterations=1).rows
    assert [(r.layer, r.tap) for r in rows] == [
        ("conv1", "relu"),
        ("layer1.0.conv1", "layer1.0"),
        ("layer1.0.conv2", "layer1.0"),
        ("layer1.1.conv1", "layer1"),
        ("layer1.1.conv2", "layer1"),
        ("layer2.0.conv1", "layer2.0"),
        ("layer2.0.conv2", "layer2.0"),
        ("layer2.0.down", "layer2.0"),
        ("layer2.1.conv1", "layer2"),
        ("layer2.1.conv2", "layer2"),
        ("fc", None),
    ]
    assert [r.depth for r in rows] == sorted(r.depth for r in rows)


def test_layers_off_the_way_to_the_prediction_are_left_out() -> None:
    rows = probe(Branchy(), [(torch.randn(4, 3), labels(4))], iterations=1).rows
    # "cut" runs under no_grad: a gradient that is not there has not vanished on the way.
    assert [r.layer for r in rows] == ["stem", "twice", "fc"]


def test_layers_run_in_training_mode_whatever_the_model_was_in() -> None:
    model, data = Residual(), batches(1)
    assert probe(model.eval(), data, iterations=1, lr=0).rows == probe(model.train(), data, iterations=1, lr=0).rows


def test_the_loss_may_be_the_users() -> None:
    model, data = Plain(), batches(1)
    doubled = probe(model, data, iterations=1, loss=lambda p, y: 2 * F.cross_entropy(p, y))
    assert doubled.rows[0].mean == pytest.approx(2 * probe(model, data, iterations=1).rows[0].mean, rel=1e-5)


class Interrupting:
    """Batches, then Ctrl-C."""

    def __init__(self, after: int) -> None:
        self.data = batches(after)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self.data
        raise KeyboardInterrupt


class Dropping(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.dropout(x, 0.5))


@pytest.mark.parametrize("training", [True, False])
def test_the_model_its_gradients_and_the_random_state_are_restored_bit_for_bit(training: bool) -> None:
    model = with_grads(Dropping()).train(training)
    model.layer1[0].bn1.eval()
    model.conv1.weight.requires_grad_(False)
    data = batches()
    before = snapshot(model)
    assert len(probe(model, data, iterations=4, lr=0.5).rows) == 10
    assert_untouched(before, snapshot(model))


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupt_restores_everything_too(after: int) -> None:
    model, loader = with_grads(Dropping()).eval(), Interrupting(after)
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        probe(model, loader, iterations=5, lr=0.5)
    assert_untouched(before, snapshot(model))


def test_a_loader_that_shuffles_does_not_move_the_users_random_numbers() -> None:
    loader = DataLoader(TensorDataset(images(8), labels(8)), batch_size=4, shuffle=True)
    model, before = Plain(), torch.get_rng_state()
    assert probe(model, loader, iterations=3).iterations == 3
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("place", ["loader", "sampler", "batch sampler"])
def test_generators_of_the_users_own_in_a_loader_are_put_back(place: str) -> None:
    data, own = TensorDataset(images(8), labels(8)), torch.Generator().manual_seed(3)
    sampler = RandomSampler(data, generator=own)
    loader = {
        "loader": lambda: DataLoader(data, batch_size=4, shuffle=True, generator=own),
        "sampler": lambda: DataLoader(data, batch_size=4, sampler=sampler),
        "batch sampler": lambda: DataLoader(data, batch_sampler=BatchSampler(sampler, 4, drop_last=False)),
    }[place]()
    before = own.get_state()
    probe(Plain(), loader, iterations=3)
    assert torch.equal(own.get_state(), before)


def test_augmentation_does_not_move_pythons_random_numbers() -> None:
    def augmented() -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in data:
            yield x * random.random(), y

    data, before = batches(2), random.getstate()
    probe(Plain(), augmented(), iterations=2)
    assert random.getstate() == before


@pytest.mark.parametrize("nothing", [[], iter([]), DataLoader([], batch_size=None)], ids=["list", "iterator", "loader"])
def test_no_batch_is_a_dataset_error(nothing: Any) -> None:
    with pytest.raises(DatasetError, match="the probe got no batch"):
        probe(Plain(), nothing)


def test_a_short_list_is_run_through_again_and_a_short_iterator_ends_early() -> None:
    data = batches(2)
    assert probe(Plain(), data, iterations=5).iterations == 5
    short = probe(Plain(), iter(data), iterations=5)
    assert short.iterations == 2
    assert {len(r.gradients) for r in short.rows} == {2}


def test_no_more_batches_are_drawn_than_iterations() -> None:
    stream = iter(batches(4))
    probe(Plain(), stream, iterations=2)
    assert len(list(stream)) == 2


@pytest.mark.parametrize("iterations", [0, -3])
def test_no_iteration_is_a_config_error(iterations: int) -> None:
    with pytest.raises(ConfigError, match="at least 1 iteration"):
        probe(Plain(), batches(1), iterations=iterations)


def test_a_frozen_model_has_no_gradient_to_probe() -> None:
    with pytest.raises(
        LayerError, match="Plain has no layer whose gradient could be probed: every parameter is frozen"
    ):
        probe(Plain().requires_grad_(False), batches(1))


def test_frozen_layers_are_left_out() -> None:
    model = Plain()
    model.conv1.requires_grad_(False)
    assert [r.layer for r in probe(model, batches(1), iterations=1).rows] == ["conv2", "fc"]


def test_a_loss_that_is_not_finite_stops_the_probe_and_restores() -> None:
    model, data = Plain(), batches(1)
    before = snapshot(model)
    with pytest.raises(
        NonFiniteError, match=r"the loss is (nan|inf) at iteration [1-9]\d* of the probe. Lower lr \(now 1e\+12\)"
    ):
        probe(model, data, iterations=10, lr=1e12)
    assert_untouched(before, snapshot(model))


def test_the_gradients_of_a_deep_sigmoid_net_vanish_downwards() -> None:
    deep: list[nn.Module] = []
    for _ in range(8):
        deep += [nn.Linear(16, 16), nn.Sigmoid()]
    model = nn.Sequential(*deep, nn.Linear(16, CLASSES))
    seen = probe(model, [(torch.randn(8, 16), labels(8))], iterations=3)
    means = [r.mean for r in seen.rows]
    assert means == sorted(means)
    assert means[0] < 1e-3 * means[-1]
    assert len(seen.recommend("drop")) >= 3
    assert probe(mlp(16, 16, CLASSES), [(torch.randn(8, 16), labels(8))], iterations=3).recommend() == []


# --- the numbers, against a slow exact way ---------------------------------------------------------------------------


def exactly(model: nn.Module, x: Tensor, y: Tensor, goal: Callable[[Any, Tensor], Tensor]) -> dict[str, dict[str, Any]]:
    """|gradient| of weights and outputs and |activation| of every layer: nothing in place, every gradient kept."""
    model = copy.deepcopy(model).float().train()
    kept: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                output.retain_grad()
                kept.setdefault(name, []).append(output)

        return hook

    for name, module in model.named_modules():
        if hasattr(module, "inplace"):
            module.inplace = False
        if name and any(p.ndim > 1 for p in module.parameters(recurse=False)):
            module.register_forward_hook(keep(name))
    goal(model(x), y).backward()
    found = {}
    for name, outputs in kept.items():
        weight = next(p for p in model.get_submodule(name).parameters(recurse=False) if p.ndim > 1)
        found[name] = {
            "weight": weight.grad.abs().flatten(),
            "output": torch.cat([o.grad.abs().flatten() for o in outputs]),
            "activation": torch.cat([o.detach().abs().flatten() for o in outputs]),
        }
    return found


def check(seen: Magnitudes, values: Tensor, what: str) -> None:
    values = values.double()
    assert seen.mean == pytest.approx([float(values.mean())], rel=1e-4, abs=1e-12), what
    ranks = [float(torch.quantile(values, q)) for q in (0.5, 0.05)] if len(values) < 10**6 else None
    share = float((values < 1e-4).double().mean())
    if len(values) <= EXACT:
        assert [*seen.median, *seen.p5] == pytest.approx(ranks, rel=1e-3, abs=1e-12), what
        assert seen.vanished == pytest.approx([share], abs=1e-5), what
        return
    assert abs(seen.vanished[0] - share) < 0.09, what  # four standard errors of a share from 512 values
    for estimate, q in ((seen.median[0], 0.5), (seen.p5[0], 0.05)):
        below, up_to = float((values < 0.999 * estimate).double().mean()), float((values <= estimate).double().mean())
        assert below - 0.09 < q < up_to + 0.09, what


def vgg11() -> nn.Module:
    """Its convolutions with their in-place ReLUs, without the 123 million weights of its classifier."""
    features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"])
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))


REAL: dict[str, Callable[[], nn.Module]] = {
    "plain": Plain,
    "residual": Residual,
    "resnet18": lambda: torchvision.models.resnet18(num_classes=CLASSES),
    "vgg11": vgg11,
    "densenet121": lambda: torchvision.models.densenet121(num_classes=CLASSES),
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=CLASSES, depth=3),
}


@pytest.mark.parametrize("name", REAL)
def test_every_number_is_that_of_the_slow_exact_way(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = REAL[name]()
    x, y = images(3, size=32), labels(3)
    seen = probe(model, [(x, y)], iterations=1, lr=0, threshold=1e-4)
    expected = exactly(model, x, y, F.cross_entropy)
    assert {r.layer for r in seen.rows} == set(expected)
    for row in seen.rows:
        values = expected[row.layer]
        check(row.weight, values["weight"], f"weight of {row.layer}")
        assert row.output is not None
        check(row.output, values["output"], f"output of {row.layer}")
        error = 1e-4 if len(values["activation"]) <= EXACT else 0.2
        assert row.activation == pytest.approx([float(values["activation"].mean())], rel=error)


class Twice(nn.Module):
    """One layer that runs twice, on different sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 8)
        self.twice = nn.Linear(8, 8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.twice(self.stem(x))
        return self.fc(self.twice(x[:2]).mean(0) + x)


def test_a_layer_that_runs_twice_counts_all_that_it_gives_out() -> None:
    model, x, y = Twice(), torch.randn(4, 3), labels(4)
    row = next(r for r in probe(model, [(x, y)], iterations=1, lr=0, threshold=1e-4).rows if r.layer == "twice")
    expected = exactly(model, x, y, F.cross_entropy)["twice"]
    assert len(expected["output"]) == 4 * 8 + 2 * 8
    assert row.output is not None
    check(row.output, expected["output"], "output")
    check(row.weight, expected["weight"], "weight")
    assert row.activation == pytest.approx([float(expected["activation"].mean())], rel=1e-4)


class Checkpointed(Plain):
    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint(lambda a: self.relu2(self.conv2(self.relu1(self.conv1(a)))), x, use_reentrant=False)
        return self.fc(self.pool(x).flatten(1))


def test_a_layer_that_checkpointing_runs_again_is_counted_once() -> None:
    model, data = Plain(), batches(1)
    twin = Checkpointed()
    twin.load_state_dict(model.state_dict())
    for a, b in zip(probe(model, data, iterations=2).rows, probe(twin, data, iterations=2).rows, strict=True):
        assert (a.layer, a.weight, a.output, a.activation) == (b.layer, b.weight, b.output, b.activation)


def test_an_iteration_that_skips_a_layer_counts_as_zero() -> None:
    class Sometimes(Plain):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Sometimes.calls += 1
            x = self.relu1(self.conv1(x))
            x = x.repeat(1, 2, 1, 1) if Sometimes.calls == 3 else self.conv2(x)
            return self.fc(self.pool(x).flatten(1))

    row = next(r for r in probe(Sometimes(), batches(1), iterations=3, lr=0).rows if r.layer == "conv2")
    assert row.output is not None
    for part in (row.weight, row.output):
        assert [m == 0 for m in part.mean] == [v == 1 for v in part.vanished] == [False, True, False]
    assert [a == 0 for a in row.activation] == [False, True, False]


def test_no_number_is_fetched_from_the_device_while_the_probe_runs() -> None:
    class Fetches(torch.utils._python_dispatch.TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.equal)
            return func(*args, **kwargs or {})

    counts = []
    for iterations in (1, 6):
        with Fetches() as fetches:
            probe(Residual(), batches(1), iterations=iterations)
        counts.append(fetches.count)
    assert counts[0] == counts[1]


# --- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_probed_in_float32(dtype: torch.dtype) -> None:
    model = Residual().to(dtype)
    data = [(x.to(dtype), y) for x, y in batches(2)]
    found = probe(model, data, iterations=3, lr=0.1)
    exact = probe(copy.deepcopy(model).float(), [(x.float(), y) for x, y in data], iterations=3, lr=0.1)
    assert found == exact
    small = probe(model, data, iterations=1, loss=lambda p, y: 1e-7 * F.cross_entropy(p, y))
    assert 0 < small.rows[0].mean < 1e-8  # float16 ends at 6e-8


def test_autocast_and_no_grad_around_the_call_change_nothing() -> None:
    model, data = Residual(), batches(1)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        inside = probe(model, data, iterations=2)
        assert torch.is_autocast_enabled("cpu")
        assert not torch.is_grad_enabled()
    assert inside == probe(model, data, iterations=2)


# --- nets with branches, wrapped nets --------------------------------------------------------------------------------


def supervised(model: nn.Module) -> tuple[ds.Supervised, Callable[[Any, Tensor], Tensor]]:
    plan = ds.plan(model, images(2), ["layer1.0", "layer2.0"], weight=0.5)
    objective = ds.Objective(plan)
    return ds.attach(model, plan), lambda output, y: objective(output, y, progress=0).total


def test_a_supervised_net_is_measured_under_its_whole_objective() -> None:
    net, goal = supervised(Residual())
    x, y = batches(1)[0]
    before = strict(net)
    seen = probe(net, [(x, y)], iterations=1, lr=0, objective=goal, threshold=1e-4)
    assert_untouched(before, strict(net))
    twin = copy.deepcopy(net).train()
    goal(twin(x), y).backward()
    assert seen.branches == ("layer1.0", "layer2.0")
    assert [r.layer for r in seen.rows] == [r.layer for r in probe(Residual(), [(x, y)], iterations=1).rows]
    for row in seen.rows:
        weight = twin.model.get_submodule(row.layer).weight
        check(row.weight, weight.grad.abs().flatten(), row.layer)
    assert (seen.model, seen.classes) == ("Residual", CLASSES)


def test_the_plain_model_in_a_supervised_net_is_measured_without_branches() -> None:
    model, data = Residual(), batches(1)
    plain = probe(model, data, iterations=3)
    net, goal = supervised(model)
    assert probe(net.model, data, iterations=3) == plain
    after = probe(net, data, iterations=3, objective=goal)
    assert after.rows[0].mean > plain.rows[0].mean
    assert after.rows[-1].weight == plain.rows[-1].weight or after.rows[-1].mean == pytest.approx(
        plain.rows[-1].mean, 0.1
    )


@pytest.mark.parametrize("rule", ["scale(0.5)", "detach", "pcgrad", "equilibrium"])
def test_what_a_rule_does_to_a_branchs_gradient_is_measured_and_undone(rule: str) -> None:
    model, data = Residual(), batches(1)
    plan = ds.plan(model, images(2), ["layer1.0", "layer2.0"], weight=0.5, gradient=rule)
    objective, plain = ds.Objective(plan), probe(model, data, iterations=1)
    net = with_grads(ds.attach(model, plan))
    before = strict(net)
    seen = probe(net, data, iterations=1, objective=lambda output, y: objective(output, y).total)
    assert_untouched(before, strict(net))
    assert (seen.rows[0].mean == pytest.approx(plain.rows[0].mean, rel=1e-4)) is (rule == "detach")


def test_a_supervised_net_without_an_objective_is_told_what_to_pass() -> None:
    net, _ = supervised(Residual())
    data = batches(1)
    before = strict(net)
    with pytest.raises(ConfigError, match=r"this net is supervised(.|\n)*ds\.Objective\(plan\)\(out, y, progress=0\)"):
        probe(net, data)
    assert_untouched(before, strict(net))


def test_a_compiled_net_is_probed_as_the_plain_model_inside() -> None:
    model, data = Plain(), batches(1)
    assert probe(torch.compile(model, backend="eager"), data, iterations=2) == probe(model, data, iterations=2)
    assert probe(nn.DataParallel(model), data, iterations=2) == probe(model, data, iterations=2)


def test_a_layer_that_is_compiled_is_refused() -> None:
    model = Residual()
    model.layer1.compile(backend="eager")
    with pytest.raises(CompiledModelError, match="layer 'layer1' is compiled, so the probe cannot look inside"):
        probe(model, batches(1))


def test_a_model_may_take_several_inputs_and_the_target_may_be_anything() -> None:
    class Two(Plain):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return super().forward(a + b)

    x, y = batches(1)[0]
    for inputs in ((x, x), [x, x], {"a": x, "b": x}):
        found = probe(Two(), [(inputs, {"label": y})], iterations=1, loss=lambda p, t: F.cross_entropy(p, t["label"]))
        assert [r.layer for r in found.rows] == ["conv1", "conv2", "fc"]


# --- bad input: a named error, and nothing changed -------------------------------------------------------------------


def strict(model: nn.Module) -> dict[str, Any]:
    """Everything that a probe could have changed, down to the memory that values lie in."""
    tensors = [*model.parameters(), *model.buffers()]
    return snapshot(model) | {
        "places": [(t.data_ptr(), t.dtype, t.stride(), t.device) for t in tensors],
        "tensor hooks": [(t._backward_hooks, t._post_accumulate_grad_hooks) for t in tensors],
        "numpy": [str(np.random.get_state(legacy=False))],
        "modes": [torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")],
    }


class SquareRoot(Plain):
    """A finite loss with a gradient that is not: the root of 0 has none."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.conv1(x))
        x = self.relu2(self.conv2(x + 1e-30 * torch.sqrt(0 * x)))
        return self.fc(self.pool(x).flatten(1))


def raises_in_backward(grad: Tensor) -> None:
    raise KeyboardInterrupt


class Stops(Dropping):
    """Ctrl-C on the third way up (the dry run is the first), or on the way down from there."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where
        self.shared = iter(range(10**6))  # not put back by anybody

    def forward(self, x: Tensor) -> Tensor:
        third = next(self.shared) == 2
        if third and self.where == "forward":
            raise KeyboardInterrupt
        y = super().forward(x)
        if third and self.where == "backward":
            y.register_hook(raises_in_backward)
        return y


def frozen_trunk() -> nn.Module:
    model = Plain().requires_grad_(False)
    model.fc.requires_grad_(True)
    return model


class Blank(nn.Module):
    """Lazy: its layers have no shape yet."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.LazyLinear(CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


class OneEach(nn.Module):
    """Normalises vectors, of which a batch of one has one value a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm1d(4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(x).mean((2, 3))))


BAD: dict[str, tuple[Callable[[], nn.Module], Any, dict[str, Any], type[BaseException], str]] = {
    "a loader that yields nothing": (Residual, [], {}, DatasetError, "the probe got no batch"),
    "a loader of tensors": (Residual, [torch.zeros(2, 3, 16, 16)], {}, DatasetError, r"yielded one tensor of shape \(2, 3"),
    "a loader of dicts": (Residual, [{"image": 1}], {}, DatasetError, "yielded dict with 'image'. Pass a generator"),
    "a loader of triples": (Residual, [(1, 2, 3)], {}, DatasetError, "yielded tuple of 3"),
    "a loader of texts": (Residual, ["ab"], {}, DatasetError, "yielded str"),
    "a loss without a graph": (
        Residual, None, {"loss": lambda p, y: torch.tensor(1.0)}, ConfigError, "the loss has no graph",
    ),
    "a loss without the model": (
        Residual, None, {"loss": lambda p, y: torch.ones((), requires_grad=True) * 2}, ConfigError,
        "the loss gave no gradient to any weight of Residual",
    ),
    "a loss of each sample": (
        Residual, None, {"loss": lambda p, y: F.cross_entropy(p, y, reduction="none")}, ConfigError,
        r"found a tensor of shape \(4,\)",
    ),
    "a loss that is a number": (
        Residual, None, {"loss": lambda p, y: 1.0}, ConfigError, "must be one number in a tensor; found float",
    ),
    "an unknown loss": (Residual, None, {"loss": "mze"}, ConfigError, "no loss is called 'mze'"),
    "a frozen model": (lambda: Residual().requires_grad_(False), None, {}, LayerError, "every parameter is frozen"),
    "a frozen trunk": (frozen_trunk, None, {}, LayerError, "the trunk of Plain is frozen: of its weights only fc can be trained"),
    "a model without shapes": (Blank, None, {}, LayerError, "lazy parameters without a shape"),
    "a gradient that is not a number": (
        SquareRoot, None, {}, NonFiniteError,
        "finite at iteration 0 of the probe, but the gradient is not, in 1 of 3 layers: conv1. Look",
    ),
    "a loss that is not a number": (
        Residual, None, {"loss": lambda p, y: p.sum() / 0}, NonFiniteError,
        r"the loss is (-?inf|nan) at iteration 0 of the probe\. No update came before: check data and loss\.$",
    ),
    "a loss times 0": (
        Residual, None, {"loss": lambda p, y: 0 * F.cross_entropy(p, y)}, ConfigError,
        "no gradient reaches any layer of Residual: all are exactly 0 in each of 5 iterations",
    ),
    "steps uphill": (Residual, None, {"lr": -0.1}, ConfigError, r"with lr >= 0 .*; found -0\.1"),
    "a last batch of one": (
        OneEach, [(images(1), labels(1))], {}, LayerError,
        r"more than one value per channel, .* a single sample\. Take larger batches, .*drop_last=True",
    ),
    "labels that are not there": (Residual, [(images(2), torch.tensor([0, 99]))], {}, ds.errors.ClassCountError, "labels"),
    "Ctrl-C in the loader": (Dropping, Interrupting(2), {}, KeyboardInterrupt, "^$"),
    "Ctrl-C in forward": (lambda: Stops("forward"), None, {}, KeyboardInterrupt, "^$"),
    "Ctrl-C in backward": (lambda: Stops("backward"), None, {}, KeyboardInterrupt, "^$"),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_named_error_and_everything_is_as_it_was(case: str, dtype: torch.dtype) -> None:
    build, data, options, error, says = BAD[case]
    model = build()
    if case != "a model without shapes":
        model = with_grads(model.to(dtype))
    model.eval()
    handle = model.register_forward_hook(lambda *_: None)
    data = batches(3) if data is None else data
    before = strict(model) if case != "a model without shapes" else None
    with pytest.raises(error, match=says):
        probe(model, data, **{"iterations": 5, "lr": 0.5} | options)
    if before:
        assert_untouched(before, strict(model))
    assert list(model._forward_hooks) == [handle.id]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_probe_leaves_the_very_bits_and_places_of_all_values(dtype: torch.dtype) -> None:
    model = with_grads(Dropping().to(dtype)).eval()
    model.conv1.weight.requires_grad_(False)
    data = batches()
    before = strict(model)
    assert probe(model, data, iterations=4, lr=0.5).iterations == 4
    assert_untouched(before, strict(model))


def test_the_time_of_a_probe_grows_as_the_layers_do() -> None:
    def seconds(layers: int) -> float:
        model = nn.Sequential(*(m for _ in range(layers) for m in (nn.Linear(4, 4), nn.ReLU())), nn.Linear(4, 2))
        before = time.process_time()
        probe(model, [(torch.randn(2, 4), torch.tensor([0, 1]))], iterations=1)
        return time.process_time() - before

    seconds(2)
    assert seconds(1500) < 12 * min(seconds(300) for _ in range(2))  # a square would be 25 times as long
