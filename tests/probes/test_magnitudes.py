"""Magnitudes: exact where they are said to be, near elsewhere, whatever the memory layout, and without copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from deepsup.probes.magnitudes import CHUNK, EXACT, SAMPLE, Magnitudes, Meter, average

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda t: t,
    "channels last": lambda t: t.to(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(0, 3),
    "strided": lambda t: torch.stack([t, t], -1)[..., 0],
    "expanded": lambda t: t[:1].expand(7, *t.shape[1:]),
    "half": lambda t: t.half(),
    "double": lambda t: t.double(),
}


def measure(tensor: Tensor, threshold: float = 0.5, **options: Any) -> Magnitudes:
    meter = Meter(threshold)
    meter.add(("weight", "a"), tensor, **options)
    meter.step()
    return meter.read()["weight", "a"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (4, 8, 8, 16), (1, 1, 1, 1)])
def test_small_tensors_are_measured_exactly(layout: str, shape: tuple[int, ...]) -> None:
    tensor = LAYOUTS[layout](torch.randn(shape))
    if tensor.numel() > EXACT:
        tensor = tensor[:3]
    values = tensor.double().abs().flatten()
    found = measure(tensor)
    assert found.mean == pytest.approx([float(values.mean())], rel=1e-5)
    assert found.median == pytest.approx([float(values.quantile(0.5))], rel=1e-5)
    assert found.p5 == pytest.approx([float(values.quantile(0.05))], rel=1e-5)
    assert found.vanished == pytest.approx([float((values < 0.5).double().mean())], rel=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_of_large_tensors_the_mean_is_exact_and_the_rest_is_near(layout: str) -> None:
    tensor = LAYOUTS[layout](torch.randn(9, 30, 50, 41) ** 3)
    assert tensor.numel() > CHUNK
    values = tensor.double().abs().flatten()
    found = measure(tensor)
    assert found.mean == pytest.approx([float(values.mean())], rel=1e-5)
    ranks = [float((values < estimate[0]).double().mean()) for estimate in (found.median, found.p5)]
    assert ranks == pytest.approx([0.5, 0.05], abs=0.09)
    assert found.vanished == pytest.approx([float((values < 0.5).double().mean())], abs=0.09)


def test_the_mean_of_millions_of_values_has_its_digits() -> None:
    tensor = torch.rand(2048, 2048) + 1  # added one by one in float32, this is off in the fourth digit
    assert measure(tensor).mean == pytest.approx([float(tensor.double().mean())], rel=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_mean_alone_is_exact_for_small_tensors_and_near_for_large_ones(layout: str) -> None:
    for shape, error in (((3, 4, 5, 6), 1e-5), ((9, 30, 50, 41), 0.15)):
        tensor = LAYOUTS[layout](torch.randn(shape))
        meter = Meter(0.5)
        meter.add_mean(("activation", "a"), tensor)
        meter.step()
        found = meter.read()["activation", "a"].mean
        assert found == pytest.approx([float(tensor.double().abs().mean())], rel=error)


class Largest(TorchDispatchMode):
    """The largest tensor that an operation made anew."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **kwargs or {})
        for tensor in [out] if isinstance(out, Tensor) else []:
            if all(tensor.data_ptr() != a.data_ptr() for a in args if isinstance(a, Tensor)):
                self.numel = max(self.numel, tensor.numel() if tensor._base is None else 0)
        return out


@pytest.mark.parametrize("layout", ["plain", "channels last", "transposed", "strided", "expanded"])
def test_no_large_tensor_is_copied(layout: str) -> None:
    tensor = LAYOUTS[layout](torch.randn(2, 600, 40, 50))
    meter = Meter(0.5)
    with Largest() as largest:
        meter.add(("weight", "a"), tensor)
    assert SAMPLE <= largest.numel <= 2 * CHUNK < tensor.numel()


def test_the_same_positions_are_looked_at_in_every_step_and_no_random_number_is_drawn() -> None:
    tensor, state = torch.randn(100, 100), torch.get_rng_state()
    meter = Meter(0.5)
    for _ in range(3):
        meter.add(("weight", "a"), tensor)
        meter.step()
    assert len(set(meter.read()["weight", "a"].median)) == 1
    assert measure(tensor).median[0] == meter.read()["weight", "a"].median[0]
    assert torch.equal(torch.get_rng_state(), state)


def test_several_tensors_of_one_iteration_count_as_one() -> None:
    a, b = torch.randn(10), torch.randn(30, 2)
    meter = Meter(0.5)
    meter.add(("output", "a"), a, calls=2)
    meter.add(("output", "a"), b, calls=2)
    meter.step()
    assert meter.read()["output", "a"] == measure(torch.cat([a, b.flatten()]))


def test_tensors_of_many_sizes_keep_their_names() -> None:
    meter = Meter(0.5)
    tensors = {f"layer{i}": torch.full((n,), float(i)) for i, n in enumerate((3, 5000, 3, 7, 1, 6000, 7))}
    for _ in range(2):
        for name, tensor in tensors.items():
            meter.add(("weight", name), tensor)
            meter.add_mean(("activation", name), 10 * tensor)
        meter.step()
    found = meter.read()
    for i, name in enumerate(tensors):
        assert found["weight", name] == Magnitudes((i, i), (i, i), (i, i), (float(i < 0.5),) * 2)
        assert found["activation", name].mean == (10 * i, 10 * i)


def test_what_an_iteration_lacks_is_zero() -> None:
    meter = Meter(0.5)
    meter.add(("weight", "a"), torch.ones(3))
    meter.step()
    meter.step()
    meter.add(("weight", "b"), torch.ones(3))
    meter.step()
    assert meter.read()["weight", "a"] == Magnitudes((1, 0, 0), (1, 0, 0), (1, 0, 0), (0, 1, 1))
    assert meter.read()["weight", "b"].mean == (0, 0, 1)
    assert Meter(0.5).read() == {}


def test_sparse_gradients_are_measured_with_their_zeros() -> None:
    dense = torch.zeros(10, 4)
    dense[3] = 2
    assert measure(dense.to_sparse()) == measure(dense)
    assert measure(dense).mean == (0.2,)


def test_what_is_not_a_number_shows_in_the_mean() -> None:
    for bad in (torch.nan, torch.inf):
        assert not torch.tensor(measure(torch.tensor([1.0, bad])).mean).isfinite()


def test_the_average_of_nothing_is_not_a_number() -> None:
    assert average((1.0, 2.0)) == 1.5
    assert average(()) != average(())
