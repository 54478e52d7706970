"""The probe: the gradients a hand-written loop sees, the two rules, and a model that is as it was."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from deepsup.errors import ConfigError, DatasetError, LayerError, NonFiniteError
from deepsup.probes import LayerGradient, Probe, probe

from .small_nets import CLASSES, Plain, Residual, images, labels, mlp
from .test_traces import Branchy, assert_untouched, snapshot, with_grads


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    return [(images(4), labels(4)) for _ in range(count)]


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
        NonFiniteError, match=r"the loss is (nan|inf) at iteration \d+ of the probe. Lower lr \(now 1e\+12\)"
    ):
        probe(model, data, iterations=10, lr=1e12)
    assert_untouched(before, snapshot(model))


def test_a_half_precision_model_is_averaged_in_float32() -> None:
    # 2^-9 times 4096 weights: a mean taken in bfloat16 has 8 bits and comes out as a round number.
    model, data = Plain().bfloat16(), [(x.bfloat16(), y) for x, y in batches(1)]
    rows = probe(model, data, iterations=1, lr=0).rows
    twin = copy.deepcopy(model).train()
    F.cross_entropy(twin(data[0][0]), data[0][1]).backward()
    for row in rows:
        grad = twin.get_submodule(row.layer).weight.grad
        assert row.mean == float(grad.float().abs().mean())
    assert any(r.mean != float(torch.tensor(r.mean).bfloat16()) for r in rows)


def hand_made(*means: float) -> Probe:
    """Layers a, b, c, ... with these mean gradients; the last is the classifier, behind every tap."""
    names = "abcdefgh"[: len(means)]
    rows = [
        LayerGradient(n, f"tap_{n}" if i < len(means) - 1 else None, (i + 1) / len(means), (m / 2, 3 * m / 2))
        for i, (n, m) in enumerate(zip(names, means, strict=True))
    ]
    return Probe("Net", tuple(rows), 2)


@pytest.mark.parametrize(
    ("means", "threshold", "found"),
    [
        ((1e-9, 1e-8, 5e-8, 1e-3, 1e-2), 1e-7, ["tap_c"]),  # the deepest that vanished
        ((1e-9, 1e-3, 1e-9, 1e-3, 1e-2), 1e-7, ["tap_c"]),
        ((1e-9, 1e-3, 1e-2), 1e-7, ["tap_a"]),
        ((1e-7, 1e-3, 1e-2), 1e-7, []),  # under, not at
        ((1e-6, 1e-3, 1e-2), 1e-7, []),
        ((1e-6, 1e-3, 1e-2), 1e-2, ["tap_b"]),
        ((1.0, 1.0, 1e-9), 1e-7, []),  # after the classifier there is nothing to supervise
    ],
)
def test_the_papers_rule(means: tuple[float, ...], threshold: float, found: list[str]) -> None:
    assert hand_made(*means).recommend("threshold", threshold=threshold) == found
    if threshold == 1e-7:
        assert hand_made(*means).recommend() == found


@pytest.mark.parametrize(
    ("means", "factor", "found"),
    [
        ((1 / 512, 1 / 64, 1 / 8, 1.0, 2.0), 8, ["tap_b"]),  # below 1/8, not at it; then below 1/8 of that
        ((9e-7, 1e-5, 9e-5, 1e-3, 1e-2), 10, ["tap_a", "tap_c"]),
        ((1e-8, 1e-5, 1e-5, 1e-5, 1e-2), 10, ["tap_a"]),
        ((1e-4, 2e-4, 3e-4, 1e-3, 1e-2), 10, []),
        ((1e-4, 2e-4, 3e-4, 1e-3, 1e-2), 2, ["tap_a", "tap_c"]),
        ((0.0, 0.0, 1.0, 1.0), 10, ["tap_b"]),
        ((1.0, 1e-9), 10, []),
        ((1.0,), 10, []),
    ],
)
def test_the_relative_rule(means: tuple[float, ...], factor: float, found: list[str]) -> None:
    assert hand_made(*means).recommend("drop", factor=factor) == found


def test_rules_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"the probe has no rule 'median'\. Rules: 'threshold'"):
        hand_made(1.0, 1.0).recommend("median")
    for factor in (1.0, 0.0, float("nan")):
        with pytest.raises(ConfigError, match="needs a factor above 1"):
            hand_made(1.0, 1.0).recommend("drop", factor=factor)


def test_a_probe_prints_as_a_table() -> None:
    lines = str(hand_made(5e-8, 2e-4, 1e-2, 2e-2)).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "Net: mean |gradient| of each layer's weights, 2 iterations, top loss only",
        "layer depth gradient tap after",
        "a 25% 5.0e-08 tap_a",
        "b 50% 2.0e-04 tap_b",
        "c 75% 1.0e-02 tap_c",
        "d 100% 2.0e-02 -",
        "at=['tap_a'] by rule 'threshold'",
        "at=['tap_a', 'tap_b'] by rule 'drop'",
    ]
    assert hand_made(1.0, 2.0).to_dict() == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize("kind", [Plain, Residual], ids=["short names", "long names"])
def test_the_columns_of_a_probe_stand_under_their_heads(kind: type[nn.Module]) -> None:
    seen = probe(kind(), batches(1), iterations=1) if kind is Residual else hand_made(5e-8, 2e-4, 1e-2, 2e-2)
    head, *rows = str(seen).splitlines()[1 : 2 + len(seen.rows)]
    for line, row in zip(rows, seen.rows, strict=True):
        assert line.index(row.layer) == head.index("layer")
        assert line.rindex(row.tap or "-") == head.index("tap after")


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
